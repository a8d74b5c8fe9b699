"""The pipeline that Kubeflow gets is the graph of dvc.yaml, with the resources of params.yaml; `make test-kfp`."""

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import yaml

from components.config.params import load_params
from components.errors import BadInput
from components.orchestration.images import own_commit
from components.orchestration.kubeflow import CONFIG, SECRET, Cluster, export, in_order, read_labels
from components.pipeline import graph
from components.pipeline.graph import edges, stage_names

PROFILE = "wan2.1-14b"  # the one whose stages want unlike resources


@pytest.fixture(autouse=True)
def graph_of_the_profile(monkeypatch):
    """The profile has a stage that the default one lacks: judge_reward."""
    params = yaml.safe_load(Path(f"infra/profiles/{PROFILE}.yaml").read_text())
    monkeypatch.setattr(graph, "_params", lambda: params)


def compiled(folder: Path, cluster: Cluster | None = None) -> tuple[dict, dict]:
    """(pipeline, platform): the two documents of a pipeline, compiled in a folder with the profile in place, as `reelign
    profile` puts it."""
    shutil.copy("dvc.yaml", folder)
    shutil.copy(f"infra/profiles/{PROFILE}.yaml", folder / "params.yaml")
    (folder / ".venv-kfp").symlink_to(Path(".venv-kfp").absolute())
    with contextlib.chdir(folder):
        export(Path("pipeline.yaml"), cluster)
        return tuple(yaml.safe_load_all(Path("pipeline.yaml").read_text()))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("kfp"))


@pytest.fixture(scope="module")
def settings():
    return load_params(f"infra/profiles/{PROFILE}.yaml").orchestration


def task_id(name: str) -> str:
    return name.replace("@", "-").replace("_", "-")


def executor(pipeline: tuple[dict, dict], name: str) -> tuple[dict, dict]:
    """The container of a stage and what Kubernetes is to do for it."""
    first, platform = pipeline
    label = f"exec-{task_id(name)}"
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
    return first["deploymentSpec"]["executors"][label]["container"], kubernetes


@pytest.mark.kfp
def test_edges_are_those_of_the_graph(pipeline):
    tasks = pipeline[0]["root"]["dag"]["tasks"]
    assert {task["taskInfo"]["name"] for task in tasks.values()} == set(stage_names())
    names = {task_id: task["taskInfo"]["name"] for task_id, task in tasks.items()}
    found = {(names[before], names[after]) for after in tasks for before in tasks[after].get("dependentTasks", [])}
    assert found == set(edges()) and len(found) > 20


@pytest.mark.kfp
def test_a_task_runs_its_stage_in_the_image(pipeline, settings):
    for name in stage_names():
        container, _ = executor(pipeline, name)
        assert container["command"] == ["reelign", "run-stage", name]
        assert container["image"] == f"{settings.image}:{own_commit()}"
        task = pipeline[0]["root"]["dag"]["tasks"][task_id(name)]
        assert not task["cachingOptions"].get("enableCache", False), "DVC knows what has to run again"
        assert task["retryPolicy"]["maxRetryCount"] == settings.resources_of(name).retries
        assert task["retryPolicy"]["backoffDuration"] == f"{settings.retry_delay:g}s"


@pytest.mark.kfp
def test_resources_are_those_that_airflow_asks_for(pipeline, settings):
    assert settings.resources_of("align@dpo").gpu and not settings.resources_of("pairs").gpu
    for name in stage_names():
        container, kubernetes = executor(pipeline, name)
        wanted, asked = settings.resources_of(name), container["resources"]
        assert float(asked["resourceCpuLimit"]) == wanted.cpu and asked["resourceCpuRequest"] == asked["resourceCpuLimit"]
        assert asked["resourceMemoryLimit"] == asked["resourceMemoryRequest"] == wanted.memory
        accelerator = asked.get("accelerator", {"resourceCount": "0"})
        assert int(accelerator["resourceCount"]) == wanted.gpu
        assert accelerator.get("resourceType", "nvidia.com/gpu") == "nvidia.com/gpu"
        assert kubernetes.get("nodeSelector", {"labels": {}})["labels"] == wanted.node_selector
        tolerations = [toleration.model_dump(exclude_none=True) for toleration in wanted.tolerations]
        assert kubernetes.get("tolerations", []) == tolerations
        [shared] = [mount for mount in kubernetes["emptyDirMounts"] if mount["mountPath"] == "/dev/shm"]
        assert shared["medium"] == "Memory" and shared["sizeLimit"] == wanted.shared_memory


