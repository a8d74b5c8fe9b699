"""How a task runs its stage: as a process, a container or a pod, each `reelign run-stage NAME` (components/run_stage.py).

Section `orchestration` of params.yaml chooses and gives resources. What is asked of a DAG run (commit, profile, stages to
force) reaches all three by environment variables, so that the command is the same everywhere; secrets go by name alone.
"""

import os
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator

from components.operation_params import OrchestrationParams, ResourcesParams

REPOSITORY = Path(__file__).resolve().parents[1]
USER = 10001  # of our images (docker/)


def make_task(name: str, settings: OrchestrationParams, **common: Any) -> BaseOperator:
    """The task of a stage, "align@dpo" as task "align.dpo"; `common` goes to any operator, e.g. dag=."""
    resources = settings.resources_of(name)
    make = {"local": local, "docker": docker, "kubernetes": kubernetes}[settings.runner]
    common |= {
        "task_id": name.replace("@", "."),
        "retries": resources.retries,
        "retry_delay": timedelta(seconds=settings.retry_delay),
    }
    return make(name, settings, resources, common)


def asked(name: str) -> dict[str, str]:
    """What a DAG run asks of a stage, as templates of environment variables."""
    return {
        "AIRFLOW_CTX_DAG_RUN_ID": "{{ run_id }}",
        "REELIGN_COMMIT": "{{ params.commit or '' }}",
        "REELIGN_PROFILE": "{{ params.profile or '' }}",
        "REELIGN_FORCE": f"{{{{ '{name}' in params.force }}}}",
    }


def local(name: str, settings: OrchestrationParams, resources: ResourcesParams, common: dict[str, Any]) -> BaseOperator:
    """A process in the ml environment of this checkout."""
    from airflow.providers.standard.operators.bash import BashOperator

    return BashOperator(
        **common,
        bash_command=f"exec python -m components.cli run-stage {name}",
        cwd=str(REPOSITORY),
        env=asked(name) | {"PATH": f"{REPOSITORY}/.venv-ml/bin:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)},
        append_env=True,
    )


def docker(name: str, settings: OrchestrationParams, resources: ResourcesParams, common: dict[str, Any]) -> BaseOperator:
    """A container without privileges and with a read-only root; what it writes lies in the volume `docker.work`."""
    from airflow.providers.docker.operators.docker import DockerOperator
    from docker.types import DeviceRequest, Mount

    class ContainedOperator(DockerOperator):
        """DockerOperator knows neither read-only roots nor dropped capabilities; Docker does."""

        @cached_property
        def cli(self) -> Any:
            client = self.hook.api_client
            client.create_host_config = partial(
                client.create_host_config,
                read_only=True, tmpfs={"/tmp": ""}, cap_drop=["ALL"], security_opt=["no-new-privileges"],
            )  # fmt: skip
            return client

    here = settings.docker.work.startswith("/")
    return ContainedOperator(
        **common,
        image=settings.image,
        command=["reelign", "run-stage", name],
        environment=asked(name),
        # Values are read where the task runs and shown nowhere.
        private_environment={key: os.environ[key] for key in settings.docker.environment if key in os.environ},
        user=f"{USER}:{USER}",
        mounts=[Mount(target="/work", source=settings.docker.work, type="bind" if here else "volume")],
        mount_tmp_dir=False,
        network_mode=settings.docker.network,
        cpus=resources.cpu,
        mem_limit=in_bytes(resources.memory),
        shm_size=in_bytes(resources.shared_memory),
        device_requests=[DeviceRequest(count=resources.gpu, capabilities=[["gpu"]])] if resources.gpu else None,
        auto_remove="force",
    )


def kubernetes(name: str, settings: OrchestrationParams, resources: ResourcesParams, common: dict[str, Any]) -> BaseOperator:
    """A pod that a task finds again after the scheduler was restarted, and that no worker waits for.

    Requests are limits: a stage that outgrows its memory is killed alone, and the task fails. A pod whose image cannot be
    pulled or that no node takes fails after `startup_timeout`, with the pod's events in the log.
    """
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes.client import models as k8s

    amounts = {"cpu": f"{resources.cpu:g}", "memory": resources.memory}
    if resources.gpu:
        amounts["nvidia.com/gpu"] = str(resources.gpu)

    def volume(key: str, **empty: str) -> k8s.V1Volume:
        return k8s.V1Volume(name=key, empty_dir=k8s.V1EmptyDirVolumeSource(**empty))

    paths = {"work": "/work", "tmp": "/tmp", "shm": "/dev/shm"}
    return KubernetesPodOperator(
        **common,
        name=f"reelign-{name.replace('@', '-').replace('_', '-')}",
        namespace=settings.kubernetes.namespace,
        service_account_name=settings.kubernetes.service_account,
        automount_service_account_token=False,
        image=settings.image,
        arguments=["reelign", "run-stage", name],
        env_vars=asked(name),
        env_from=[
            k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=settings.kubernetes.config_map)),
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=settings.kubernetes.secret)),
        ],
        labels={"app.kubernetes.io/name": "stage", "app.kubernetes.io/part-of": "reelign"},
        container_resources=k8s.V1ResourceRequirements(requests=amounts, limits=amounts),
        node_selector=resources.node_selector,
        tolerations=[k8s.V1Toleration(**toleration.model_dump()) for toleration in resources.tolerations],
        volumes=[volume("work"), volume("tmp"), volume("shm", medium="Memory", size_limit=resources.shared_memory)],
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
        durable=True,
        deferrable=True,
        log_events_on_failure=True,
        log_pod_spec_on_failure=False,
    )  # fmt: skip


def in_bytes(size: str) -> int:
    """ "4Gi" -> 4 * 2**30."""
    return int(size[:-2]) << {"Mi": 20, "Gi": 30}[size[-2:]]
