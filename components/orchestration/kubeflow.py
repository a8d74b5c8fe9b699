"""`reelign export-kfp`: the graph of dvc.yaml as a pipeline of Kubeflow Pipelines, one container component per stage.

The second target besides Airflow: the same image, the same `reelign run-stage NAME`, the same resources of params.yaml
(`orchestration`), the same config map and secret as infra/helm/reelign. State passes through the DVC remote there too, so
that components share nothing but their order.

kfp needs older libraries than the rest of this project, and so a separate environment (`make kfp`). This file runs in both:
`export` here, and `python -m components.orchestration.kubeflow OUT` there, with the specification as JSON on its standard
input.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from components.errors import BadInput
from components.files.atomic import put_in_place
from components.orchestration.images import image_of, own_commit
from components.pipeline.graph import edges, stage_names

PYTHON = Path(".venv-kfp/bin/python")
CONFIG = ("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "REELIGN_REMOTE", "MLFLOW_TRACKING_URI")  # of the config map
SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")  # of the secret
USER = 10001  # of our images
EMPTY = {"work": "/work", "tmp": "/tmp"}  # work trees and cache (REELIGN_WORK of the image), scratch; one per pod

# A label of Kubernetes' nodes: KEY or PREFIX/KEY, and a value that may be empty.
PART = r"[A-Za-z0-9](?:[-\w.]{0,61}[A-Za-z0-9])?"
LABEL = re.compile(rf"((?:[a-z0-9](?:[-a-z0-9.]{{0,251}}[a-z0-9])?/)?{PART})=({PART})?", re.ASCII)

Spec = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """How a cluster differs from params.yaml: the name of its resource for GPUs, labels of the nodes for all stages (a node
    pool) and for those with GPUs (a type of GPU), and retries of every stage (None: those of params.yaml)."""

    gpu_resource: str = "nvidia.com/gpu"
    nodes: dict[str, str] = field(default_factory=dict)
    gpu_nodes: dict[str, str] = field(default_factory=dict)
    retries: int | None = None

    def change(self, resources: dict[str, Any]) -> dict[str, Any]:
        """The resources of a stage on this cluster."""
        labels = self.nodes | (self.gpu_nodes if resources["gpu"] else {})
        retries = resources["retries"] if self.retries is None else self.retries
        return resources | {"node_selector": resources["node_selector"] | labels, "retries": retries}


def read_labels(option: str, labels: Sequence[str]) -> dict[str, str]:
    """["pool=gpus"] -> {"pool": "gpus"}; BadInput names the option where one is no label, or a key has two values."""
    found: dict[str, str] = {}
    for label in labels:
        match = LABEL.fullmatch(label)
        if match is None:
            raise BadInput(option, f"'{label}' is no label of a node, KEY=VALUE")
        key, value = match[1], match[2] or ""
        if found.setdefault(key, value) != value:
            raise BadInput(option, f"'{label}', and before it {key}={found[key]}", key=key)
    return found


def export(out: Path, cluster: Cluster | None = None, python: Path = PYTHON) -> None:
    """Write the pipeline to `out` (.yaml), complete or not at all; BadInput where kfp's environment is missing."""
    if out.suffix not in (".yaml", ".yml"):
        raise BadInput(out, "the name of a compiled pipeline must end in .yaml")
    command = [interpreter(python), "-m", "components.orchestration.kubeflow", out]
    done = subprocess.run(command, input=json.dumps(specification(cluster or Cluster())), capture_output=True, text=True)
    if done.returncode:
        raise BadInput(python, f"kfp could not compile the pipeline:\n{done.stderr}")


def interpreter(python: Path = PYTHON) -> Path:
    """The absolute path of kfp's interpreter; BadInput where it is missing."""
    if not python.exists():
        raise BadInput(python, "missing; `make kfp` makes the environment with kfp")
    return python.absolute()


