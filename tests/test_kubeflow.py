"""The pipeline that Kubeflow gets is the graph of dvc.yaml, with the resources of params.yaml; `make test-kfp`."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from components.errors import BadInput
from components.graph import edges, stage_names
from components.kubeflow import CONFIG, PYTHON, SECRET, export, in_order

RESOURCES = {
    "cpu": 2, "memory": "4Gi", "gpu": 0, "shared_memory": "1Gi", "retries": 2, "node_selector": {}, "tolerations": [],
}  # fmt: skip
ON_GPU = {
    **RESOURCES, "cpu": 8, "memory": "96Gi", "gpu": 4, "node_selector": {"reelign/pool": "gpu-training"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
}  # fmt: skip


def specification() -> dict:
    before = {name: [earlier for earlier, later in edges() if later == name] for name in stage_names()}
    stages = {
        name: {"after": after, "resources": ON_GPU if name == "align@dpo" else RESOURCES} for name, after in before.items()
    }
    return {"image": "registry.example/reelign-pipeline:1", "stages": stages}


def compiled(spec: dict, out: Path) -> tuple[dict, dict]:
    """(pipeline, platform): the two documents of a compiled pipeline."""
    command = [PYTHON.absolute(), "-m", "components.kubeflow", out]
    done = subprocess.run(command, input=json.dumps(spec), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(out.read_text()))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return compiled(specification(), tmp_path_factory.mktemp("kfp") / "pipeline.yaml")


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
def test_a_task_runs_its_stage_in_the_image(pipeline):
    for name in stage_names():
        container, _ = executor(pipeline, name)
        assert container["command"] == ["reelign", "run-stage", name]
        assert container["image"] == "registry.example/reelign-pipeline:1"
        task = pipeline[0]["root"]["dag"]["tasks"][task_id(name)]
        assert not task["cachingOptions"].get("enableCache", False), "DVC knows what has to run again"
        assert task["retryPolicy"]["maxRetryCount"] == 2


@pytest.mark.kfp
def test_resources_are_asked_for(pipeline):
    container, kubernetes = executor(pipeline, "align@dpo")
    assert container["resources"]["resourceCpuLimit"] == "8" and container["resources"]["resourceMemoryLimit"] == "96Gi"
    assert container["resources"]["accelerator"] == {
        "count": "4", "type": "nvidia.com/gpu", "resourceCount": "4", "resourceType": "nvidia.com/gpu",
    }  # fmt: skip
    assert kubernetes["nodeSelector"]["labels"] == {"reelign/pool": "gpu-training"}
    assert kubernetes["tolerations"] == ON_GPU["tolerations"]
    container, kubernetes = executor(pipeline, "pairs")
    assert container["resources"]["resourceMemoryRequest"] == "4Gi" and "accelerator" not in container["resources"]
    assert "nodeSelector" not in kubernetes and "tolerations" not in kubernetes


@pytest.mark.kfp
def test_credentials_are_references(pipeline):
    for name in stage_names():
        container, kubernetes = executor(pipeline, name)
        assert "env" not in container
        [secret] = kubernetes["secretAsEnv"]
        assert secret["secretName"] == "reelign-s3" and {key["secretKey"] for key in secret["keyToEnv"]} == set(SECRET)
        [config] = kubernetes["configMapAsEnv"]
        assert config["configMapName"] == "reelign" and {key["configMapKey"] for key in config["keyToEnv"]} == set(CONFIG)
        assert kubernetes["securityContext"]["runAsNonRoot"]
        assert {"/work", "/tmp", "/dev/shm"} == {mount["mountPath"] for mount in kubernetes["emptyDirMounts"]}


def test_config_map_and_secret_are_those_of_the_manifests():
    generator = yaml.safe_load(Path("infra/kubernetes/base/kustomization.yaml").read_text())["configMapGenerator"][0]
    assert generator["name"] == "reelign" and set(CONFIG) <= {literal.split("=")[0] for literal in generator["literals"]}
    documented = Path("infra/kubernetes/README.md").read_text()
    assert all(f"| `reelign-s3` | `{key}` |" in documented for key in SECRET)


def test_stages_come_after_what_they_wait_for():
    order = in_order(specification()["stages"])
    assert sorted(order) == sorted(stage_names())
    assert all(order.index(earlier) < order.index(later) for earlier, later in edges())


def test_without_kfp_it_says_what_to_do(tmp_path):
    with pytest.raises(BadInput, match="make kfp"):
        export(tmp_path / "pipeline.yaml", python=tmp_path / "python")
    with pytest.raises(BadInput, match=r"ends in \.yaml"):
        export(tmp_path / "pipeline.json")
    assert not list(tmp_path.iterdir())
