"""A stage on several nodes of a cluster: an Indexed Job, and a headless Service by which its pods find the first one.

A pod is `reelign run-stage NAME` with the variables REELIGN_NODES, REELIGN_MASTER, REELIGN_PATIENCE and Kubernetes' own
JOB_COMPLETION_INDEX (components/pipeline/run_together.py). No pod starts again alone: where one fails, so does the Job, and
a retry of Airflow makes a new one.
"""

import time
from typing import Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.triggers.job import KubernetesJobTrigger
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from kubernetes.client import ApiException
from kubernetes.client import models as k8s

PORT = 29500  # of the line between nodes
KEPT = 24 * 3600  # seconds that a finished Job stays where nothing removed it
INDEX = "batch.kubernetes.io/job-completion-index"


class NodesOperator(KubernetesJobOperator):
    """KubernetesJobOperator for pods that only work together: with their Service, a limit on the time until all have
    started, every pod's log, and the reason of the pod that failed. The Job is removed at the end."""

    def __init__(self, *, nodes: int, **arguments: Any):
        super().__init__(
            **arguments,
            completion_mode="Indexed",
            completions=nodes,
            parallelism=nodes,
            backoff_limit=0,
            ttl_seconds_after_finished=KEPT,
            wait_until_job_complete=True,
        )

    def build_job_request_obj(self, context: Context | None = None) -> k8s.V1Job:
        job = super().build_job_request_obj(context)
        name, template = job.metadata.name, job.spec.template
        job.metadata.labels = dict(template.metadata.labels)  # of the task: by these a later try finds it
        template.spec.subdomain = name
        [container] = template.spec.containers
        container.env = [
            *container.env,
            k8s.V1EnvVar(name="REELIGN_NODES", value=str(self.completions)),
            k8s.V1EnvVar(name="REELIGN_MASTER", value=f"{name}-0.{name}:{PORT}"),
            k8s.V1EnvVar(name="REELIGN_PATIENCE", value=str(self.startup_timeout_seconds)),
        ]
        return job

    def execute(self, context: Context) -> None:
        try:
            super().execute(context)
        except TaskDeferred:
            raise
        except BaseException:
            if self.job:
                self.remove(self.job.metadata.name, self.job.metadata.namespace)
            raise

    def create_job(self, job_request_obj: k8s.V1Job) -> k8s.V1Job:
        """The Job and its Service. Jobs of earlier tries, which a killed worker may have left, are removed."""
        namespace = job_request_obj.metadata.namespace
        mine = {key: job_request_obj.metadata.labels.get(key) for key in ("dag_id", "task_id", "run_id")}
        selector = ",".join(f"{key}={value}" for key, value in mine.items())
        for job in self.job_client.list_namespaced_job(namespace, label_selector=selector).items:
            self.remove(job.metadata.name, namespace)
        self.job = self.hook.create_job(job=job_request_obj)
        self.client.create_namespaced_service(namespace, service_of(self.job))
        return self.job

    def get_pods(self, pod_request_obj: k8s.V1Pod, context: Context, *, exclude_checked: bool = True) -> list[k8s.V1Pod]:
        """All pods, once they have started; AirflowException after `startup_timeout_seconds`, with the events of those that
        have not."""
        end = time.monotonic() + self.startup_timeout_seconds
        while True:
            pods = self.pods_of(self.job.metadata.name, self.job.metadata.namespace)
            waiting = [pod for pod in pods if pod.status.phase == "Pending"]
            if any(pod.status.phase == "Failed" for pod in pods) or (len(pods) == self.completions and not waiting):
                return pods
            if time.monotonic() > end:
                for pod in waiting:
                    self._read_pod_container_states(pod, reraise=False)
                    self._read_pod_events(pod, reraise=False)
                name = self.job.metadata.name
                events = self.client.list_namespaced_event(
                    self.job.metadata.namespace, field_selector=f"involvedObject.kind=Job,involvedObject.name={name}"
                )
                for found in events.items:  # a quota that is used up, for instance
                    self.log.error("%s: %s %s", name, found.reason, found.message)
                names = ", ".join(pod.metadata.name for pod in waiting) or f"{self.completions - len(pods)} pods of {name}"
                raise AirflowException(f"not started within {self.startup_timeout_seconds} seconds: {names}")
            time.sleep(2)

    def pods_of(self, job: str, namespace: str) -> list[k8s.V1Pod]:
        """Pods of a Job by index."""
        pods = self.client.list_namespaced_pod(namespace, label_selector=f"job-name={job}").items
        return sorted(pods, key=index_of)

    def execute_deferrable(self) -> None:
        self.defer(
            trigger=NodesTrigger(
                job_name=self.job.metadata.name,
                job_namespace=self.job.metadata.namespace,
                pod_names=[pod.metadata.name for pod in self.pods],
                pod_namespace=self.job.metadata.namespace,
                base_container_name=self.base_container_name,
                kubernetes_conn_id=self.kubernetes_conn_id,
                cluster_context=self.cluster_context,
                config_file=self.config_file,
                in_cluster=self.in_cluster,
                poll_interval=self.job_poll_interval,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any], **kwargs: Any) -> None:
        """Every pod's log; AirflowException with the reason of the pod that failed first."""
        name, namespace = event["name"], event["namespace"]
        try:
            pods = self.pods_of(name, namespace)
            for pod in pods:
                self.log.info("%s", f"node {index_of(pod)} of {self.completions}: pod {pod.metadata.name}")
                try:
                    self._write_logs(pod)
                except ApiException as error:
                    self.log.warning("its log cannot be read: %s", error.reason)
            if event["status"] == "error":
                raise AirflowException(reason_of(pods) or f"{event['message']}: a pod was deleted, or its machine lost")
        finally:
            self.remove(name, namespace)

    def remove(self, name: str, namespace: str) -> None:
        """Delete a Job, and with it pods and Service."""
        delete_job(self.hook, name, namespace)


