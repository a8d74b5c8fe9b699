"""infra/compose.yaml: valid, closed to the network, and without a password of its own."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import tool

COMPOSE = Path("infra/compose.yaml")
EXAMPLE = Path("infra/compose.env.example")
JOBS_THAT_END = {"airflow-init", "s3-init"}
USERS = {"postgres": "postgres", "s3": "0:0", "prometheus": "65534:65534", "grafana": "472:0"}  # of images that are not ours


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load(COMPOSE.read_text())["services"]


def variables() -> set[str]:
    return set(re.findall(r"^(\w+)=", EXAMPLE.read_text(), re.MULTILINE))


@pytest.mark.infra
def test_it_is_what_the_specification_says():
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_docker_compose_takes_it():
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("no `docker compose` on this machine")
    command = ["docker", "compose", "-f", COMPOSE, "config", "--quiet"]
    filled = {name: "1" for name in variables()}
    run = subprocess.run(command, env={**os.environ, **filled}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    del filled["POSTGRES_PASSWORD"]
    bare = {name: value for name, value in os.environ.items() if name != "POSTGRES_PASSWORD"}
    run = subprocess.run(command, env={**bare, **filled}, capture_output=True, text=True)
    assert run.returncode != 0 and "POSTGRES_PASSWORD" in run.stderr


def test_every_variable_is_asked_for_and_explained():
    used = set(re.findall(r"(?<!\$)\$\{(\w+)(:[?-])?", COMPOSE.read_text()))
    assert {name for name, kind in used if kind == ":?"} == variables()
    assert {name for name, kind in used if kind != ":?"} == {"DOCKER_SOCKET", "REGISTRY"}, "no secret has a default"
    lines = [line for line in EXAMPLE.read_text().splitlines() if re.match(r"\w+=", line)]
    assert all(re.fullmatch(r"\w+=\s+# .+", line) for line in lines), "an empty value and the command that makes one"


def test_no_secret_is_written_down(services):
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|TOKEN", name):
                assert re.fullmatch(r"\$\{\w+:\?\}", value), name


def test_every_service_is_kept_alive_watched_and_held(services):
    for name, service in services.items():
        assert service["restart"] == ("no" if name in JOBS_THAT_END else "unless-stopped"), name
        assert name in JOBS_THAT_END or {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"]), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
        assert service["user"] == USERS.get(name, "10001:10001")
        assert service.get("read_only") or name == "postgres"
        tag = service["image"].rpartition("/")[2].partition(":")[2]
        assert tag and "latest" not in tag


def test_ports_are_the_loopbacks_own(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert {port.split(":")[0] for port in ports} == {"127.0.0.1"}
    assert len(ports) == len({port.split(":")[1] for port in ports}) == 10


def test_volumes_and_services_named_are_there(services):
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        for volume in service.get("volumes", []):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("./"):
                assert (COMPOSE.parent / source).exists()
            else:
                assert source in volumes or source.startswith(("../serving", "../params.yaml", "${DOCKER_SOCKET"))
