"""Runners of a task's `reelign` command: a process, a container or a pod.

Section `orchestration` of params.yaml selects the runner and sets resources. A stage's command is `run-stage NAME`
(components/pipeline/run_stage.py). The settings of a DAG run (commit, profile, stages to force, ...) are environment
variables in all three, so that the command is the same everywhere; secrets are passed by name only.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator

from components.config.operation import LabellingParams, OrchestrationParams, ResourcesParams
from components.orchestration.images import image_of, own_commit
from components.serving.access import VARIABLE as KEY
from dags.alerts import notifier
from dags.links import MLflowRun
from dags.waiting import waiting

REPOSITORY = Path(__file__).resolve().parents[1]
USER = 10001  # of our images (docker/)
# Secrets of infra/helm/reelign with the variables that only some tasks get: the key of the server's management, and the
# token of Label Studio.
TOKEN = "LABEL_STUDIO_API_KEY"  # components/annotation/studio.py, whose libraries Airflow's environment lacks
SECRETS = {KEY: "reelign-triton", TOKEN: "reelign-label-studio"}
# What is asked of a DAG run, as templates: by its params, or by those of the DAG run before it, which the event has that
# started this one (dags/retrain.py).
EVENTS = "triggering_asset_events.values() | sum(start=[]) | map(attribute='extra') | list"
COMMIT, PROFILE = (f"params.get('{key}') or ([{{}}] + ({EVENTS}))[-1].get('{key}')" for key in ("commit", "profile"))
ASKED = {
    "AIRFLOW_CTX_DAG_RUN_ID": "{{ run_id }}",
    "REELIGN_COMMIT": f"{{{{ {COMMIT} or '' }}}}",
    "REELIGN_PROFILE": f"{{{{ {PROFILE} or '' }}}}",
}


@dataclass(frozen=True)
class Command:
    """`reelign WORDS...`, with extra environment variables (templates); `folders` are those that it works with: "live"
    and "served" of section `orchestration.serving`, "labels" of `orchestration.labelling`. Only tasks that need them get
    `secrets`, in the environment of containers and pods; a process has Airflow's environment, and the server's key beside
    its folder (components/serving/access.py)."""

    words: Sequence[str]
    resources: ResourcesParams
    environment: dict[str, str] = field(default_factory=dict)
    folders: Sequence[str] = ()
    secrets: Sequence[str] = ()
    waits: LabellingParams | None = None  # for people: exit code NO means to look again later

    def kind(self, operator: type[BaseOperator]) -> Any:
        """The operator of the runner, as one that waits if the command does."""
        if self.waits is None:
            return operator
        return waiting(operator, timedelta(minutes=self.waits.poll), timedelta(days=self.waits.patience))


def make_stage(name: str, settings: OrchestrationParams, **common: Any) -> BaseOperator:
    """The task of a stage, "align@dpo" as task "align.dpo"; `common` is passed to the operator, e.g. dag=."""
    forced = {"REELIGN_FORCE": f"{{{{ '{name}' in params.force }}}}"}
    command = Command(["run-stage", name], settings.resources_of(name), forced)
    task = make_task(name.replace("@", "."), command, settings, **common)
    task.operator_extra_links = (MLflowRun(name),)
    return task


def make_task(task_id: str, command: Command, settings: OrchestrationParams, **common: Any) -> BaseOperator:
    """The task of a command, with the runner of `settings`."""
    make = {"local": local, "docker": docker, "kubernetes": kubernetes}[settings.runner]
    common |= {
        "task_id": task_id,
        "retries": command.resources.retries,
        "retry_delay": timedelta(seconds=settings.retry_delay),
    }
    if settings.gpu_pool is not None and command.resources.gpu:
        common["pool"] = settings.gpu_pool
    if settings.alerts.notifier is not None:  # called after the last retry, with the task's context
        common["on_failure_callback"] = notifier(settings.alerts)
    return make(command, settings, common)


def source(name: str, settings: OrchestrationParams) -> str:
    """What params.yaml has for a folder: a path, a volume or a claim."""
    return settings.labelling.folder if name == "labels" else getattr(settings.serving, name)


def folder(name: str, settings: OrchestrationParams) -> str:
    """Path of a folder in a task."""
    return str(REPOSITORY / source(name, settings)) if settings.runner == "local" else f"/{name}"


def image(settings: OrchestrationParams) -> str:
    """The image of the DAG run's commit, by default this one."""
    return image_of(settings.image, f"{{{{ {COMMIT} or '{own_commit()}' }}}}")


