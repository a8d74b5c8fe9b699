"""The images: what they run as, what they carry, what they do not."""

import json
import os
import time

import pytest

from components.serving.ports import free_ports
from tests.containers.engine import BASE, REPOSITORY

pytestmark = pytest.mark.containers
# As Kubernetes' restricted profile wants it: a root that cannot be written, no privileges, no more places than needed.
LOCKED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")


@pytest.mark.parametrize("name", ["pipeline", "airflow"])
def test_labels_name_the_commit_and_nobody_is_root(engine, images, commit, name):
    found = json.loads(engine("inspect", images[name]))[0]
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["org.opencontainers.image.title"] and labels["org.opencontainers.image.licenses"]
    assert name != "airflow" or f"REELIGN_COMMIT_OF_IMAGE={commit}" in found["Config"]["Env"]
    user = found["Config"]["User"]
    assert user.split(":")[0].isdigit() and user != "0"  # a number: Kubernetes can see that it is not root
    print(f"{images[name]}: {found['Size'] / 1e6:.0f} MB")


@pytest.mark.parametrize("name", ["pipeline", "airflow"])
def test_nothing_of_the_machine_or_of_the_build_is_left(engine, images, name):
    authorities = "/etc/ssl/certs/ca-certificates.crt"
    look = f"sha256sum {authorities}; command -v uv gcc make; ls -A /var/lib/apt/lists /root /etc/uv; cat /opt/*/.git/config"
    run = ("run", "--rm", "--network=none", "--user=0", "--entrypoint=sh")
    left = engine(*run, images[name], "-c", f"({look}) 2>/dev/null; true")
    assert left.startswith(engine(*run, BASE, "-c", f"sha256sum {authorities}"))
    for word in ("/uv", "gcc", "/make", "debian.org", "uv.toml", str(REPOSITORY), "url ="):
        assert word not in left, left
    history = engine("history", "--no-trunc", images[name])
    wheels = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS") or "find-links"
    assert str(REPOSITORY) not in history and "127.0.0.1:4" not in history and wheels not in history


def test_the_pipeline_runs_on_a_root_that_cannot_be_written(engine, images, commit):
    said = engine(
        "run", "--rm", "--network=none", *LOCKED, "--mount=type=tmpfs,dst=/work", images["pipeline"], "sh", "-c",
        "id -u; git rev-parse HEAD; git status --porcelain; touch /x 2>&1; touch new 2>&1; reelign --help; "
        "python -c 'import torch, components; print(torch.__version__, components.__file__)'",
    )  # fmt: skip
    lines = said.splitlines()
    assert lines[:2] == ["10001", commit], said
    assert all(line.startswith("touch: cannot") and line.endswith("Read-only file system") for line in lines[2:4]), said
    assert "score" in said and lines[-1].endswith(" /opt/reelign/components/__init__.py")


def test_airflow_answers_in_good_health(engine, images):
    port = free_ports(1)[0]
    container = engine(
        "run", "--detach", "--network=host", *LOCKED, "--tmpfs=/opt/airflow:uid=10001",
        f"--env=AIRFLOW__API__PORT={port}", "--env=AIRFLOW__API__HOST=127.0.0.1", "--env=AIRFLOW__API__WORKERS=1",
        "--health-interval=2s", images["airflow"], "sh", "-c",
        "airflow db migrate && airflow dags list-import-errors && airflow dags reserialize && airflow dags list"
        " && exec airflow api-server",
    ).strip()  # fmt: skip
    deadline = time.monotonic() + 300
    while (state := json.loads(engine("inspect", container))[0]["State"])["Health"]["Status"] != "healthy":
        assert state["Running"] and time.monotonic() < deadline, engine("logs", container)
        time.sleep(1)
    said = engine("logs", container)
    engine("rm", "--force", "--volumes", container)
    assert all(dag in said for dag in ("retrain", "deploy", "monitor", "label")) and "No data found" in said, said
