"""Manifests hold against Kubernetes' own schemas, checkov's rules and each other; needs tools of `make test-infra`."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from components.config.params import load_params
from components.serving.access import options
from tests.infra.manifests import (
    CHART,
    STAGE_JOB,
    TOOLS,
    VALUES,
    allowed,
    build,
    documented_secrets,
    names,
    of_kind,
    pod_templates,
    references,
    selects,
    shared_stage,
    stage_job,
    tool,
)

pytestmark = pytest.mark.infra

VERSIONS = ("1.37", "1.30")  # the newest that kubernetes-validate knows, and one that clusters still run
# Rules of checkov that we do not keep, and why. All others hold.
EXCEPTIONS = {
    "CKV_K8S_43": "images by tag: the digest is known once `make images` has pushed, and values of yours set it",
    "CKV_K8S_15": "IfNotPresent: our tags are commits and never move",
    "CKV_K8S_35": "secrets as environment variables: boto3, DVC, MLflow and Postgres' image all read them there",
}
LABELS = {
    "stage": {"app.kubernetes.io/name": "stage"},
    "mlflow": {"app.kubernetes.io/name": "mlflow"},
    "triton": {"app.kubernetes.io/name": "triton"},
    "postgres": {"app.kubernetes.io/name": "postgres"},
    "s3": {"app.kubernetes.io/name": "s3"},
    "airflow": {"tier": "airflow"},
    "scorer": {"reelign/scores": "yes"},
    "deployer": {"app.kubernetes.io/name": "stage", "reelign/scores": "yes"},
    "gateway": {"app.kubernetes.io/name": "gateway", "reelign/scores": "yes"},
    "caller": {"reelign/gateway": "yes"},
    "node": {"app.kubernetes.io/name": "stage", "reelign/nodes": "yes"},
    "stranger": {"app": "stranger"},
    "outside": None,
}


@pytest.fixture(scope="module", params=VALUES)
def documents(request):
    return [*build(request.param), stage_job(), *shared_stage()]


def named(document: dict) -> dict:
    """kubernetes-validate wants a name to speak of."""
    metadata = document["metadata"]
    return {**document, "metadata": {"name": "stage", **metadata}}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid_to_the_letter(documents, tmp_path, version):
    """No field that the API does not know: a mistyped one would be dropped in silence."""
    (tmp_path / "documents.yaml").write_text(yaml.safe_dump_all(map(named, documents)))
    said = tool("kubernetes-validate", "--strict", "--no-warn", "-k", f"{version}.0", tmp_path / "documents.yaml")
    assert said.count("passed") == len(documents)


def test_a_mistyped_field_is_found(tmp_path):
    document = named(stage_job())
    document["spec"]["template"]["spec"]["containers"][0]["resourecs"] = {}
    (tmp_path / "document.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(AssertionError, match="resourecs"):
        tool("kubernetes-validate", "--strict", tmp_path / "document.yaml")


def test_yaml_is_tidy():
    rules = {"line-length": {"max": 140}, "comments": "disable", "document-start": "disable"}
    settings = {"extends": "default", "rules": rules, "ignore": [f"{CHART}/templates/"]}
    tool("yamllint", "--strict", "-d", json.dumps(settings), "infra")


def test_rules_of_checkov(documents, tmp_path):
    (tmp_path / "documents.yaml").write_text(yaml.safe_dump_all(documents))
    command = [TOOLS / "checkov", "--quiet", "--compact", "--skip-download", "--framework", "kubernetes", "--output", "json"]
    run = subprocess.run([*command, "-f", tmp_path / "documents.yaml"], capture_output=True, text=True)
    result = json.loads(run.stdout)
    failed = {check["check_id"] for check in result["results"]["failed_checks"]}
    assert result["summary"]["passed"] > 150 and result["summary"]["parsing_errors"] == 0
    assert failed == set(EXCEPTIONS), "an exception that nothing needs any more, or a rule newly broken"


def test_what_is_named_is_defined_or_documented(documents):
    secrets = documented_secrets()
    for reference in references(documents, "secretKeyRef"):
        assert (reference["name"], reference["key"]) in secrets
    for reference in references(documents, "secretRef"):
        assert reference["name"] in {name for name, _ in secrets}
    assert set(references(documents, "secretName")) <= {name for name, _ in secrets}
    for reference in [*references(documents, "configMapRef"), *references(documents, "configMap")]:
        assert reference["name"] in names(documents, "ConfigMap")
    keys = {"serviceAccountName": "ServiceAccount", "priorityClassName": "PriorityClass", "serviceName": "Service"}
    keys["claimName"] = "PersistentVolumeClaim"
    for key, kind in keys.items():
        assert set(references(documents, key)) <= names(documents, kind)
    for binding in of_kind(documents, "RoleBinding"):
        assert binding["roleRef"]["name"] in names(documents, "Role")
        assert {subject["name"] for subject in binding["subjects"]} <= names(documents, "ServiceAccount")
    given = {key for document in of_kind(documents, "ConfigMap") for key in document["data"]} | {key for _, key in secrets}
    for template in pod_templates(documents).values():
        own = {variable["name"] for env in references(template, "env") for variable in env}
        used = set(re.findall(r"\$\((\w+)\)", json.dumps(template)))
        assert used <= given | own, "an argument names a variable that nothing sets"
        mounted = {mount["name"] for c in template["spec"]["containers"] for mount in c["volumeMounts"]}
        claims = {c["metadata"]["name"] for d in documents for c in d.get("spec", {}).get("volumeClaimTemplates", [])}
        assert mounted <= {volume["name"] for volume in template["spec"]["volumes"]} | claims


def test_selectors_find_their_pods(documents):
    pods = [template["metadata"]["labels"] for template in pod_templates(documents).values()]
    for service in of_kind(documents, "Service"):
        if "ownerReferences" in service["metadata"]:
            continue  # of a Job, whose pods it finds by a label of Kubernetes
        assert sum(selects({"matchLabels": service["spec"]["selector"]}, labels) for labels in pods) == 1
        ports = {port["targetPort"] for port in service["spec"]["ports"]}
        name = service["metadata"]["name"]
        assert ports <= {port["name"] for c in pod_templates(documents)[name]["spec"]["containers"] for port in c["ports"]}
    for budget in of_kind(documents, "PodDisruptionBudget"):
        assert any(selects(budget["spec"]["selector"], labels) for labels in pods)
    known = [*pods, LABELS["airflow"], LABELS["deployer"]]  # the chart's pods, and Airflow's tasks
    for policy in of_kind(documents, "NetworkPolicy"):
        assert any(selects(policy["spec"]["podSelector"], labels) for labels in known), policy["metadata"]["name"]


def test_no_pod_has_more_rights_than_it_needs(documents):
    """The restricted Pod Security Standard, a read-only root, and no token of the Kubernetes API."""
    templates = pod_templates(documents)
    assert {"mlflow", "triton", "stage"} <= set(templates)
    for name, template in templates.items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert set(spec["securityContext"]) <= {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile"}
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        kinds = {"emptyDir", "configMap", "persistentVolumeClaim"} | ({"secret"} if name == "s3" else set())
        assert all(kinds & set(volume) for volume in spec["volumes"])
        assert "ephemeralContainers" not in spec and not references(spec, "hostPort")
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = {"capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
            assert container["securityContext"] == context, "all else that a context may have is refused or loosens it"
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]) & set(container["resources"]["limits"])
    [role] = of_kind(documents, "Role")
    assert not {"secrets", "pods/exec", "*"} & {resource for rule in role["rules"] for resource in rule["resources"]}
    assert not of_kind(documents, "ClusterRole", "ClusterRoleBinding", "Secret")
    accounts = of_kind(documents, "ServiceAccount")
    holders = {account["metadata"]["name"] for account in accounts if account.get("automountServiceAccountToken", True)}
    assert holders == {"reelign-launcher"}


def test_who_may_talk_to_whom(documents):
    inside = "postgres" in pod_templates(documents)
    data, database = ("s3", 8333) if inside else ("outside", 443), ("postgres" if inside else "outside", 5432)
    open_ways = {
        ("stage", "mlflow", 5000), ("stage", *data), ("mlflow", *data), ("mlflow", *database), ("triton", *data),
        ("airflow", "mlflow", 5000), ("airflow", "triton", 8000), ("airflow", "airflow", 8080), ("airflow", *data),
        ("airflow", *database), ("airflow", "outside", 443), ("scorer", "triton", 8001),
        ("deployer", "triton", 8000), ("deployer", "mlflow", 5000), ("deployer", *data),
        ("gateway", "triton", 8000), ("node", "node", 29500), ("node", "node", 51234), ("node", "mlflow", 5000),
    }  # fmt: skip
    ports = {
        "mlflow": (5000,),
        "triton": (8000, 8001),
        "gateway": (8080,),
        "airflow": (8080,),
        "postgres": (5432,),
        "s3": (8333,),
    }
    ports |= {"outside": (443, 5432), "node": (29500, 51234), "stage": (29500,)}
    found = {
        (client, server, port)
        for client in LABELS
        for server, served in ports.items()
        for port in served
        if (client, server) != ("outside", "outside") and allowed(documents, LABELS[client], LABELS[server], port)
    }
    assert open_ways <= found
    closed = [
        ("stage", "triton", 8000), ("stage", "outside", 5432), ("stranger", "mlflow", 5000), ("stranger", "outside", 443),
        ("outside", "mlflow", 5000), ("outside", "triton", 8000), ("outside", "airflow", 8080), ("stranger", "triton", 8001),
        ("triton", "mlflow", 5000), ("stage", "airflow", 8080), ("triton", *database),
        ("stranger", "gateway", 8080), ("outside", "gateway", 8080), ("caller", "triton", 8000), ("gateway", "mlflow", 5000),
        ("stage", "node", 29500), ("node", "stage", 29500), ("stranger", "node", 29500), ("outside", "node", 29500),
        ("mlflow", "node", 29500),
    ]  # fmt: skip
    assert not found & set(closed)


def test_gpus_are_asked_for_by_request_and_pool():
    documents = build("gpu")
    spec = pod_templates(documents)["triton"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["nodeSelector"] == {"reelign/pool": "gpu-serving"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    [quota] = of_kind(documents, "ResourceQuota")
    assert int(quota["spec"]["hard"]["requests.nvidia.com/gpu"]) > 2, "two for serving, the rest for stages"
    [quota] = of_kind(build("base"), "ResourceQuota")
    assert quota["spec"]["hard"]["requests.nvidia.com/gpu"] == "0"


def test_orchestration_names_what_the_manifests_make():
    """What dags/runners.py puts into a stage's pod is here: names, pools, and room for every stage of every profile."""
    documents = build("gpu")
    [quota] = of_kind(documents, "ResourceQuota")
    pools = set(re.findall(r"reelign/pool=([\w-]+)", (CHART / "README.md").read_text()))
    for profile in Path("infra/profiles").glob("*.yaml"):
        settings = load_params(profile).orchestration
        assert settings.kubernetes.namespace in names(documents, "Namespace")
        assert settings.kubernetes.service_account in names(documents, "ServiceAccount")
        assert settings.kubernetes.config_map in names(documents, "ConfigMap")
        assert settings.kubernetes.secret in {name for name, _ in documented_secrets()}
        for stage in ("align@dpo", "pairs"):
            resources = settings.resources_of(stage)
            assert set(resources.node_selector) <= {"reelign/pool"} and set(resources.node_selector.values()) <= pools
            hard = quota["spec"]["hard"]
            at_once = (int(hard["requests.nvidia.com/gpu"]) - 2) // resources.gpu if resources.gpu else 1
            assert at_once >= 1, "two GPUs are Triton's"
            assert at_once * resources.cpu + 32 <= int(hard["requests.cpu"]), "32 for services"
            assert at_once * int(resources.memory.removesuffix("Gi")) + 64 <= 1024 and hard["requests.memory"] == "1Ti"


