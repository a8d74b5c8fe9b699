"""The stack of `make up`: closed, private, idempotent; a retraining of the smoke profile through it; kills."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import boto3
import psutil
import pytest
import requests

from tests import planted
from tests.running import command_of, until
from tests.stack.conftest import Airflow, Stack, make_checkout, stack_ports

pytestmark = pytest.mark.stack
MODEL = "reelign-smoke-video-reward"
NAMES = {
    *("postgres", "s3", "mlflow", "triton", "gateway"),
    *("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"),
}


def records(stack: Stack) -> dict[str, int]:
    return {file.stem: json.loads(file.read_text())["pid"] for file in (stack.folder / ".reelign/services").glob("*.json")}


def family(stack: Stack) -> list[psutil.Process]:
    parents = [psutil.Process(pid) for pid in records(stack).values()]
    return [*parents, *(child for parent in parents for child in parent.children(recursive=True))]


def serving(stack: Stack) -> str:
    """Digest of the model that clients are sent to, by what the server says."""
    found = requests.get(f"{stack.url('triton')}/v2/models/video_reward/config", timeout=30).json()
    return found["parameters"]["model_version"]["string_value"]


def test_all_listen_on_the_loopback_alone_and_postgres_is_not_roots(stack):
    assert set(records(stack)) == NAMES
    places, owners = set(), set()
    for one in family(stack):
        with contextlib.suppress(psutil.NoSuchProcess):  # a task's process, which has ended since
            listening = [link for link in one.net_connections("tcp") if link.status == psutil.CONN_LISTEN]
            places |= {link.laddr.ip.removeprefix("::ffff:") for link in listening}  # IPv4 in an IPv6 socket
            if one.name() == "postgres":
                owners.add(one.uids().real)
    assert places == {"127.0.0.1"}
    assert owners and 0 not in owners


def test_secrets_are_in_private_files_alone(stack):
    names = ("POSTGRES_PASSWORD", "AIRFLOW_DB_PASSWORD", "S3_ADMIN_SECRET_KEY", "AIRFLOW_ADMIN_PASSWORD", "GATEWAY_TOKEN")
    secrets = {name: stack.secret(name) for name in names}
    private = ("credentials.env", "environment.sh", "identities.json")
    assert planted.leaks(stack.folder / ".reelign", secrets, private) == []
    words = [command_of(one) for one in family(stack)]
    assert not [line for line in words if any(secret in line for secret in secrets.values())]


def test_a_second_up_tells_what_runs(stack):
    before = records(stack)
    done = stack.up()
    assert done.returncode == 0, done.stderr
    assert records(stack) == before and {line.split()[0] for line in done.stdout.splitlines()} >= NAMES
    other = stack.call("up", *stack.options(), f"--mlflow={stack.ports['mlflow'] - 1}")
    assert (other.returncode, other.stderr.count("\n")) == (2, 1) and "--mlflow: runs on" in other.stderr
    light = stack.call("up", "--light")
    assert (light.returncode, light.stderr.count("\n")) == (2, 1) and "of the form `stack` runs" in light.stderr


def test_a_retraining_through_it(stack):
    before = serving(stack)
    airflow = Airflow(stack)
    airflow.unpause("retrain", "deploy")
    begun = time.monotonic()
    run = airflow.trigger("retrain")
    state = airflow.ended("retrain", run)
    states = airflow.states("retrain", run)
    print(airflow.failed_logs(states))  # pytest shortens what an assertion says
    assert state == "success" and set(states.values()) == {"success"}, states
    print(f"retraining: {len(states)} tasks in {time.monotonic() - begun:.0f} s")
    deployed(airflow)
    version = registered(stack)["model_versions"][0]
    tags = {tag["key"]: tag["value"] for tag in version["tags"]}
    assert tags["model.digest"].startswith(serving(stack)) and serving(stack) != before
    assert champion(stack) == version["version"]
    held = objects(stack, "mlflow/")
    assert any(name.endswith("model.safetensors") for name in held) and objects(stack, "dvc/")
    assert not (stack.folder / "mlartifacts").exists() and not (stack.folder / "mlflow.db").exists()
    assert_scores(stack)


def deployed(airflow: Airflow) -> None:
    """DAG deploy has ended well, which the event of the new model starts."""
    until(lambda: airflow.runs("deploy"), "DAG deploy")
    (deploy,) = airflow.runs("deploy")
    assert airflow.ended("deploy", deploy["dag_run_id"]) == "success", airflow.states("deploy", deploy["dag_run_id"])


def registered(stack: Stack) -> dict:
    asked = f"{stack.url('mlflow')}/api/2.0/mlflow/model-versions/search"
    return requests.get(asked, params={"filter": f"name = '{MODEL}'"}, timeout=60).json()


def champion(stack: Stack) -> str:
    asked = f"{stack.url('mlflow')}/api/2.0/mlflow/registered-models/alias"
    found = requests.get(asked, params={"name": MODEL, "alias": "champion"}, timeout=60).json()
    return found["model_version"]["version"]


def objects(stack: Stack, prefix: str) -> list[str]:
    keys = {
        "aws_access_key_id": stack.secret("S3_ADMIN_ACCESS_KEY"),
        "aws_secret_access_key": stack.secret("S3_ADMIN_SECRET_KEY"),
    }
    client = boto3.client("s3", endpoint_url=stack.url("s3"), region_name="us-east-1", **keys)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="reelign", Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def assert_scores(stack: Stack) -> None:
    """The gateway has scores of the model that serves for who has the token, and for nobody else."""
    video = next((stack.folder / ".reelign/trees/source").rglob("*.mp4"))
    form = {"prompt": "a red circle"}
    with video.open("rb") as stream:
        refused = requests.post(f"{stack.url('gateway')}/v1/score", data=form, files={"video": stream}, timeout=60)
    assert refused.status_code == 401
    token = {"Authorization": f"Bearer {stack.secret('GATEWAY_TOKEN')}"}
    with video.open("rb") as stream:
        scored = requests.post(
            f"{stack.url('gateway')}/v1/score", data=form, files={"video": stream}, headers=token, timeout=60
        )
    assert scored.ok and serving(stack) in scored.text, scored.text


@pytest.mark.parametrize("name", ["triton", "s3", "postgres", "airflow-scheduler"])
def test_what_was_killed_comes_back(stack, name):
    assert stack.up().returncode == 0, "Airflow's own parts end with Postgres, later than it"
    before = records(stack)
    psutil.Process(before[name]).kill()
    until(lambda: not psutil.pid_exists(before[name]) or psutil.Process(before[name]).status() == "zombie", "its end")
    done = stack.up()
    assert done.returncode == 0, done.stderr
    after = records(stack)
    assert set(after) == NAMES and after[name] != before[name]


def test_a_backup_is_restored_elsewhere(stack, new_folder):
    """Versions, runs, DAG runs, and the bytes of a version's files."""
    place = new_folder("backup")
    done = stack.call("backup", str(place / "monday"))
    assert done.returncode == 0 and "credentials" in done.stdout, done.stderr
    assert (place / "monday").stat().st_mode & 0o077 == 0
    again = stack.call("backup", str(place / "monday"))
    assert again.returncode == 2 and "is there already" in again.stderr
    assert stack.call("restore", str(place / "monday")).returncode == 2, "not where a stack is"

    ports = stack_ports()
    other = Stack(make_checkout(new_folder("restored") / "checkout", ports), ports)
    (place / "half").mkdir()
    half = other.call("restore", str(place / "half"))
    assert half.returncode == 2 and "missing: no backup" in half.stderr
    try:
        listen = [f"--{name}={ports[name]}" for name in ("postgres", "s3")]
        done = other.call("restore", str(place / "monday"), *listen)
        assert done.returncode == 0, done.stderr
        assert other.processes() == []
        assert stack.call("down").returncode == 0  # two stacks are much for two cores
        done = other.up()
        assert done.returncode == 0, done.stderr
        assert len(Airflow(other).runs("retrain")) == 1
        assert champion(other) == registered(other)["model_versions"][0]["version"]
        fetched = subprocess.run(
            [sys.executable, "-c", FETCH], cwd=other.folder, env=other.environ(), capture_output=True, text=True
        )
        assert fetched.returncode == 0, fetched.stderr
        assert fetched.stdout.strip() == registered_digest(other)
    finally:
        assert other.call("down").returncode == 0
    assert stack.up().returncode == 0