@pytest.mark.kfp
def test_credentials_are_references(pipeline, settings):
    for name in stage_names():
        container, kubernetes = executor(pipeline, name)
        assert "env" not in container
        [secret] = kubernetes["secretAsEnv"]
        assert secret["secretName"] == settings.kubernetes.secret
        assert {key["secretKey"] for key in secret["keyToEnv"]} == set(SECRET)
        [config] = kubernetes["configMapAsEnv"]
        assert config["configMapName"] == settings.kubernetes.config_map
        assert {key["configMapKey"] for key in config["keyToEnv"]} == set(CONFIG)
        assert kubernetes["securityContext"]["runAsNonRoot"]
        assert {"/work", "/tmp", "/dev/shm"} == {mount["mountPath"] for mount in kubernetes["emptyDirMounts"]}


@pytest.mark.kfp
def test_a_cluster_has_its_own_gpus_nodes_and_retries(tmp_path, settings):
    own = Cluster(
        "nvidia.com/mig-3g.40gb", {"pool": "reelign"}, {"cloud.google.com/gke-accelerator": "nvidia-l4"}, retries=0
    )
    pipeline = compiled(tmp_path, own)
    for name in ("pairs", "align@dpo"):
        container, kubernetes = executor(pipeline, name)
        wanted = settings.resources_of(name)
        labels = wanted.node_selector | own.nodes | (own.gpu_nodes if wanted.gpu else {})
        assert kubernetes["nodeSelector"]["labels"] == labels
        if wanted.gpu:
            assert container["resources"]["accelerator"]["resourceType"] == own.gpu_resource
        assert "retryPolicy" not in pipeline[0]["root"]["dag"]["tasks"][task_id(name)]


@pytest.mark.parametrize("label", ["pool", "=gpus", "pool=a b", "po ol=gpus", "pool=gpus\n"])
def test_a_label_that_no_node_can_have_is_refused_by_its_option(label):
    assert read_labels("--node", ["a.b/c=d", "pool="]) == {"a.b/c": "d", "pool": ""}
    with pytest.raises(BadInput, match=r"^--node"):
        read_labels("--node", [label])
    with pytest.raises(BadInput, match="and before it pool=a"):
        read_labels("--node", ["pool=a", "pool=b"])


def test_config_map_and_secret_are_those_of_the_manifests():
    template = Path("infra/helm/reelign/templates/config.yaml").read_text()
    kubernetes = load_params().orchestration.kubernetes
    assert re.search(r"^  name: (\S+)", template, re.MULTILINE)[1] == kubernetes.config_map
    assert set(CONFIG) <= set(re.findall(r"^  ([A-Z0-9_]+): ", template, re.MULTILINE))
    documented = Path("infra/helm/reelign/README.md").read_text()
    assert all(f"| `{kubernetes.secret}` | `{key}` |" in documented for key in SECRET)


def test_stages_come_after_what_they_wait_for():
    before = {name: [earlier for earlier, later in edges() if later == name] for name in stage_names()}
    order = in_order({name: {"after": after} for name, after in reversed(before.items())})
    assert sorted(order) == sorted(stage_names())
    assert all(order.index(earlier) < order.index(later) for earlier, later in edges())


def test_without_kfp_it_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="make kfp"):
        export(tmp_path / "pipeline.yaml", python=tmp_path / "python")
    with pytest.raises(BadInput, match=r"must end in \.yaml"):
        export(tmp_path / "pipeline.json")
    assert not list(tmp_path.iterdir())
