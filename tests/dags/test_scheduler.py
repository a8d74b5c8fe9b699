"""A real scheduler (`airflow standalone` on the loopback): a DAG that is unpaused runs nothing, and a late run is skipped;
new preferences start a retraining, a heap of them starts one; drift asks for one, and not for another while that runs or too
soon after it."""

import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

import httpx
import psutil

from components.runtime.termination import end
from components.serving.ports import free_ports
from tests.dags.conftest import BIN, DEADLINE, TOLD

WAIT = 60  # seconds from the event to the run: what is promised


@pytest.fixture(scope="module")
def api(checkout, environ, tmp_path_factory):
    """A client of an Airflow that runs. Without logging in: it listens on the loopback, for this test."""
    # The tick of `retrain` has just passed. Runs of `monitor` come only when the test asks for them, and all find drift.
    passed = datetime.now(UTC) - timedelta(minutes=10)
    for name, cron, other, more in (
        ("retrain", "0 3 * * 0", f"{passed:%-M %-H} * * {passed:%w}", ""),
        ("monitor", "7 * * * *", "0 0 29 2 *", 'dag.get_task("drift").bash_command = "true"\n'),
    ):
        file = checkout / f"dags/{name}.py"
        assert cron in file.read_text()
        file.write_text(file.read_text().replace(cron, other) + more)
    api, tasks, worker, triggerer = free_ports(4)
    settings = {
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{tasks}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(triggerer),
        "PATH": f"{BIN}:{environ['PATH']}",
    }
    # Tasks get an API server of their own. In one with ours, a request of theirs that has written waits for the event loop,
    # which waits for SQLite's only lock to write down what we ask: until the lock's time is over, and then error 500.
    commands = {"tasks": ["api-server", "--apps", "execution", "--port", str(tasks)], "standalone": ["standalone"]}
    with ExitStack() as running:
        _, standalone = (
            running.enter_context(process(checkout.parent / f"{name}.log", command, checkout, environ | settings))
            for name, command in commands.items()
        )
        client = httpx.Client(base_url=f"http://127.0.0.1:{api}", timeout=90)
        until(lambda: healthy(client) or standalone.poll() is not None, 240)
        assert standalone.poll() is None, (checkout.parent / "standalone.log").read_text()[-4000:]
        token = client.get("/auth/token").json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


@contextmanager
def process(log: Path, command: list[str], folder: Path, environ: dict[str, str]) -> Iterator[subprocess.Popen]:
    """`airflow COMMAND`, ended in order."""
    with open(log, "w") as stream:
        started = subprocess.Popen(
            [BIN / "airflow", *command], cwd=folder, env=environ, stdout=stream, stderr=stream,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )  # fmt: skip
    try:
        yield started
    finally:
        # SIGTERM would leave the children of `standalone` behind. It waits for its tasks, whatever becomes of them: one that
        # stayed would take runs of the tests that follow for its own.
        end(psutil.Process(started.pid), signal.SIGINT, 60)
        started.wait()


