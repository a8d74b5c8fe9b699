"""Stages as pods, by the Kubernetes runner; and pods that end badly: each ends its task, red and with a reason."""

import json
import time
from array import array

import pytest

pytest.importorskip("kubernetes", reason="needs the orchestrator environment: make test-containers")

import pendulum
import yaml
from airflow.sdk import DAG
from kubernetes import client, config

from components.config.operation import OrchestrationParams
from components.config.params import load_params
from dags.runners import REPOSITORY, make_stage
from tests.containers.airflow import Airflow, ended
from tests.containers.cluster import ADDRESS, NODE, PROGRAM, Cluster
from tests.curation.s3_server import ENVIRONMENT

pytestmark = pytest.mark.kubernetes
BUSYBOX = "localhost/busybox:1"
SPACE = "reelign"


@pytest.fixture(scope="module")
def cluster(engine, pipeline_image):
    if not PROGRAM.exists():
        pytest.skip(f"no cluster to test with: {PROGRAM} is missing")
    cluster = Cluster()
    try:
        cluster.start()
        engine.make_busybox(BUSYBOX)
        for image in (BUSYBOX, pipeline_image):
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
    amounts |= {"nodes": 1, "node_selector": {}, "tolerations": []}
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


def on_two_nodes(cluster: Cluster, name: str, run: str, own: dict) -> client.V1PodTemplateSpec:
    """The pods of a stage on two nodes, as the runner describes them. This cluster has neither Indexed Jobs nor names for
    pods: tests set what these would give."""
    settings = load_params(REPOSITORY / "infra/profiles/smoke.yaml").orchestration.model_dump() | own
    settings["stages"] = {name: {"nodes": 2}}
    with DAG("nodes", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        task = make_stage(name, OrchestrationParams.model_validate(settings), dag=dag)
    task.config_file = str(cluster.kubeconfig)
    asked = {"profile": "smoke", "commit": None, "force": [name]}
    task.render_template_fields({"run_id": run, "params": asked, "triggering_asset_events": {}, "dag": dag, "task": task})
    return task.build_job_request_obj().spec.template


def start_node(api, template, index: int, master: str):
    """The pod of one node."""
    made = client.ApiClient().sanitize_for_serialization(template)
    [container] = made["spec"]["containers"]
    own = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    given = [
        own,
        {"name": "JOB_COMPLETION_INDEX", "value": str(index)},
        {"name": "REELIGN_MASTER", "value": f"{master}:29500"},
    ]
    container["env"] = [*(item for item in container["env"] if item["name"] != "REELIGN_MASTER"), *given]
    metadata = {"name": f"nodes-{index}", "namespace": SPACE, "labels": made["metadata"]["labels"]}
    return api.create_namespaced_pod(SPACE, {"metadata": metadata, "spec": made["spec"]})


def start_nodes(api, template) -> None:
    start_node(api, template, 0, "$(POD_IP)")
    address = until(lambda: api.read_namespaced_pod("nodes-0", SPACE).status.pod_ip, "address of node 0")
    start_node(api, template, 1, address)


def log_of(api, name: str) -> str:
    try:
        return api.read_namespaced_pod_log(name, SPACE, _preload_content=False).data.decode()
    except client.ApiException:  # its container does not run yet
        return ""


def end_of(api, name: str) -> tuple[str, str]:
    """Phase and log of a pod, once it has ended; it is removed."""

    def ended():
        phase = api.read_namespaced_pod(name, SPACE).status.phase
        return phase if phase in ("Succeeded", "Failed") else None

    phase = until(ended, f"end of {name}", patience=600)
    said = log_of(api, name)
    api.delete_namespaced_pod(name, SPACE, grace_period_seconds=0)
    return phase, said


def weights(s3, run: str) -> dict[str, array]:
    """The reward model's tensors that a DAG run left in the remote."""
    bucket = s3.client()

    def read(key: str) -> bytes:
        return bucket.get_object(Bucket="reelign", Key=f"kubernetes/{key}")["Body"].read()

    def blob(digest: str) -> bytes:
        return read(f"files/md5/{digest[:2]}/{digest[2:]}")

    listed = bucket.list_objects_v2(Bucket="reelign", Prefix="kubernetes/")["Contents"]
    [record] = [item["Key"] for item in listed if item["Key"].endswith(f"executions/{run}/reward.yaml")]
    entry = yaml.safe_load(read(record.removeprefix("kubernetes/")))
    [out] = [out for out in entry["outs"] if out["path"] == "models/video_reward"]
    files = {file["relpath"]: file["md5"] for file in json.loads(blob(out["md5"]))}
    tensors = {}
    for name in ("model.safetensors", "head.safetensors"):
        content = blob(files[name])
        size = int.from_bytes(content[:8], "little")
        for key, about in json.loads(content[8 : 8 + size]).items():
            if key != "__metadata__":
                assert about["dtype"] == "F32"
                start, end = about["data_offsets"]
                tensors[key] = array("f", content[8 + size + start : 8 + size + end])
    return tensors


def until(holds, what: str, patience: float = 300):
    deadline = time.monotonic() + patience
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what}: not within {patience} s"
        time.sleep(0.5)
    return found


