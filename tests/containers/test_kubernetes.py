"""Stages as pods, by the Kubernetes runner; and pods that end badly: each ends its task, red and with a reason."""

import json
import time

import pytest

pytest.importorskip("kubernetes", reason="needs the orchestrator environment: make test-containers")

from kubernetes import client, config

from tests.containers.airflow import Airflow, ended
from tests.containers.cluster import ADDRESS, NODE, PROGRAM, Cluster
from tests.curation.s3_server import ENVIRONMENT

pytestmark = pytest.mark.kubernetes
BUSYBOX = "localhost/busybox:1"
SPACE = "reelign"


@pytest.fixture(scope="module")
def cluster(engine, images):
    if not PROGRAM.exists():
        pytest.skip(f"no cluster to test with: {PROGRAM} is missing")
    cluster = Cluster()
    try:
        cluster.start()
        engine.make_busybox(BUSYBOX)
        for image in (BUSYBOX, images["pipeline"]):
            cluster.load(engine, image)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def api(cluster, s3) -> client.CoreV1Api:
    """The cluster with what the runner's settings name: a namespace, an account, settings and secrets."""
    cluster("expose", str(s3.port))
    config.load_kube_config(str(cluster.kubeconfig))
    api = client.CoreV1Api()
    api.create_namespace({"metadata": {"name": SPACE}})
    api.create_namespaced_service_account(SPACE, {"metadata": {"name": "stage"}})
    remote = {"REELIGN_REMOTE": "s3://reelign/kubernetes", "AWS_ENDPOINT_URL_S3": f"http://{ADDRESS}:{s3.port}"}
    api.create_namespaced_config_map(SPACE, {"metadata": {"name": "settings"}, "data": remote})
    api.create_namespaced_secret(SPACE, {"metadata": {"name": "secrets"}, "stringData": ENVIRONMENT})
    until(lambda: account_has_token(api), "token of the account")
    return api


@pytest.fixture(scope="module")
def airflow(cluster, api) -> Airflow:
    extra = {"kube_config_path": str(cluster.kubeconfig), "in_cluster": False, "namespace": SPACE}
    return Airflow(AIRFLOW_CONN_KUBERNETES_DEFAULT=json.dumps({"conn_type": "kubernetes", "extra": extra}))


def account_has_token(api) -> bool:
    return bool(api.read_namespaced_service_account("stage", SPACE).secrets)


def pods(image: str, memory: str = "3Gi", startup_timeout: int = 300, **resources: object) -> dict:
    names = {"namespace": SPACE, "service_account": "stage", "config_map": "settings", "secret": "secrets"}
    amounts = {"cpu": 1, "memory": memory, "shared_memory": "256Mi", "gpu": 0, "retries": 0}
    amounts |= {"node_selector": {}, "tolerations": []}
    return {
        "runner": "kubernetes",
        "image": image,
        "kubernetes": names | {"startup_timeout": startup_timeout},
        "resources": amounts | resources,
    }


def shell(command: str, **settings: object) -> dict:
    """A pod of busybox with all that the runner gives to a stage but its command."""
    return {
        "stages": ["pairs"],
        "orchestration": pods(settings.pop("image", BUSYBOX), **settings),
        "change": {"arguments": ["sh", "-c", command]},
    }


def until(holds, what: str, patience: float = 300):
    deadline = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(0.5)
    return found


def pod_of(api, dag: str):
    found = api.list_namespaced_pod(SPACE, label_selector=f"dag_id={dag}").items
    return found[0] if found else None


def test_a_stage_runs_as_a_pod_and_the_next_pod_restores_it(airflow, images):
    first = airflow.run("first", {"stages": ["source", "measure"], "orchestration": pods(images["pipeline"])})
    for stage in ("source", "measure"):
        assert f"[{stage}] done in" in first and f"[{stage}] finished; kept in s3://reelign/kubernetes" in first, first
    second = airflow.run("second", {"stages": ["measure"], "orchestration": pods(images["pipeline"])})
    assert "[measure] was run before, restored; kept in s3://reelign/kubernetes" in second, second
    assert "done in" not in second, second


def test_a_failing_stage_fails_the_task_with_its_own_message(airflow, images):
    case = {"stages": ["source"], "profile": "nowhere", "orchestration": pods(images["pipeline"])}
    said = airflow.run("broken", case, code=1)
    assert "returned a failure.\nerror: infra/profiles/nowhere.yaml: no such profile at commit" in said, said
    assert "exit_code=2" in said


def test_pods_that_end_badly_end_their_tasks(airflow, api):
    runs = {
        "memory": airflow.start("memory", shell("echo begun; exec tail /dev/zero", memory="64Mi")),
        "image": airflow.start("image", shell("true", image="localhost/nowhere:1")),
        "deleted": airflow.start("deleted", shell("echo begun; exec sleep 600")),
    }
    pod = until(lambda: (found := pod_of(api, "deleted")) and found.status.phase == "Running" and found, "pod to delete")
    api.delete_namespaced_pod(pod.metadata.name, SPACE, grace_period_seconds=1)
    said = {name: ended(run, code=1, patience=400) for name, run in runs.items()}
    assert "reason='OOMKilled', exit_code=137" in said["memory"], said["memory"]
    assert "ErrImagePull" in said["image"] or "ImagePullBackOff" in said["image"], said["image"]
    assert "localhost/nowhere:1" in said["image"]
    assert f"{pod.metadata.name} returned a failure" in said["deleted"] or "not found" in said["deleted"], said["deleted"]
    until(lambda: not api.list_namespaced_pod(SPACE).items, "end of all pods")


def test_a_gpu_is_waited_for_and_found(airflow, api):
    run = airflow.start("gpu", shell("echo on a GPU node", gpu=1, node_selector={"pool": "gpu"}))
    try:

        def waiting():
            pod = pod_of(api, "gpu")
            conditions = (pod and pod.status.conditions) or []
            return next((c.message for c in conditions if c.type == "PodScheduled" and c.status == "False"), None)

        until(lambda: "node affinity" in (waiting() or ""), "pod without a node of its pool")
        api.patch_node(NODE, {"metadata": {"labels": {"pool": "gpu"}}})
        assert until(lambda: "Insufficient nvidia.com/gpu" in (waiting() or ""), "pod without a GPU")
        assert pod_of(api, "gpu").spec.node_name is None
        api.patch_node_status(NODE, {"status": {"capacity": {"nvidia.com/gpu": "1"}}})
        said = ended(run, code=0, patience=300)
    finally:
        run.kill()
    assert "on a GPU node" in said and f"to {NODE}" in said, said


def test_a_gpu_that_no_node_has_fails_in_the_end_with_the_reason(airflow):
    said = airflow.run("no_gpu", shell("true", gpu=9, startup_timeout=15), code=1)
    assert "Insufficient nvidia.com/gpu" in said, said
