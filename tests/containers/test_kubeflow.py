"""The pipeline for Kubeflow, whole, on the smoke profile: kfp's local runner, a container of our image a stage, which share
nothing but an S3 server and MLflow. Its outputs are those of `dvc repro`."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from components.orchestration.kubeflow import Cluster, export
from components.pipeline import graph
from components.runtime.termination import end
from tests.containers.engine import REPOSITORY
from tests.curation.s3_server import ENVIRONMENT
from tests.dags.behind_password import mlflow

pytestmark = pytest.mark.kubeflow
RUN = "kubeflow-1"
PATIENCE = 3600  # seconds for a run of the whole graph
SMOKE = REPOSITORY / "infra/profiles/smoke.yaml"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # two things run side by side; sums have one order in both


@pytest.fixture(scope="module")
def stages() -> list[str]:
    """The smoke profile's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_params", lambda: yaml.safe_load(SMOKE.read_text()))
        return graph.stage_names()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    """Compiled for the smoke profile; a failure is final."""
    folder = tmp_path_factory.mktemp("kubeflow")
    shutil.copy("dvc.yaml", folder)
    shutil.copy(SMOKE, folder / "params.yaml")
    with contextlib.chdir(folder):
        export(Path("pipeline.yaml"), Cluster(retries=0), REPOSITORY / ".venv-kfp/bin/python")
    return folder / "pipeline.yaml"


@pytest.fixture(scope="module")
def tracking(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address of an MLflow server, and its database."""
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow(folder, "hush", REPOSITORY / ".venv-ml/bin/mlflow", folder / "log") as url:
        yield url, folder / "mlflow.db"


@pytest.fixture(scope="module")
def variables(s3, tracking) -> dict[str, str]:
    """What pods get of the config map, the secret and the run."""
    config = {"REELIGN_REMOTE": "s3://reelign/kubeflow", "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3.port}"}
    return ENVIRONMENT | config | {"MLFLOW_TRACKING_URI": tracking[0], "AIRFLOW_CTX_DAG_RUN_ID": RUN} | ONE_THREAD


def begin(engine, pipeline: Path, variables: dict[str, str], **arguments: str) -> subprocess.Popen:
    """A run of the pipeline."""
    command = [REPOSITORY / ".venv-kfp/bin/python", "-m", "tests.containers.kfp_local", pipeline, pipeline.parent / "root"]
    environment = os.environ | {"DOCKER_HOST": engine.host, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [*command, json.dumps(arguments)], cwd=pipeline.parent, env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(json.dumps(variables))
    process.stdin.close()
    process.stdin = None
    return process


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> Path:
    """A clone of HEAD where `dvc repro` ran on the smoke profile."""
    folder = tmp_path_factory.mktemp("reproduced") / "checkout"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
    shutil.copy(SMOKE, folder / "params.yaml")
    return folder


@pytest.fixture(scope="module")
def whole(engine, pipeline_image, pipeline, variables, reproduced) -> str:
    """What a whole run printed. `dvc repro` runs beside it."""
    begun = time.monotonic()
    bin_folder = REPOSITORY / ".venv-ml/bin"
    own = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(reproduced)} | ONE_THREAD
    log = reproduced.with_name("repro.log")
    with open(log, "w") as stream:
        repro = subprocess.Popen(
            [bin_folder / "dvc", "repro"], cwd=reproduced, env=os.environ | own, stdout=stream, stderr=stream
        )
    run = begin(engine, pipeline, variables, profile="smoke")
    try:
        said, _ = run.communicate(timeout=PATIENCE)
        print(f"the run took {time.monotonic() - begun:.0f} s")
        assert repro.wait(PATIENCE) == 0, log.read_text()[-4000:]
        return said
    finally:
        for process in (run, repro):
            if process.poll() is None:
                end(psutil.Process(process.pid), signal.SIGTERM, 30)
                process.wait()


def test_the_whole_graph_is_green(whole, stages, tracking):
    assert "SUCCESS" in whole.rstrip().splitlines()[-1], whole[-6000:]
    for name in stages:
        assert whole.count(f"[{name}] finished; kept in s3://reelign/kubeflow") == 1, whole[-6000:]
    with contextlib.closing(sqlite3.connect(tracking[1])) as base:
        runs = base.execute("select count(*) from tags where key = 'airflow.run_id' and value = ?", [RUN]).fetchone()[0]
    assert runs == len(stages) + 1, "a run a stage below one of the pipeline"


def outputs(entry: dict) -> dict[str, str]:
    return {out["path"]: out["md5"] for out in entry["outs"]}


def test_outputs_are_those_of_dvc_repro(whole, stages, s3, reproduced):
    ours = yaml.safe_load((reproduced / "dvc.lock").read_text())["stages"]
    bucket = s3.client()
    found, metrics = {}, 0
    for name in stages:
        key = f"kubeflow/executions/{RUN}/{name}.yaml"
        theirs = outputs(yaml.safe_load(bucket.get_object(Bucket="reelign", Key=key)["Body"].read()))
        assert theirs.keys() == outputs(ours[name]).keys()
        found |= {path: theirs[path] == digest for path, digest in outputs(ours[name]).items()}
        metrics += sum(path.startswith("metrics/") for path in theirs)
    other = sorted(path for path, same in found.items() if not same)
    print(f"{sum(found.values())} of {len(found)} outputs are equal; others: {', '.join(other) or 'none'}")
    assert not [path for path in other if path.startswith("metrics/")] and metrics > 5


def test_a_failing_component_stops_the_run_with_the_message_of_its_stage(engine, pipeline_image, pipeline, variables):
    run = begin(engine, pipeline, variables | {"AIRFLOW_CTX_DAG_RUN_ID": "kubeflow-2"}, profile="nowhere")
    said, _ = run.communicate(timeout=300)
    assert run.returncode != 0 and said.count("infra/profiles/nowhere.yaml: no such profile at commit") == 1, said
    assert said.count("Executing task") == 1 and "FAILURE" in said, said
