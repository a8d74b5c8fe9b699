"""The chart on a real Kubernetes: what its API server takes, and what a pod may do under the rights that it gives.

The fixture is a one-node cluster of v1.20. It knows no policy/v1, no Pod Security admission, and holds nobody to a network
policy; it pulls no image, so workloads are made and counted, and their pods wait. `make test-infra`.
"""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import CHART, TOOLS, VALUES, Document, build, files_of, helm, pod_templates, stage_job

CLUSTER = Path("../shared/kubernetes/cluster")
pytestmark = pytest.mark.kubernetes


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory):
    """Of a cluster of our own."""
    if not CLUSTER.exists():
        pytest.skip(f"no {CLUSTER} beside the checkout")
    if os.geteuid():
        pytest.skip("a cluster of one's own needs root")
    if not (TOOLS / "kubectl").exists():
        pytest.skip("no kubectl: `make .venv-infra/installed`")
    if not helm("version", "--template={{.Version}}").stdout.startswith("v4."):
        pytest.skip("Helm 4 alone takes a namespace of the chart with --create-namespace")
    state = tmp_path_factory.mktemp("kube")
    environment = {**os.environ, "KUBE_TEST_DIR": str(state)}

    def cluster(command: str) -> None:
        subprocess.run([CLUSTER, command], env=environment, check=True)

    cluster("install")
    try:
        cluster("up")
        yield state / "kubeconfig"
    finally:
        cluster("down")


@pytest.fixture(scope="module")
def kubectl(kubeconfig):
    """A function that runs kubectl: (arguments, stdin) to the finished process."""

    def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess:
        command = [TOOLS / "kubectl", f"--kubeconfig={kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True)

    return run


def for_old_server(text: str) -> str:
    """As v1.20 has it: the one group whose version differs."""
    return text.replace("apiVersion: policy/v1\n", "apiVersion: policy/v1beta1\n")


@pytest.fixture(scope="module")
def release(kubeconfig, tmp_path_factory):
    """A function that runs Helm on a release of the chart: (verb, name, options) to its output. The chart is as v1.20 has
    to have it: without a lowest version, and with protocols, which that server lacks defaults for where Helm applies."""
    chart = tmp_path_factory.mktemp("chart") / "reelign"
    shutil.copytree(CHART, chart)
    for file in (*chart.glob("templates/*.yaml"), chart / "Chart.yaml"):
        text = re.sub(r"^kubeVersion: .*\n", "", for_old_server(file.read_text()), flags=re.MULTILINE)
        file.write_text(re.sub(r"targetPort: (\w+)\}", r"targetPort: \1, protocol: TCP}", text))

    def run(verb: str, name: str, *options: str) -> str:
        # v1.20 lets the controller's status own a StatefulSet's claims; later servers keep it to the status.
        given = {"install": [chart], "upgrade": [chart, "--force-conflicts"], "uninstall": []}[verb]
        done = helm(verb, name, *given, *options, f"--kubeconfig={kubeconfig}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def found(kubectl, *arguments: str, namespace: str = "reelign") -> Document:
    return json.loads(kubectl("-n", namespace, "get", *arguments, "-o", "json").stdout)


def generations(kubectl) -> dict[str, int]:
    """How often the specification of each workload changed."""
    return {item["metadata"]["name"]: item["metadata"]["generation"] for item in found(kubectl, "deploy,sts")["items"]}


@pytest.fixture(scope="module")
def applied(release):
    """The chart with the values of one machine, installed as its README has it, and the documents."""
    said = release("install", "reelign", "--namespace=reelign", "--create-namespace", *files_of("one-machine"))
    assert "STATUS: deployed" in said
    return build("one-machine")


def test_all_documents_are_there_and_the_namespace_is_restricted(kubectl, applied):
    for document in applied:
        made = found(kubectl, document["kind"], document["metadata"]["name"])
        assert document["metadata"]["labels"].items() <= made["metadata"]["labels"].items(), document["metadata"]["name"]
    namespace = found(kubectl, "namespace", "reelign")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("values", VALUES)
def test_the_server_takes_every_document(kubectl, applied, values):
    documents = build(values, "--set=ingress.gateway.enabled=true,ingress.gateway.host=scores.example")
    for document in documents:
        if document["kind"] == "PersistentVolumeClaim":  # one that is there cannot change: each is judged as a new one
            document["metadata"]["name"] += "-anew"
    text = for_old_server(yaml.safe_dump_all(documents))
    done = kubectl("apply", "-f", "-", "--dry-run=server", stdin=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(server dry run)") == len(documents)


def test_upgraded_to_the_same_nothing_is_rolled_out_anew(kubectl, release, applied):
    before = generations(kubectl)
    release("upgrade", "reelign", "--namespace=reelign", *files_of("one-machine"))
    assert generations(kubectl) == before and set(before) == {"gateway", "mlflow", "triton", "postgres", "s3"}


def test_a_new_image_makes_new_pods_of_what_runs_it_and_an_old_one_is_put_back(kubectl, release, applied):
    before = generations(kubectl)
    release("upgrade", "reelign", "--namespace=reelign", *files_of("one-machine"), "--set=images.pipeline.tag=next")
    after = generations(kubectl)
    assert {name for name in after if after[name] != before[name]} == {"gateway", "mlflow"}
    release("upgrade", "reelign", "--namespace=reelign", *files_of("one-machine"))
    [container] = found(kubectl, "deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == pod_templates(applied)["mlflow"]["spec"]["containers"][0]["image"]


def test_a_second_release_leaves_its_namespace_secrets_and_volumes(kubectl, release, applied):
    """In a namespace that was there before, with a secret."""
    options = ("--set=priorityClass.create=false", *files_of("one-machine"))
    assert kubectl("create", "namespace", "second").returncode == 0
    assert kubectl("-n", "second", "create", "secret", "generic", "reelign-s3").returncode == 0
    notes = release("install", "reelign", "--namespace=second", "--take-ownership", *options)
    assert "secret generic reelign-mlflow " in notes and "secret generic reelign-s3 " not in notes, "it is there"
    namespace = found(kubectl, "namespace", "second")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    release("uninstall", "reelign", "--namespace=second")
    assert not found(kubectl, "deploy,sts,svc,role,networkpolicy", namespace="second")["items"]
    assert found(kubectl, "secret", "reelign-s3", namespace="second")
    claims = {claim["metadata"]["name"] for claim in found(kubectl, "pvc", namespace="second")["items"]}
    assert "reelign-served" in claims
    assert found(kubectl, "priorityclass", "reelign-service"), "of the first release"
    assert "STATUS: deployed" in release("install", "reelign", "--namespace=second", *options), "again, with what was kept"


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
    template = stage_job()["spec"]["template"]
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
