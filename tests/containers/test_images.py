"""The images: what they run as, what they carry, what they do not."""

import json

import pytest

from tests.containers.engine import BASE, REPOSITORY

pytestmark = pytest.mark.containers
# As Kubernetes' restricted profile wants it: a root that cannot be written, no privileges, two places to write to.
LOCKED = ("run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp")


def described(engine, image: str) -> dict:
    return json.loads(engine("inspect", image))[0]


@pytest.mark.parametrize("name", ["pipeline", "airflow"])
def test_labels_name_the_commit_and_nobody_is_root(engine, images, commit, name):
    found = described(engine, images[name])
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["org.opencontainers.image.title"] and labels["org.opencontainers.image.licenses"]
    user = found["Config"]["User"]
    assert user.split(":")[0].isdigit() and user != "0"  # a number: Kubernetes can see that it is not root
    print(f"{images[name]}: {found['Size'] / 1e6:.0f} MB")


@pytest.mark.parametrize("name", ["pipeline", "airflow"])
def test_nothing_of_the_machine_or_of_the_build_is_left(engine, images, name):
    assert "http://" not in (history := engine("history", "--no-trunc", images[name])) and str(REPOSITORY) not in history
    authorities = ("--entrypoint=sha256sum", BASE, "/etc/ssl/certs/ca-certificates.crt")
    of_base = engine("run", "--rm", "--network=none", *authorities)
    of_image = engine("run", "--rm", "--network=none", authorities[0], images[name], authorities[2])
    assert of_image == of_base
    look = "command -v uv gcc make; ls /opt /var/lib/apt/lists /root /tmp; cat /opt/reelign.git/config 2>/dev/null"
    left = engine(*LOCKED, "--user=0", "--entrypoint=sh", images[name], "-c", f"{look}; true")
    for word in ("/uv", "gcc", "/make", "debian.org", "cache", str(REPOSITORY)):
        assert word not in left, left


def test_the_pipeline_runs_on_a_root_that_cannot_be_written(engine, images, commit):
    said = engine(
        *LOCKED, "--mount=type=tmpfs,dst=/work", images["pipeline"], "sh", "-c",
        "id -u; git rev-parse HEAD; git status --porcelain; touch /x /opt/x 2>&1; reelign --help; "
        "python -c 'import torch, components; print(torch.__version__, components.__file__)'",
    )  # fmt: skip
    lines = said.splitlines()
    assert lines[:2] == ["10001", commit] and lines[2].startswith("touch: cannot touch '/x': Read-only"), said
    assert "score" in said and lines[-1].endswith(" /work/components/__init__.py")


def test_a_work_tree_that_has_a_checkout_keeps_it(engine, images):
    said = engine(
        *LOCKED, "--mount=type=tmpfs,dst=/work", images["pipeline"], "sh", "-c",
        "echo mine >> params.yaml; work-tree git diff --stat",
    )  # fmt: skip
    assert "params.yaml | 1 +" in said


def test_airflow_parses_the_dags(engine, images):
    said = engine(
        *LOCKED, "--mount=type=tmpfs,dst=/opt/airflow", images["airflow"], "sh", "-c",
        "airflow db migrate > /tmp/log 2>&1 || cat /tmp/log; airflow dags list-import-errors; airflow dags reserialize; airflow dags list",
    )  # fmt: skip
    assert "No data found" in said and "retrain" in said
