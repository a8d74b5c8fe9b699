"""What the tests of infra/ read: manifests as Helm renders them, and who may talk to whom by their network policies."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TOOLS = Path(".venv-infra/bin")
CHART = Path("infra/helm/reelign")
STAGE_JOB = Path("infra/helm/stage-job.yaml")
# Sets of values by name, each with its files.
VALUES = {"base": (), "gpu": (CHART / "values-gpu.yaml",), "one-machine": (CHART / "values-one-machine.yaml",)}
Document = dict[str, Any]


def tool(name: str, *arguments: str | Path, stdin: str | None = None) -> str:
    """Standard output of a tool of the infra environment; AssertionError with all it said when it fails."""
    run = subprocess.run([TOOLS / name, *arguments], input=stdin, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def helm(*arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """A finished run of Helm: the program that HELM names, the one on PATH, or that of `make .helm/installed`. The
    test is skipped where there is none."""
    program = shutil.which(os.environ.get("HELM") or "helm") or shutil.which(".helm/helm")
    if program is None:
        pytest.skip("no Helm: it is not on PATH, and `make .helm/installed` has not fetched it")
    return subprocess.run([program, *arguments], env=os.environ | (environment or {}), capture_output=True, text=True)


def files_of(values: str) -> list[str]:
    """Options of Helm for the set of values `values`."""
    return [f"--values={file}" for file in VALUES[values]]


def render(values: str, *options: str) -> str:
    """The rendering of a set of values, for namespace reelign unless `options` name another one."""
    run = helm("template", "reelign", CHART, "--namespace=reelign", *files_of(values), *options)
    assert run.returncode == 0, run.stderr
    return run.stdout


def build(values: str, *options: str) -> list[Document]:
    """The documents of `render`."""
    return [document for document in yaml.safe_load_all(render(values, *options)) if document]


def stage_job() -> Document:
    return yaml.safe_load(STAGE_JOB.read_text())


def shared_stage() -> list[Document]:
    """The Job of a stage on two nodes and its Service, as dags/nodes.py makes them (tests/dags/test_runners.py)."""
    golden = json.loads(Path("tests/dags/golden/kubernetes-nodes-align.dpo.json").read_text())
    return [golden["job"], golden["service"]]


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def names(documents: list[Document], kind: str) -> set[str]:
    return {document["metadata"]["name"] for document in of_kind(documents, kind)}


def pod_templates(documents: list[Document]) -> dict[str, Document]:
    """Pod templates by the name of what makes them."""
    workloads = of_kind(documents, "Deployment", "StatefulSet", "DaemonSet", "Job")
    return {work["metadata"].get("name", "stage"): work["spec"]["template"] for work in workloads}


def references(value: Any, key: str) -> list[Any]:
    """Every value of `key` anywhere in `value`."""
    found = []
    if isinstance(value, dict):
        found += [value[key]] if key in value else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            found += references(item, key)
    return found


def documented_secrets() -> set[tuple[str, str]]:
    """(secret, key) of the table in the chart's README.md."""
    return set(re.findall(r"^\| `([\w-]+)` \| `([\w.-]+)` \|", (CHART / "README.md").read_text(), re.MULTILINE))


def selects(selector: Document, labels: dict[str, str]) -> bool:
    matches = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        matches = matches and labels.get(expression["key"]) in expression["values"]
    return matches


def allowed(documents: list[Document], client: dict[str, str] | None, server: dict[str, str] | None, port: int) -> bool:
    """Whether the policies let pods labelled `client` open TCP `port` of pods labelled `server`; None is somebody outside
    the cluster. As Kubernetes has it: a pod that a policy selects may do only what some policy says, on either side."""
    return _passes(documents, client, "Egress", server, port) and _passes(documents, server, "Ingress", client, port)


def _passes(documents: list[Document], pod: dict[str, str] | None, way: str, peer: dict[str, str] | None, port: int) -> bool:
    if pod is None:
        return True
    specs = [policy["spec"] for policy in of_kind(documents, "NetworkPolicy")]
    specs = [spec for spec in specs if way in spec["policyTypes"] and selects(spec["podSelector"], pod)]
    if not specs:
        return True
    side = "to" if way == "Egress" else "from"
    for rule in (rule for spec in specs for rule in spec.get(way.lower(), [])):
        ports = rule.get("ports")
        peers = rule.get(side)
        right_port = ports is None or any(p["port"] == port and p.get("protocol", "TCP") == "TCP" for p in ports)
        right_peer = peers is None or any(
            peer is not None and "podSelector" in p and "namespaceSelector" not in p and selects(p["podSelector"], peer)
            for p in peers
        )
        if right_port and right_peer:
            return True
    return False
