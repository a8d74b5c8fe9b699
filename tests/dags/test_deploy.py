"""DAG `deploy` to a real Triton: a champion rolls over, a challenger is refused, a version that was damaged on the way goes
back. Models of the smoke profile, by the local runner; minutes."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dag-runs")

from components.serving.ports import free_ports
from tests.dags.conftest import leaks, run, run_dag, tasks

MODEL = "video_reward_model"
# Between roll_over and verify: a disk that changes a byte or two, and a server that reads it.
DAMAGE = """
import json, os, pathlib, urllib.request
key = os.environ["REELIGN_TRITON_KEY"]
facts = max(pathlib.Path("{live}/video_reward_model").glob("[0-9]*")) / "video_reward/video_reward.json"
values = json.loads(facts.read_text())
values["normalisation"]["VQ"]["mean"] += 1
facts.write_text(json.dumps(values))
load = urllib.request.Request("{url}/v2/repository/models/video_reward_model/load", b"{{}}", {{"reelign-key": key}})
urllib.request.urlopen(load, timeout=120)
"""

# By hand: the second is champion again.
CHAMPION = """
from components.registry.versions import connect
connect().set_registered_model_alias("reelign-smoke-video-reward", "champion", "2")
"""


def reelign(checkout: Path, environ: dict[str, str], *words: str) -> str:
    return run(checkout, ".venv-ml/bin/python", "-m", "components.cli.main", *words, env=environ)


def train(checkout: Path, environ: dict[str, str], rate: str, *stages: str) -> None:
    """Stages with this rate of learning: another one makes another model."""
    params = checkout / "params.yaml"
    params.write_text(re.sub(r"(vision_learning_rate): \S+", rf"\1: {rate}", params.read_text()))
    for stage in stages:
        reelign(checkout, environ, "run-stage", stage)


@pytest.fixture(scope="module")
def server(checkout, environ):
    """Triton with the first model trained here; the second one is the registry's challenger. Nobody is champion."""
    params, port = checkout / "params.yaml", free_ports(1)[0]
    url, live = f"http://127.0.0.1:{port}", checkout / "serving/live"
    text = params.read_text().replace("http://127.0.0.1:8000", url).replace("latency_ratio: 2.0", "latency_ratio: 50")
    # After a dozen steps no model earns it.
    params.write_text(
        text.replace("min_accuracy: 0.5, max_calibration_error: 0.1", "min_accuracy: 0, max_calibration_error: 1")
    )
    train(checkout, environ, "0.0005", "source", "measure", "curate", "pairs", "reward", "reward_bench", "package")
    shutil.copytree(checkout / ".reelign/trees/package/serving/model_repository", live)
    train(checkout, environ, "0.0004", "reward", "reward_bench")
    with open(checkout.parent / "serve.log", "w") as log:
        process = subprocess.Popen(
            [".venv-ml/bin/python", "-m", "components.cli.main", "serve", "--live", str(live), "--http-port", str(port)],
            cwd=checkout, env=environ, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 240
        while "metrics http" not in (checkout.parent / "serve.log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (checkout.parent / "serve.log").read_text()
            time.sleep(0.5)
        yield url, live
    finally:
        process.terminate()
        process.wait(60)
    assert "lost its process" not in (checkout.parent / "serve.log").read_text(), "versions came and went in order"


def serving(url: str) -> str:
    """Digest of the model that clients are sent to, by what the server says."""
    with urllib.request.urlopen(f"{url}/v2/models/video_reward/config", timeout=30) as answer:
        return json.load(answer)["parameters"]["model_version"]["string_value"]


def versions(live: Path) -> set[str]:
    return {path.name for path in (live / MODEL).glob("[0-9]*")}


def states(environ: dict[str, str]) -> dict[str, str]:
    return {task: state for task, (state, _) in tasks(environ).items()}


def deploy(checkout: Path, environ: dict[str, str], state: str, dags: Path | None = None, **conf: str) -> str:
    log = run_dag(checkout, environ, conf, "deploy", dags)
    assert log.rstrip().splitlines()[-1].endswith(state), log[-8000:]
    return log


AFTER = ("is_served", "roll_over", "verify", "refuted", "roll_back", "deployed")


def test_the_first_champion_rolls_over(server, checkout, environ):
    url, live = server
    before = serving(url)
    log = deploy(checkout, environ, "success")
    assert "reelign-smoke-video-reward/2 is champion, the first" in log and "version 2 serves: video_reward/champion" in log
    assert re.search(r"video_reward/champion serves: \d+ videos have its own scores", log)
    assert states(environ) == dict.fromkeys(("promote", *AFTER), "success") | {"refuted": "skipped", "roll_back": "skipped"}
    assert serving(url) != before and versions(live) == {"1", "2"}


def test_again_nothing_is_rolled_over(server, checkout, environ):
    """As a retry, or a run for an event that brought no new model."""
    url, live = server
    before = serving(url)
    log = deploy(checkout, environ, "success", challenger="2")
    assert "reelign-smoke-video-reward/2 is champion already" in log and "version 2 serves already" in log
    assert serving(url) == before and versions(live) == {"1", "2"}


def test_a_challenger_that_is_refused_skips_the_rest(server, checkout, environ):
    url, live = server
    before = serving(url)
    log = deploy(checkout, environ, "success", challenger="1")
    assert "not promoted" in log and "no_gain" in log
    assert states(environ) == dict.fromkeys(("promote", *AFTER), "skipped")
    assert serving(url) == before and versions(live) == {"1", "2"}


def test_what_was_damaged_on_the_way_goes_back_and_the_run_is_red(server, checkout, environ, tmp_path):
    url, live = server
    before = serving(url)
    (tmp_path / "damage.py").write_text(DAMAGE.format(live=live, url=url))
    text = (
        (checkout / "dags/deploy.py").read_text()
        + f"""
from airflow.providers.standard.operators.bash import BashOperator
damage = BashOperator(task_id="damage", bash_command="python3 {tmp_path}/damage.py", dag=dag)
dag.get_task("roll_over") >> damage >> dag.get_task("verify")
"""
    )
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/deploy.py").write_text(text)
    log = deploy(checkout, environ, "failed", tmp_path / "dags")
    assert "version 1 serves again" in log and re.search(r"error: .*: served .*, offline ", log), log[-8000:]
    found = states(environ)
    assert [found[name] for name in ("roll_over", "damage", "verify")] == ["success", "success", "failed"]
    assert [found[name] for name in ("refuted", "roll_back", "deployed")] == ["success", "success", "upstream_failed"]
    assert serving(url) != before and serving(url) == first_model(checkout)
    assert "reelign-smoke-video-reward/1 is champion again, after 2 was rolled back" in log, log[-8000:]

    run(checkout, ".venv-ml/bin/python", "-c", CHAMPION, env=environ)
    log = deploy(checkout, environ, "success", challenger="2")
    assert "version 3 serves" in log, "a whole copy of the same champion"
    assert serving(url) == before and versions(live) == {"1", "2", "3"}


def first_model(checkout: Path) -> str:
    """Digest of the model that was packaged."""
    config = checkout / ".reelign/trees/package/serving/model_repository/video_reward/config.pbtxt"
    return re.search(r'"model_version" value { string_value: "(\w+)"', config.read_text())[1]


def test_a_server_that_is_away_ends_red_and_nothing_goes_back(server, checkout, environ):
    """Last: a port where nobody listens."""
    params = checkout / "params.yaml"
    params.write_text(params.read_text().replace(server[0], f"http://127.0.0.1:{free_ports(1)[0]}"))
    log = deploy(checkout, environ, "failed")
    assert "no Triton server answers" in log and "exit code 4" in log
    found = states(environ)
    assert (found["promote"], found["roll_over"]) == ("success", "failed")
    assert found["verify"] == found["roll_back"] == found["deployed"] == "upstream_failed"


def test_secrets_of_serving_are_written_nowhere(server, checkout):
    """Triton's log and model repository, the log of what was served, promotions."""
    assert (checkout.parent / "serve.log").exists() and leaks(checkout) == []