def test_management_of_triton_needs_a_key_everywhere(documents):
    """The same groups as where `reelign serve` starts it; S3 keys that nobody else has."""
    [container] = pod_templates(documents)["triton"]["spec"]["containers"]
    image = Path("docker/triton.Dockerfile").read_text().replace('\\"', "").replace("'", "")
    for option in options("KEY-OF-THE-SERVER"):
        assert option.replace("KEY-OF-THE-SERVER", "$(REELIGN_TRITON_KEY)") in container["args"]
        assert option.replace("KEY-OF-THE-SERVER", "${REELIGN_TRITON_KEY:?}") in image
    holders = {
        name: {reference["name"] for reference in references(template, "secretRef")}
        for name, template in pod_templates(documents).items()
    }
    assert holders["triton"] == {"reelign-triton"} and holders["mlflow"] == {"reelign-mlflow"}
    assert holders["stage"] == {"reelign-s3"} and holders["gateway"] == {"reelign-gateway"}


def test_a_stage_on_several_nodes_is_one_indexed_job():
    """Its pods find the first by the Service's name, and none starts again without the others."""
    job, service = shared_stage()
    spec, template = job["spec"], job["spec"]["template"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == ("Indexed", 2, 2, 0)
    assert template["spec"]["restartPolicy"] == "Never" and spec["ttlSecondsAfterFinished"] > 0
    name = job["metadata"]["name"]
    assert template["spec"]["subdomain"] == service["metadata"]["name"] == name
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    assert service["spec"]["publishNotReadyAddresses"], "node 0 is found before it is ready"
    [owner] = service["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Job", name)
    [port] = service["spec"]["ports"]
    given = {item["name"]: item.get("value") for item in template["spec"]["containers"][0]["env"]}
    assert given["REELIGN_MASTER"] == f"{name}-0.{name}:{port['port']}" and given["REELIGN_NODES"] == "2"
    assert "JOB_COMPLETION_INDEX" not in given, "Kubernetes sets it"


def test_triton_is_ready_only_with_its_model(documents):
    [container] = pod_templates(documents)["triton"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/models/video_reward/ready"
    asked = int(re.search(r"--exit-timeout-secs=(\d+)", " ".join(container["args"]))[1])
    assert pod_templates(documents)["triton"]["spec"]["terminationGracePeriodSeconds"] > asked


def test_the_job_is_made_as_its_first_lines_say():
    image = "stage=registry.example/reelign-pipeline:1"
    made = tool("kubectl", "set", "env", "--local", "-f", STAGE_JOB, "STAGE=align@dpo", "-o", "yaml")
    made = tool("kubectl", "set", "image", "--local", "-f", "-", image, "-o", "yaml", stdin=made)
    [container] = yaml.safe_load(made)["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/reelign-pipeline:1"
    assert {"name": "STAGE", "value": "align@dpo"} in container["env"]
    assert container["args"] == ["reelign", "run-stage", "$(STAGE)"]