def specification(cluster: Cluster) -> Spec:
    """The specification to compile: image, and by stage the stages before it and its resources in params.yaml."""
    from components.config.params import load_params

    orchestration = load_params().orchestration
    for name in stage_names():
        if orchestration.resources_of(name).nodes > 1:
            key = f"orchestration.stages.{name}.nodes"
            raise BadInput("params.yaml", "Kubeflow's pipeline starts one pod for a stage; Airflow starts several", key=key)
    before: dict[str, list[str]] = {name: [] for name in stage_names()}
    for earlier, later in edges():
        before[later].append(earlier)
    return {
        "image": image_of(orchestration.image, own_commit()),
        "config_map": orchestration.kubernetes.config_map,
        "secret": orchestration.kubernetes.secret,
        "gpu_resource": cluster.gpu_resource,
        "retry_delay": orchestration.retry_delay,
        "stages": {
            name: {"after": after, "resources": cluster.change(orchestration.resources_of(name).model_dump())}
            for name, after in before.items()
        },
    }


def compile_pipeline(spec: Spec, out: Path) -> None:
    """Write the pipeline of `spec` to `out`. Runs in kfp's environment."""
    from kfp import compiler, dsl  # pyright: ignore[reportMissingImports]

    @dsl.pipeline(name="reelign", description="Human preferences in, a better video generator out (dvc.yaml)")
    def reelign(profile: Optional[str] = None):  # noqa: UP045 - kfp does not read `str | None`
        tasks: dict[str, dsl.PipelineTask] = {}
        for name in in_order(spec["stages"]):
            tasks[name] = add_stage(name, spec, profile).after(
                *(tasks[earlier] for earlier in spec["stages"][name]["after"])
            )

    partial = out.with_name(f".{out.name}.{os.getpid()}.yaml")
    try:
        compiler.Compiler().compile(reelign, str(partial))
        put_in_place(partial, out)
    finally:
        partial.unlink(missing_ok=True)


def add_stage(name: str, spec: Spec, profile: Any) -> Any:
    """The task of a stage in the pipeline being traced."""
    from kfp import dsl, kubernetes  # pyright: ignore[reportMissingImports]

    def stage(profile: Optional[str] = None):  # noqa: UP045 - kfp does not read `str | None`
        return dsl.ContainerSpec(
            image=spec["image"],
            command=["reelign", "run-stage", name],
            args=[dsl.IfPresentPlaceholder(input_name="profile", then=["--profile", profile])],
        )

    stage.__name__ = re.sub(r"\W", "_", name)
    task = dsl.container_component(stage)(profile=profile)
    task.set_display_name(name)
    task.set_caching_options(False)  # DVC decides what runs again
    resources = spec["stages"][name]["resources"]
    task.set_cpu_request(str(resources["cpu"])).set_cpu_limit(str(resources["cpu"]))
    task.set_memory_request(resources["memory"]).set_memory_limit(resources["memory"])
    if resources["gpu"]:
        task.set_accelerator_type(spec["gpu_resource"]).set_accelerator_limit(resources["gpu"])
    if resources["retries"]:
        task.set_retry(num_retries=resources["retries"], backoff_duration=f"{round(spec['retry_delay'])}s", backoff_factor=1)
    for key, value in resources["node_selector"].items():
        kubernetes.add_node_selector(task, key, value)
    for toleration in resources["tolerations"]:
        kubernetes.add_toleration(task, **toleration)
    for volume, path in EMPTY.items():
        kubernetes.empty_dir_mount(task, volume, path)
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=resources["shared_memory"])
    kubernetes.use_config_map_as_env(task, spec["config_map"], {key: key for key in CONFIG})
    kubernetes.use_secret_as_env(task, spec["secret"], {key: key for key in SECRET})
    # Groups the stages of a run in MLflow and in the remote, for every scheduler (components/pipeline/tracking.py).
    kubernetes.use_field_path_as_env(task, "AIRFLOW_CTX_DAG_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    return task


def in_order(stages: Spec) -> list[str]:
    """Names of stages in topological order."""
    order: list[str] = []
    while len(order) < len(stages):
        order += [name for name in stages if name not in order and set(stages[name]["after"]) <= set(order)]
    return order


if __name__ == "__main__":
    compile_pipeline(json.load(sys.stdin), Path(sys.argv[1]))