def until(holds: Callable[[], Any], seconds: float) -> Any:
    """What `holds` returns, once that is true."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"nothing after {seconds} s"
        time.sleep(0.5)
    return found


def healthy(client: httpx.Client) -> bool:
    try:
        parts = client.get("/api/v2/monitor/health").json()
    except httpx.TransportError:
        return False
    return all(parts[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def ask(client: httpx.Client, method: str, path: str, **body) -> dict:
    answer = client.request(method, f"/api/v2/{path}", json=body or None)
    assert answer.is_success, answer.text
    return answer.json()


def runs(client: httpx.Client, kind: str = "asset_triggered") -> list[dict]:
    return ask(client, "GET", f"dags/retrain/dagRuns?run_type={kind}&order_by=run_after")["dag_runs"]


def test_unpaused_nothing_runs_and_after_a_long_pause_the_last_tick_is_skipped(api, environ):
    until(lambda: api.get("/api/v2/dags/retrain").is_success, 120)
    before = ask(api, "GET", "dags/retrain/dagRuns")["total_entries"]  # runs by hand of other tests
    ask(api, "PATCH", "dags/retrain", is_paused=False)
    time.sleep(10)  # several rounds of the scheduler
    assert ask(api, "GET", "dags/retrain/dagRuns")["total_entries"] == before and not runs(api, "scheduled")
    ask(api, "PATCH", "dags/retrain", is_paused=True)

    # A run of its time, five weeks ago; Airflow learns of it when the DAG is parsed again.
    ask(api, "POST", "dags/retrain/dagRuns", logical_date=None, dag_run_id="five_weeks_ago")
    ask(api, "PATCH", "dags/retrain/dagRuns/five_weeks_ago", state="failed")
    then = f"{datetime.now(UTC) - timedelta(weeks=5):%Y-%m-%d %H:%M:%S}"
    with closing(sqlite3.connect(f"{environ['AIRFLOW_HOME']}/airflow.db", timeout=60)) as database, database:
        database.execute(
            "update dag_run set run_type = 'scheduled', logical_date = ?, run_after = ?, data_interval_start = ?,"
            " data_interval_end = ? where run_id = 'five_weeks_ago'",
            [then] * 4,
        )
    ask(api, "PUT", f"parseDagFile/{ask(api, 'GET', 'dags/retrain')['file_token']}")
    ask(api, "PATCH", "dags/retrain", is_paused=False)
    (late,) = until(lambda: runs(api, "scheduled")[1:], WAIT)
    path = f"dags/retrain/dagRuns/{late['dag_run_id']}"
    until(lambda: ask(api, "GET", path)["state"] == "success", WAIT)
    assert set(task_states(api, path).values()) == {"skipped"}

    # Whoever clears it asks for it.
    ask(api, "POST", "dags/retrain/clearTaskInstances", dag_run_id=late["dag_run_id"], only_failed=False, dry_run=False,
        reset_dag_runs=True)  # fmt: skip
    until(lambda: "running" in task_states(api, path).values(), WAIT)
    ask(api, "PATCH", path, state="failed")
    ask(api, "PATCH", "dags/retrain", is_paused=True)


def test_new_preferences_start_one_retraining(api, checkout):
    until(lambda: api.get("/api/v2/dags/retrain").is_success, 120)
    ask(api, "PATCH", "dags/retrain", is_paused=False)
    (asset,) = ask(api, "GET", "assets?name_pattern=new_preferences")["assets"]
    begun = time.monotonic()
    ask(api, "POST", "assets/events", asset_id=asset["id"], extra={"pairs": 120})
    until(lambda: [run for run in runs(api) if run["state"] == "running"], WAIT)
    (first,) = runs(api)
    print(f"a retraining runs {time.monotonic() - begun:.1f} s after the event")
    path = f"dags/retrain/dagRuns/{first['dag_run_id']}"
    until(lambda: [t for t in ask(api, "GET", f"{path}/taskInstances")["task_instances"] if t["start_date"]], WAIT)

    for pairs in (40, 60):  # while it runs
        ask(api, "POST", "assets/events", asset_id=asset["id"], extra={"pairs": pairs})
    time.sleep(10)  # several rounds of the scheduler
    assert [run["dag_run_id"] for run in runs(api)] == [first["dag_run_id"]], "labels that come meanwhile wait"
    late = f"deadline of {first['dag_run_id']}\n"
    until(lambda: late in (checkout.parent / TOLD).read_text(), WAIT)
    print(f"told of its deadline of {DEADLINE} s after {time.monotonic() - begun:.1f} s")
    ask(api, "PATCH", path, state="failed")
    second = until(lambda: runs(api)[1:], 2 * WAIT)  # the scheduler learns of it when the DAG is parsed again
    path = f"dags/retrain/dagRuns/{second[0]['dag_run_id']}"
    events = ask(api, "GET", f"{path}/upstreamAssetEvents")["asset_events"]
    assert events[0]["extra"]["pairs"] == 40, "it runs for the first of the two; the other asked for nothing more:"
    ask(api, "PATCH", path, state="failed")
    time.sleep(10)
    assert len(runs(api)) == 2
    ask(api, "PATCH", "dags/retrain", is_paused=True)


def asked(client: httpx.Client) -> list[dict]:
    """Retrainings that drift has asked for."""
    found = ask(client, "GET", "dags/retrain/dagRuns?order_by=run_after")["dag_runs"]
    return [run for run in found if run["dag_run_id"].startswith("drift__")]


def monitored(client: httpx.Client) -> tuple[str, dict[str, str]]:
    """A run of DAG `monitor` to its end: its path, and the states of its tasks."""
    run = ask(client, "POST", "dags/monitor/dagRuns", logical_date=None)["dag_run_id"]
    path = f"dags/monitor/dagRuns/{run}"
    until(lambda: ask(client, "GET", path)["state"] in ("success", "failed"), 120)
    return path, task_states(client, path)


def task_states(client: httpx.Client, path: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in ask(client, "GET", f"{path}/taskInstances")["task_instances"]}


def again(client: httpx.Client, path: str, task: str) -> dict[str, str]:
    """A task and all after it once more, as after a crash; the states then."""
    run = path.rpartition("/")[2]
    ask(client, "POST", "dags/monitor/clearTaskInstances", dag_run_id=run, task_ids=[task], include_downstream=True,
        only_failed=False, dry_run=False, reset_dag_runs=True)  # fmt: skip
    until(lambda: ask(client, "GET", path)["state"] in ("success", "failed"), 120)
    return task_states(client, path)


def test_drift_asks_once_until_the_cooldown_is_over(api):
    until(lambda: api.get("/api/v2/dags/monitor").is_success, 120)
    for dag in ("retrain", "monitor"):
        ask(api, "PATCH", f"dags/{dag}", is_paused=False)
    asks = {"drift": "success", "may_ask": "success", "ask_for_retraining": "success"}
    keeps = asks | {"ask_for_retraining": "skipped"}

    path, states = monitored(api)
    assert states == asks
    (first,) = asked(api)
    assert first["dag_run_id"] == f"drift__{path.rpartition('/')[2]}"
    assert first["conf"]["why"] == "served scores have drifted" and "triggered by DAG `monitor`" in first["note"]
    retraining = f"dags/retrain/dagRuns/{first['dag_run_id']}"
    until(lambda: ask(api, "GET", retraining)["state"] == "running", WAIT)
    assert monitored(api)[1] == keeps, "one runs"
    assert again(api, path, "ask_for_retraining") == keeps, "a second try asks for the same run, which is there"
    assert len(asked(api)) == 1

    ask(api, "PATCH", retraining, state="failed")
    assert monitored(api)[1] == keeps, "too soon"
    assert again(api, path, "may_ask") == keeps
    assert len(asked(api)) == 1

    kept = ask(api, "GET", "variables/reelign_drift_asked")
    value = json.loads(kept["value"])
    long_ago = datetime.fromisoformat(value["time"]) - timedelta(hours=73)
    later = json.dumps(value | {"time": long_ago.isoformat()})
    ask(api, "PATCH", "variables/reelign_drift_asked", key="reelign_drift_asked", value=later)
    assert monitored(api)[1] == asks
    assert len(asked(api)) == 2
    ask(api, "PATCH", f"dags/retrain/dagRuns/{asked(api)[-1]['dag_run_id']}", state="failed")
    # Written down, but never asked for: what came between was a crash.
    ask(api, "PATCH", "variables/reelign_drift_asked", key="reelign_drift_asked",
        value=json.dumps({"run": "drift__none", "time": datetime.now(UTC).isoformat()}))  # fmt: skip
    assert monitored(api)[1] == asks
    assert len(asked(api)) == 3
    ask(api, "PATCH", f"dags/retrain/dagRuns/{asked(api)[-1]['dag_run_id']}", state="failed")
    for dag in ("retrain", "monitor"):
        ask(api, "PATCH", f"dags/{dag}", is_paused=True)