class NodesTrigger(KubernetesJobTrigger):
    """Waits for a Job, and deletes it where a user ends the task in the meantime."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        _, arguments = super().serialize()
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def on_kill(self) -> None:
        import asyncio

        hook = KubernetesHook(
            conn_id=self.kubernetes_conn_id,
            in_cluster=self.in_cluster,
            config_file=self.config_file,
            cluster_context=self.cluster_context,
        )
        await asyncio.to_thread(delete_job, hook, self.job_name, self.job_namespace)


def delete_job(hook: KubernetesHook, name: str, namespace: str) -> None:
    try:
        hook.batch_v1_client.delete_namespaced_job(name, namespace, propagation_policy="Background")
    except ApiException as error:
        if error.status != 404:
            raise


def service_of(job: k8s.V1Job) -> k8s.V1Service:
    """The headless Service of a Job, which ends with it: names for its pods, before they are ready."""
    name = job.metadata.name
    owner = k8s.V1OwnerReference(api_version="batch/v1", kind="Job", name=name, uid=job.metadata.uid)
    return k8s.V1Service(
        api_version="v1",
        kind="Service",
        metadata=k8s.V1ObjectMeta(
            name=name, namespace=job.metadata.namespace, labels=job.metadata.labels, owner_references=[owner]
        ),
        spec=k8s.V1ServiceSpec(
            cluster_ip="None",
            selector={"job-name": name},
            publish_not_ready_addresses=True,
            ports=[k8s.V1ServicePort(name="nodes", port=PORT)],
        ),
    )


def index_of(pod: k8s.V1Pod) -> int:
    return int((pod.metadata.annotations or {}).get(INDEX, 0))


def reason_of(pods: list[k8s.V1Pod]) -> str | None:
    """The last error line, or line, of the pod that failed first, with its node and exit code; None where no pod has one."""
    ended = [
        (status.state.terminated, pod)
        for pod in pods
        for status in pod.status.container_statuses or []
        if status.state.terminated and status.state.terminated.exit_code
    ]
    for end, pod in sorted(ended, key=lambda found: found[0].finished_at):
        lines = (end.message or "").strip().splitlines() or [end.reason or ""]
        line = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
        return f"node {index_of(pod)}, pod {pod.metadata.name}, exit code {end.exit_code}: {line}"
    return None
