"""The manifests on a real Kubernetes: what its API server takes, and what a pod may do under the rights that they give.

The fixture is a one-node cluster of v1.20. It knows no policy/v1, no Pod Security admission, and holds nobody to a network
policy; it pulls no image, so workloads are made and counted, and their pods wait. `make test-infra`.
"""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import OVERLAYS, TOOLS, Document, build, pod_templates

CLUSTER = Path("../shared/kubernetes/cluster")
pytestmark = pytest.mark.kubernetes


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory):
    """A function that runs kubectl on a cluster of our own: (arguments, stdin) to the finished process."""
    if not CLUSTER.exists():
        pytest.skip(f"no {CLUSTER} beside the checkout")
    if os.geteuid():
        pytest.skip("a cluster of one's own needs root")
    if not (TOOLS / "kubectl").exists():
        pytest.skip("no kubectl: `make .venv-infra/installed`")
    state = tmp_path_factory.mktemp("kube")
    environment = {**os.environ, "KUBE_TEST_DIR": str(state)}

    def cluster(command: str) -> None:
        subprocess.run([CLUSTER, command], env=environment, check=True)

    def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
        command = [TOOLS / "kubectl", f"--kubeconfig={state}/kubeconfig", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True)

    cluster("install")
    try:
        cluster("up")
        yield run
    finally:
        cluster("down")


def for_old_server(documents: list[Document]) -> str:
    """As v1.20 has it: the one group whose version differs."""
    return yaml.safe_dump_all(documents).replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n")


def apply(kubectl, documents: list[Document], *options: str) -> str:
    done = kubectl("apply", "-f", "-", *options, stdin=for_old_server(documents))
    assert done.returncode == 0, done.stderr
    return done.stdout


def found(kubectl, *arguments: str) -> Document:
    return json.loads(kubectl("-n", "reelign", "get", *arguments, "-o", "json").stdout)


@pytest.fixture(scope="module")
def applied(kubectl):
    """The overlay of one machine, made for real: the namespace first, as a dry run wants it there."""
    documents = build("overlays/one-machine")
    apply(kubectl, documents)
    return documents


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_server_takes_every_document(kubectl, applied, overlay):
    documents = build(overlay)
    for document in documents:
        if document["kind"] == "PersistentVolumeClaim":  # one that is there cannot change: each is judged as a new one
            document["metadata"]["name"] += "-anew"
    said = apply(kubectl, documents, "--dry-run=server")
    assert said.count("(server dry run)") == len(documents)


def test_applied_twice_nothing_is_rolled_out_anew(kubectl, applied):
    def generations() -> dict[str, int]:
        return {item["metadata"]["name"]: item["metadata"]["generation"] for item in found(kubectl, "deploy,sts")["items"]}

    before = generations()
    apply(kubectl, applied)
    assert generations() == before and set(before) == {"gateway", "mlflow", "triton", "postgres", "s3"}


def test_airflow_may_start_stages_and_nothing_else(kubectl, applied):
    def may(account: str, *what: str) -> bool:
        who = f"--as=system:serviceaccount:reelign:{account}"
        return kubectl("auth", "can-i", *what, "-n", "reelign", who).stdout.strip() == "yes"

    for verb in ("create", "get", "list", "watch", "patch", "delete"):
        assert may("reelign-launcher", verb, "pods")
    assert may("reelign-launcher", "get", "pods", "--subresource=log")
    for verb in ("create", "get", "list", "delete"):
        assert may("reelign-launcher", verb, "jobs.batch")
    assert may("reelign-launcher", "get", "jobs.batch", "--subresource=status")
    assert may("reelign-launcher", "create", "services") and not may("reelign-launcher", "delete", "services")
    assert not may("reelign-launcher", "create", "pods", "--subresource=exec")
    for what in (("get", "secrets"), ("create", "deployments.apps"), ("create", "rolebindings")):
        assert not may("reelign-launcher", *what)
    for account in ("reelign-airflow", "reelign-stage", "reelign-mlflow", "reelign-triton"):
        assert not may(account, "get", "pods")


def test_a_stages_pod_is_made_with_limits_and_a_gpu_beyond_the_quota_is_refused(kubectl, applied):
    job = yaml.safe_load(Path("infra/kubernetes/stage-job.yaml").read_text())
    template = job["spec"]["template"]
    for kind in ("requests", "limits"):
        del template["spec"]["containers"][0]["resources"][kind]["ephemeral-storage"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stage", "namespace": "reelign", **template["metadata"]},
           "spec": template["spec"]}  # fmt: skip
    done = kubectl("create", "-f", "-", stdin=json.dumps(pod))
    assert done.returncode == 0, done.stderr
    made = found(kubectl, "pod", "stage")
    assert made["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"] == "200Gi", "the LimitRange's"
    assert not [v for v in made["spec"]["volumes"] if v["name"].startswith("default-token")], "no token is mounted"
    limits = template["spec"]["containers"][0]["resources"]
    limits["limits"]["nvidia.com/gpu"] = limits["requests"]["nvidia.com/gpu"] = "1"
    pod["metadata"]["name"] = "stage-gpu"
    done = kubectl("create", "-f", "-", stdin=json.dumps(pod))
    assert done.returncode != 0 and "exceeded quota" in done.stderr and "nvidia.com/gpu" in done.stderr


def test_workloads_become_pods(kubectl, applied):
    """As far as their images: these are not on the node, and that is the only thing that is wrong with them."""
    names = set(pod_templates(applied))
    until = time.monotonic() + 120
    while True:
        pods = found(kubectl, "pods")["items"]
        owners = {pod["metadata"]["labels"].get("app.kubernetes.io/name") for pod in pods}
        if names <= owners | {"stage"} or time.monotonic() > until:
            break
        time.sleep(1)
    assert names <= owners | {"stage"}
    for name in ("mlflow", "triton"):
        [deployment] = [d for d in found(kubectl, "deployments")["items"] if d["metadata"]["name"] == name]
        assert not [c for c in deployment["status"].get("conditions", []) if c["type"] == "ReplicaFailure"]
    priorities = {pod["spec"].get("priority") for pod in pods if pod["metadata"]["name"] != "stage"}
    assert priorities == {1000}
