"""The Helm chart: what its values change, which it refuses, and what no rendering has; needs Helm (`make .helm/installed`).

What the rendered objects have to hold to is in test_kubernetes.py.
"""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config.params import load_params
from tests.infra.manifests import (
    CHART,
    VALUES,
    Document,
    allowed,
    build,
    documented_secrets,
    files_of,
    helm,
    names,
    of_kind,
    pod_templates,
    references,
    render,
    tool,
)

pytestmark = pytest.mark.infra

DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
FREE = {("triton", "nodeSelector"), ("ingress", "gateway", "annotations"), ("ingress", "mlflow", "annotations")}
WAYS = (
    '--set-json=ingress.gateway={"enabled": true, "host": "scores.example"}',
    '--set-json=ingress.mlflow={"enabled": true, "host": "mlflow.example"}',
)
SECRET = re.compile(r"PASSWORD|SECRET|KEY|TOKEN|CREDENTIAL", re.IGNORECASE)


def sections(values: Any = DEFAULTS, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the maps that the schema closes."""
    if isinstance(values, dict) and at not in FREE:
        yield at
        for key, value in values.items():
            yield from sections(value, (*at, key))


def leaves(values: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, value) of what is no section."""
    if isinstance(values, dict) and at not in FREE:
        for key, value in values.items():
            yield from leaves(value, (*at, key))
    else:
        yield at, values


def option(at: tuple[str, ...], value: Any) -> str:
    return f"--set-json={'.'.join(at)}={json.dumps(value)}"


def refusal(*options: str) -> str:
    run = helm("template", "reelign", CHART, *options)
    assert run.returncode != 0, "taken"
    return run.stderr


@pytest.mark.parametrize("values", VALUES)
def test_helm_has_no_complaint(values):
    run = helm("lint", "--strict", CHART, *files_of(values))
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_chart_is_of_the_projects_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == project
    assert {DEFAULTS["images"][name]["tag"] for name in ("pipeline", "triton")} == {project}


@pytest.mark.parametrize("at", list(sections()), ids=".".join)
def test_a_misspelt_key_is_refused_by_name(at):
    assert f"at '{''.join(f'/{key}' for key in at)}': additional properties 'sizes' not allowed" in refusal(
        option((*at, "sizes"), "1Gi")
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("triton.replicas=many", "/triton/replicas"),
        ("triton.served.size=ten", "/triton/served/size"),
        ("images.triton.digest=sha256:12", "/images/triton/digest"),
        ("images.triton.tag=", "/images/triton/tag"),
        ("s3.endpoint=s3.example", "/s3/endpoint"),
        ("ingress.gateway.enabled=true", "/ingress/gateway/host"),
        ("secrets.triton=Not A Name", "/secrets/triton"),
        ("network.s3.cidrs={10.0.0.1}", "/network/s3/cidrs/0"),
        ("triton.gpus=null", "missing property 'gpus'"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(given, named):
    assert named in refusal(f"--set={given}")


# A value unlike the default, by the last key.
OTHERS = {"cpu": "7", "digest": f"sha256:{'1' * 64}", "endpoint": "https://other.example", "accessMode": "ReadWriteOnce"}
OTHERS |= dict.fromkeys(("memory", "memoryLimit", "maxMemory", "ephemeral-storage", "size"), "7Gi")
OTHERS |= {"cidrs": ["10.0.0.0/8"], "imagePullSecrets": ["other"], "nodeSelector": {"a": "b"}, "annotations": {"a": "b"}}
OTHERS |= {"tolerations": [{"operator": "Exists"}]}


@pytest.fixture(scope="module")
def renderings():
    """With everything in the cluster, and with S3 and Postgres outside."""
    return {values: render(values, *WAYS) for values in ("one-machine", "base")}


IN_USE = DEFAULTS | {
    "ingress": DEFAULTS["ingress"] | {way: DEFAULTS["ingress"][way] | {"enabled": True} for way in ("gateway", "mlflow")}
}


@pytest.mark.parametrize(("at", "value"), [pytest.param(*leaf, id=".".join(leaf[0])) for leaf in leaves(IN_USE)])
def test_every_value_does_something(renderings, at, value):
    other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else OTHERS.get(at[-1], "other")
    changed = any(render(values, *WAYS, option(at, other)) != before for values, before in renderings.items())
    assert other != value and changed, "no template reads it"


def test_everything_is_in_the_releases_namespace():
    documents = build("one-machine", "--namespace=other", *WAYS)
    [namespace] = of_kind(documents, "Namespace")
    assert namespace["metadata"]["name"] == "other"
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for document in documents:
        if document["kind"] not in ("Namespace", "PriorityClass"):
            assert document["metadata"]["namespace"] == "other", document["metadata"]["name"]
    assert [subject["namespace"] for d in of_kind(documents, "RoleBinding") for subject in d["subjects"]] == ["other"]


def test_what_a_second_release_or_an_administrator_has_made_is_not_made():
    documents = build("base", "--set=namespace.create=false,priorityClass.create=false")
    assert not of_kind(documents, "Namespace", "PriorityClass")
    assert len(documents) == len(build("base")) - 2


def test_what_holds_data_or_secrets_outlives_the_release():
    kept = {
        (document["kind"], document["metadata"]["name"])
        for document in build("one-machine")
        if document["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {("Namespace", "reelign"), ("PersistentVolumeClaim", "reelign-served")}


def test_without_ingresses_nothing_is_let_in():
    for values in VALUES:
        documents = build(values)
        assert not of_kind(documents, "Ingress")
        rules = [d["spec"].get("ingress", []) for d in of_kind(documents, "NetworkPolicy")]
        assert "ingress-nginx" not in json.dumps(rules)


def test_an_ingress_leads_to_its_service_alone(tmp_path):
    documents = build("base", *WAYS, "--set=ingress.className=nginx,ingress.gateway.tlsSecret=scores-tls")
    assert names(documents, "Ingress") == {"gateway", "mlflow"}
    (tmp_path / "documents.yaml").write_text(yaml.safe_dump_all(documents))
    tool("kubernetes-validate", "--strict", "--no-warn", tmp_path / "documents.yaml")
    services = {service["metadata"]["name"]: service for service in of_kind(documents, "Service")}
    for ingress in of_kind(documents, "Ingress"):
        [rule] = ingress["spec"]["rules"]
        [path] = rule["http"]["paths"]
        service = path["backend"]["service"]
        assert service["name"] == ingress["metadata"]["name"] and ingress["spec"]["ingressClassName"] == "nginx"
        assert service["port"]["name"] in {port["name"] for port in services[service["name"]]["spec"]["ports"]}
    [gateway] = [d for d in of_kind(documents, "Ingress") if d["metadata"]["name"] == "gateway"]
    assert gateway["spec"]["tls"] == [{"hosts": ["scores.example"], "secretName": "scores-tls"}]
    [server] = pod_templates(documents)["mlflow"]["spec"]["containers"]
    assert "--allowed-hosts=mlflow,mlflow:*,localhost:*,mlflow.example" in server["args"]


@pytest.mark.parametrize(("way", "opened"), [(WAYS[0], {"gateway"}), (WAYS[1], {"mlflow"})])
def test_an_ingress_controller_reaches_what_has_an_ingress(way, opened):
    let_in = set()
    for policy in of_kind(build("base", way, "--set=ingress.controllerNamespace=edge"), "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            if {"kubernetes.io/metadata.name": "edge"} in references(rule, "matchLabels"):
                let_in.add(policy["metadata"]["name"])
                assert len(rule["ports"]) == 1
    assert let_in == opened


def config(documents: list[Document]) -> dict[str, str]:
    [found] = [d["data"] for d in of_kind(documents, "ConfigMap") if d["metadata"]["name"] == "reelign"]
    return found


@pytest.mark.parametrize(
    ("endpoint", "repository", "port"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "s3://ours/serving/model_repository", 443),
        ("https://minio.example", "s3://https://minio.example:443/ours/serving/model_repository", 443),
        ("http://minio.example", "s3://http://minio.example:80/ours/serving/model_repository", 80),
        ("http://10.0.0.7:9000", "s3://http://10.0.0.7:9000/ours/serving/model_repository", 9000),
    ],
)
def test_another_s3_is_reached_by_all(endpoint, repository, port):
    documents = build("base", f"--set=s3.endpoint={endpoint},s3.bucket=ours")
    found = config(documents)
    assert found["AWS_ENDPOINT_URL_S3"] == endpoint and found["MODEL_REPOSITORY"] == repository
    assert found["REELIGN_REMOTE"] == "s3://ours/dvc" and found["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://ours/mlflow"
    pods = [{"app.kubernetes.io/name": name} for name in ("stage", "mlflow", "triton")]
    assert all(allowed(documents, pod, None, port) for pod in [*pods, {"tier": "airflow"}])


def test_addresses_narrow_the_ways_out():
    cidrs = "--set=network.postgres.cidrs={10.0.4.7/32},network.postgres.port=6432,network.s3.cidrs={10.0.5.0/24}"
    documents = build("base", cidrs, "--set=s3.endpoint=http://10.0.5.1:9000")
    found = set()
    for policy in of_kind(documents, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for peer in references(rule, "ipBlock"):
                found |= {(policy["metadata"]["name"], peer["cidr"], port["port"]) for port in rule["ports"]}
    postgres = {(name, "10.0.4.7/32", 6432) for name in ("mlflow", "airflow")}
    assert found == postgres | {(name, "10.0.5.0/24", 9000) for name in ("s3", "airflow")}
    for name, port in (("mlflow", 6432), ("mlflow", 9000), ("triton", 9000), ("stage", 9000)):
        assert not allowed(documents, {"app.kubernetes.io/name": name}, None, port)
    assert not allowed(documents, {"tier": "airflow"}, None, 6432)


def test_a_changed_setting_makes_new_pods_of_what_reads_it():
    before, after = build("base"), build("base", "--set=s3.bucket=ours")
    changed = {name for name, template in pod_templates(after).items() if template != pod_templates(before)[name]}
    assert changed == {"mlflow", "triton"}


def test_storage_classes_are_the_clusters_own_unless_named():
    assert not references(build("one-machine"), "storageClassName")
    classes = "--set=triton.served.storageClass=nfs,oneMachine.postgres.storageClass=fast,oneMachine.s3.storageClass=large"
    assert sorted(references(build("one-machine", classes), "storageClassName")) == ["fast", "large", "nfs"]


@pytest.mark.parametrize("values", VALUES)
def test_no_value_of_a_secret_is_in_a_rendering(values):
    """A variable of such a name comes by reference, no configuration has one, and no address has a password."""
    documents = build(values, *WAYS)
    assert not of_kind(documents, "Secret")
    for variables in references(documents, "env"):
        for variable in variables:
            assert not SECRET.search(variable["name"]) or set(variable) == {"name", "valueFrom"}, variable["name"]
    for document in of_kind(documents, "ConfigMap"):
        assert not [key for key in document["data"] if SECRET.search(key)]
        for text in document["data"].values():
            assert set(re.findall(r"PASSWORD (\S+);", text)) <= {":'mlflow'", ":'airflow'"}, "variables of psql"
    assert not re.search(r"://[^/\s:@]+:[^/\s@]+@", json.dumps(documents))


def test_secrets_of_other_names_are_read():
    given = {name: f"our-{name.lower()}" for name in DEFAULTS["secrets"]}
    documents = build("one-machine", f"--set-json=secrets={json.dumps(given)}")
    read = {reference["name"] for key in ("secretRef", "secretKeyRef") for reference in references(documents, key)}
    assert read | set(references(documents, "secretName")) == set(given.values())


@pytest.mark.parametrize("values", VALUES)
def test_notes_name_the_secrets_to_make_first(values):
    run = helm("install", "reelign", CHART, "--namespace=reelign", "--dry-run=client", *files_of(values))
    assert run.returncode == 0, run.stderr
    notes = run.stdout.partition("NOTES:\n")[2]
    told = {
        (name, key)
        for name, keys in re.findall(r"kubectl -n reelign create secret generic (\S+)(.*)", notes)
        for key in re.findall(r"--from-\w+=([\w.-]+)=\.\.\.", keys)
    }
    read = {reference["name"] for key in ("secretRef", "secretKeyRef") for reference in references(build(values), key)}
    read |= {*references(build(values), "secretName"), load_params().orchestration.kubernetes.secret, "reelign-airflow"}
    assert told == {(name, key) for name, key in documented_secrets() if name in read}
    assert notes.startswith("First make the secrets")
