"""`reelign submit-kfp` against a server that holds to the API of Kubeflow Pipelines; `make test-kfp`."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.orchestration.kubeflow import export
from components.pipeline.graph import stage_names
from components.serving.ports import free_ports

pytestmark = pytest.mark.kfp
TOKEN = "planted-token"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [".venv-kfp/bin/python", "-m", "tests.kubeflow_server", TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("submit") / "pipeline.yaml"
    export(out)
    return out


def submit(url: str, pipeline: Path, *options: str, token: str = TOKEN) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "components.cli.main", "submit-kfp", url, "--pipeline", str(pipeline), *options]
    return subprocess.run(command, env=os.environ | {"KFP_TOKEN": token}, capture_output=True, text=True)


def runs(url: str) -> list[dict]:
    with urllib.request.urlopen(f"{url}/runs") as answer:
        return json.load(answer)


def test_a_run_is_started_with_the_whole_graph_and_its_profile(url, pipeline):
    done = submit(url, pipeline, "--profile", "smoke", "--experiment", "nightly", "--wait")
    assert done.returncode == 0, done.stderr
    [run] = runs(url)
    assert f"run {run['run_id']} SUCCEEDED" in done.stdout and run["runtime_config"]["parameters"] == {"profile": "smoke"}
    tasks = run["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert {task["taskInfo"]["name"] for task in tasks.values()} == set(stage_names())
    assert not [task for task in tasks.values() if task["cachingOptions"].get("enableCache")]
    assert "kubernetes" in run["pipeline_spec"]["platform_spec"]["platforms"], "volumes and secrets go along"
    assert TOKEN not in json.dumps(run) + done.stdout + done.stderr
    again = submit(url, pipeline, "--experiment", "nightly")
    assert again.returncode == 0, again.stderr
    assert len({run["experiment_id"] for run in runs(url)}) == 1, "the experiment is the same"


@pytest.mark.parametrize(("profile", "end"), [("broken", "FAILED: stage source: exit code 2"), ("lost", "CANCELED")])
def test_a_run_that_does_not_succeed_is_exit_code_1(url, pipeline, profile, end):
    done = submit(url, pipeline, "--profile", profile, "--wait")
    assert done.returncode == 1 and done.stdout.rstrip().endswith(end), done.stdout + done.stderr


def test_a_refusal_is_one_line_with_the_servers_reason(url, pipeline, tmp_path):
    done = submit(url, pipeline, token="wrong")
    assert done.returncode == 2 and "answered 401" in done.stderr and "no valid token" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    damaged = tmp_path / "damaged.yaml"
    damaged.write_text(pipeline.read_text().replace("dependentTasks", "dependantTasks"))
    done = submit(url, damaged)
    assert done.returncode == 2 and "dependantTasks" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_server_it_is_exit_code_4(pipeline):
    done = submit(f"http://127.0.0.1:{free_ports(1)[0]}", pipeline)
    assert done.returncode == 4 and len(done.stderr.strip().splitlines()) == 1, done.stderr