def local(command: Command, settings: OrchestrationParams, common: dict[str, Any]) -> BaseOperator:
    """A process in the ml environment of this checkout."""
    from airflow.providers.standard.operators.bash import BashOperator

    # A task's standard input is a socket: bash takes that for a remote shell and reads ~/.bashrc, which may change PATH,
    # unless SHLVL counts a shell around it. A scheduler that a service manager started has none.
    here = {"PATH": f"{REPOSITORY}/.venv-ml/bin:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY), "SHLVL": "1"}
    return command.kind(BashOperator)(
        **common,
        bash_command=f"exec python -m components.cli.main {shlex.join(command.words)}",
        cwd=str(REPOSITORY),
        env=ASKED | command.environment | here,
        append_env=True,
    )


def docker(command: Command, settings: OrchestrationParams, common: dict[str, Any]) -> BaseOperator:
    """A container without privileges and with a read-only root; it writes to the volume `docker.work`."""
    from airflow.providers.docker.operators.docker import DockerOperator
    from docker.types import DeviceRequest, Mount

    class ContainedOperator(DockerOperator):
        """DockerOperator with a read-only root and dropped capabilities, which it has no arguments for."""

        @cached_property
        def cli(self) -> Any:
            client = self.hook.api_client
            client.create_host_config = partial(
                client.create_host_config,
                read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"], security_opt=["no-new-privileges"],
            )  # fmt: skip
            return client

    def mount(target: str, source: str) -> Mount:
        return Mount(target=target, source=source, type="bind" if source.startswith("/") else "volume")

    resources = command.resources
    private = [*settings.docker.environment, *command.secrets]
    return command.kind(ContainedOperator)(
        **common,
        image=image(settings),
        command=["reelign", *command.words],
        environment=ASKED | command.environment,
        # Values are read where the task runs and shown nowhere.
        private_environment={key: os.environ[key] for key in private if key in os.environ},
        user=f"{USER}:{USER}",
        mounts=[
            mount("/work", settings.docker.work),
            *(mount(folder(name, settings), source(name, settings)) for name in command.folders),
        ],
        mount_tmp_dir=False,
        network_mode=settings.docker.network,
        cpus=resources.cpu,
        mem_limit=in_bytes(resources.memory),
        shm_size=in_bytes(resources.shared_memory),
        device_requests=[DeviceRequest(count=resources.gpu, capabilities=[["gpu"]])] if resources.gpu else None,
        auto_remove="force",
    )


def kubernetes(command: Command, settings: OrchestrationParams, common: dict[str, Any]) -> BaseOperator:
    """A deferrable task whose pod survives a restart of the scheduler; several pods where the stage has several nodes.

    Requests equal limits: a stage that exceeds its memory is killed alone, and the task fails. A pod that cannot pull its
    image or be scheduled fails after `startup_timeout`, with the pod's events in the log.
    """
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from airflow.providers.cncf.kubernetes.secret import Secret
    from kubernetes.client import models as k8s

    from dags.nodes import NodesOperator

    resources = command.resources
    amounts = {"cpu": f"{resources.cpu:g}", "memory": resources.memory}
    if resources.gpu:
        amounts["nvidia.com/gpu"] = str(resources.gpu)

    def volume(key: str, **empty: str) -> k8s.V1Volume:
        return k8s.V1Volume(name=key, empty_dir=k8s.V1EmptyDirVolumeSource(**empty))

    def claim(name: str) -> k8s.V1Volume:
        claimed = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=source(name, settings))
        return k8s.V1Volume(name=name, persistent_volume_claim=claimed)

    volumes = [volume("work"), volume("tmp"), volume("shm", medium="Memory", size_limit=resources.shared_memory)]
    paths = {"work": "/work", "tmp": "/tmp", "shm": "/dev/shm"} | {key: folder(key, settings) for key in command.folders}
    labels = {"app.kubernetes.io/name": "stage", "app.kubernetes.io/part-of": "reelign"}
    if settings.serving.url in command.words:
        labels["reelign/scores"] = "yes"  # may connect to Triton
    operator, kind = command.kind(KubernetesPodOperator), {"durable": True}
    if resources.nodes > 1:
        labels["reelign/nodes"] = "yes"  # may connect to each other
        operator, kind = NodesOperator, {"nodes": resources.nodes}
    return operator(
        **common,
        **kind,
        name=f"reelign-{common['task_id'].replace('.', '-').replace('_', '-')}",
        namespace=settings.kubernetes.namespace,
        service_account_name=settings.kubernetes.service_account,
        automount_service_account_token=False,
        image=image(settings),
        arguments=["reelign", *command.words],
        env_vars=ASKED | command.environment,
        env_from=[
            k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=settings.kubernetes.config_map)),
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=settings.kubernetes.secret)),
        ],
        secrets=[Secret("env", key, SECRETS[key], key) for key in command.secrets],
        labels=labels,
        container_resources=k8s.V1ResourceRequirements(requests=amounts, limits=amounts),
        node_selector=resources.node_selector,
        tolerations=[k8s.V1Toleration(**toleration.model_dump()) for toleration in resources.tolerations],
        volumes=[*volumes, *map(claim, command.folders)],
        volume_mounts=[k8s.V1VolumeMount(name=key, mount_path=path) for key, path in paths.items()],
        security_context=k8s.V1PodSecurityContext(
            run_as_non_root=True, run_as_user=USER, run_as_group=USER, fs_group=USER,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        container_security_context=k8s.V1SecurityContext(
            allow_privilege_escalation=False, read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        termination_message_policy="FallbackToLogsOnError",
        startup_timeout_seconds=settings.kubernetes.startup_timeout,
        on_finish_action="delete_pod",
        deferrable=True,
        log_events_on_failure=True,
        log_pod_spec_on_failure=False,
    )  # fmt: skip


def in_bytes(size: str) -> int:
    """ "4Gi" -> 4 * 2**30."""
    return int(size[:-2]) << {"Mi": 20, "Gi": 30}[size[-2:]]