def pod_of(api, dag: str):
    found = api.list_namespaced_pod(SPACE, label_selector=f"dag_id={dag}").items
    return found[0] if found else None


def test_a_stage_runs_as_a_pod_and_the_next_pod_restores_it(airflow, pipeline_image):
    first = airflow.run("first", {"stages": ["source", "measure"], "orchestration": pods(pipeline_image)})
    for stage in ("source", "measure"):
        assert f"[{stage}] done in" in first and f"[{stage}] finished; kept in s3://reelign/kubernetes" in first, first
    second = airflow.run("second", {"stages": ["measure"], "orchestration": pods(pipeline_image)})
    assert "[measure] was run before, restored; kept in s3://reelign/kubernetes" in second, second
    assert "done in" not in second, second


def test_a_failing_stage_fails_the_task_with_its_own_message(airflow, pipeline_image):
    case = {"stages": ["source"], "profile": "nowhere", "orchestration": pods(pipeline_image)}
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


@pytest.fixture(scope="module")
def alone(airflow, pipeline_image) -> dict:
    """Settings of pods with which the reward model was trained by one, and its inputs made."""
    own = pods(pipeline_image, cpu=0.8)
    said = airflow.run("alone", {"stages": ["source", "measure", "curate", "pairs", "reward"], "orchestration": own})
    assert "[reward] done in" in said, said
    return own


def test_two_pods_train_the_model_of_one(cluster, alone, api, s3):
    start_nodes(api, on_two_nodes(cluster, "reward", "together", alone))
    (first, said), (second, answer) = end_of(api, "nodes-0"), end_of(api, "nodes-1")
    assert (first, second) == ("Succeeded", "Succeeded"), said + answer
    assert "[reward] finished; kept in s3://reelign/kubernetes" in said and "kept in" not in answer, said + answer
    listed = s3.client().list_objects_v2(Bucket="reelign", Prefix="kubernetes/")["Contents"]
    [single] = {key.split("/executions/")[1].split("/")[0] for key in (item["Key"] for item in listed)
               if key.endswith("/reward.yaml") and "/together/" not in key}  # fmt: skip
    one, two = weights(s3, single), weights(s3, "together")
    assert one.keys() == two.keys() and len(one) > 10
    for key, tensor in one.items():
        assert list(two[key]) == pytest.approx(list(tensor), abs=1e-4, rel=1e-4), key
    print("largest difference", max(abs(a - b) for key in one for a, b in zip(one[key], two[key], strict=True)))


def test_a_pod_that_is_killed_ends_the_other_with_the_reason(cluster, alone, api):
    start_nodes(api, on_two_nodes(cluster, "reward", "killed", alone))
    until(lambda: "[reward] loaded in" in log_of(api, "nodes-0"), "beginning of the training")
    began = time.monotonic()
    api.delete_namespaced_pod("nodes-1", SPACE, grace_period_seconds=0)
    phase, said = end_of(api, "nodes-0")
    assert phase == "Failed" and said.rstrip().splitlines()[-1].startswith("error: node 1 of 2: lost, "), said
    assert time.monotonic() - began < 60
    print(f"node 0 ended {time.monotonic() - began:.1f} s after node 1 was killed")


def test_the_job_of_several_nodes_fails_with_the_reason_of_a_pod_and_is_removed(airflow, api):
    """The cluster is older than Indexed Jobs and takes it for one of two pods."""
    case = shell("echo begun; echo 'error: clip.mp4: no video' >&2; exit 2")
    case["stages"] = ["reward"]
    case["orchestration"]["stages"] = {"reward": {"nodes": 2}}
    said = airflow.run("job", case, code=1)
    assert "exit code 2: error: clip.mp4: no video" in said and "begun" in said, said
    batch = client.BatchV1Api()
    until(lambda: not batch.list_namespaced_job(SPACE).items, "end of the Job")
    until(lambda: not api.list_namespaced_service(SPACE).items, "end of its Service")
    until(lambda: not api.list_namespaced_pod(SPACE).items, "end of its pods")
    case["change"] = {"arguments": ["sh", "-c", "echo done"]}
    said = airflow.run("job", case)
    assert said.count("logs: done") == 2, said
    case["orchestration"] = pods("localhost/nowhere:1", startup_timeout=15) | {"stages": {"reward": {"nodes": 2}}}
    said = airflow.run("job", case, code=1)
    assert "not started within 15 seconds: job-reelign-reward-" in said and "ImagePull" in said, said
    until(lambda: not batch.list_namespaced_job(SPACE).items, "end of the Job")


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