FETCH = f"""
from components.registry.versions import connect, fetch, find
print(fetch(find(connect(), "{MODEL}", "champion")).digest)
"""


def registered_digest(stack: Stack) -> str:
    return {tag["key"]: tag["value"] for tag in registered(stack)["model_versions"][0]["tags"]}["model.digest"]


def test_down_leaves_nothing_and_up_brings_all_back(stack):
    had = champion(stack)
    done = stack.call("down")
    assert done.returncode == 0, done.stderr
    assert stack.processes() == [] and records(stack) == {}
    begun = time.monotonic()
    assert stack.up().returncode == 0
    print(f"again all healthy after {time.monotonic() - begun:.1f} s")
    assert champion(stack) == had and objects(stack, "mlflow/")


def test_a_killed_up_is_cleaned_up_by_down(new_folder):
    """While Airflow's tables are made: Postgres and S3 run, and a program that `up` waits for."""
    ports = stack_ports()
    stack = Stack(make_checkout(new_folder("killed") / "checkout", ports), ports)
    up = subprocess.Popen(
        stack.command("up", *stack.options()), cwd=stack.folder, env=stack.environ(), stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: any("migrate" in command_of(one) for one in stack.processes()), "airflow db migrate")
        during = stack.call("up", *stack.options())
        assert during.returncode == 2 and re.search(r"is being written by process \d+", during.stderr)
        up.send_signal(signal.SIGKILL)
        up.wait()
        assert len(stack.processes()) > 3
    finally:
        up.kill()
        done = stack.call("down")
    assert done.returncode == 0 and stack.processes() == []


def test_a_taken_port_is_one_line_and_nothing_starts(new_folder):
    ports = stack_ports()
    stack = Stack(make_checkout(new_folder("taken") / "checkout", ports), ports)
    with socket.create_server(("127.0.0.1", ports["s3"] + 2)):
        done = stack.up()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"error: --s3: another process listens on port {ports['s3'] + 2}" in done.stderr
    ports["gateway"] = ports["triton"] + 1
    done = stack.up()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "is another service's too" in done.stderr
    if os.geteuid() == 0:
        ports |= stack_ports()
        stack.folder.parent.chmod(0o700)
        done = stack.up()
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "`chmod o+x " in done.stderr
    assert records(stack) == {} and stack.processes() == []
