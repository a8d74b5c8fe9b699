"""Values for Airflow's own chart, which AIRFLOW_CHART names (its folder or archive).

helm pull airflow --repo https://airflow.apache.org --version 1.22.0
AIRFLOW_CHART=airflow-1.22.0.tgz make test-infra
"""

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import build, documented_secrets, helm, names, of_kind, pod_templates, references, tool

pytestmark = pytest.mark.infra

VALUES = Path("infra/helm/airflow-values.yaml")


def test_values_name_what_the_manifests_make():
    values = yaml.safe_load(VALUES.read_text())
    base = build("base")
    assert set(references(values, "priorityClassName")) <= names(base, "PriorityClass")
    assert {account["name"] for account in references(values, "serviceAccount")} <= names(base, "ServiceAccount")
    secrets = {name for name, _ in documented_secrets()}
    named = [values[key] for key in values if key.endswith("SecretName")]
    assert {*named, values["data"]["metadataSecretName"]} <= secrets
    assert set(re.findall(r"name: ([\w-]+)", values["extraEnvFrom"])) <= secrets | names(base, "ConfigMap")
    locked = re.search(r"^apache-airflow==(\S+)", Path("docker/locks/orchestrator.txt").read_text(), re.MULTILINE)
    assert values["airflowVersion"] == locked[1]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    chart = os.environ.get("AIRFLOW_CHART")
    if not chart:
        pytest.skip("AIRFLOW_CHART is not set: values not held against the chart's schema")
    run = helm("template", "airflow", chart, "--namespace", "reelign", "--kube-version", "1.35", "-f", VALUES)
    assert run.returncode == 0, run.stderr  # helm holds values against values.schema.json first
    path = tmp_path_factory.mktemp("airflow") / "rendered.yaml"
    path.write_text(run.stdout)
    tool("kubernetes-validate", "--strict", "--quiet", path)
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def test_the_charts_pods_are_restricted_as_ours_are(rendered):
    templates = pod_templates(rendered)
    assert {"airflow-scheduler", "airflow-triggerer", "airflow-dag-processor", "airflow-api-server"} <= set(templates)
    for name, template in templates.items():
        spec = template["spec"]
        launches = name in ("airflow-scheduler", "airflow-triggerer")
        assert spec["serviceAccountName"] == ("reelign-launcher" if launches else "reelign-airflow"), name
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}, (
                name,
                container["name"],
            )
            assert context["allowPrivilegeEscalation"] is False
        assert template["metadata"]["labels"]["tier"] == "airflow", "what network policies select"


def test_the_chart_gives_no_rights_of_its_own(rendered):
    assert not of_kind(rendered, "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "ServiceAccount")


def test_secrets_are_references_to_documented_ones(rendered):
    known = documented_secrets()
    for reference in references(rendered, "secretKeyRef"):
        assert (reference["name"], reference["key"]) in known
