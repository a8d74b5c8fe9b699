"""A real scheduler (`airflow standalone` on the loopback): new preferences start a retraining, a heap of them starts one."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

import httpx

from tests.dags.conftest import BIN

WAIT = 60  # seconds from the event to the run: what is promised


@pytest.fixture(scope="module")
def api(checkout, environ, tmp_path_factory):
    """A client of an Airflow that runs. Without logging in: it listens on the loopback, for this test."""
    with_ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    api, worker, triggerer = (listener.getsockname()[1] for listener in with_ports)
    for listener in with_ports:
        listener.close()
    settings = {
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{api}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(triggerer),
        "PATH": f"{BIN}:{environ['PATH']}",
    }
    log = checkout.parent / "standalone.log"
    with open(log, "w") as stream:
        process = subprocess.Popen(
            [BIN / "airflow", "standalone"], cwd=checkout, env=environ | settings, stdout=stream, stderr=stream,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        )  # fmt: skip
    try:
        client = httpx.Client(base_url=f"http://127.0.0.1:{api}", timeout=90)
        until(lambda: healthy(client) or process.poll() is not None, 240)
        assert process.poll() is None, log.read_text()[-4000:]
        token = client.get("/auth/token").json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client
    finally:
        process.send_signal(signal.SIGINT)  # SIGTERM would leave its children behind
        process.wait(120)


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


def runs(client: httpx.Client) -> list[dict]:
    found = ask(client, "GET", "dags/retrain/dagRuns?run_type=asset_triggered&order_by=run_after")
    return found["dag_runs"]


def test_new_preferences_start_one_retraining(api):
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
    ask(api, "PATCH", path, state="failed")
    second = until(lambda: runs(api)[1:], WAIT)
    path = f"dags/retrain/dagRuns/{second[0]['dag_run_id']}"
    events = ask(api, "GET", f"{path}/upstreamAssetEvents")["asset_events"]
    assert events[0]["extra"]["pairs"] == 40, "it runs for the first of the two; the other asked for nothing more:"
    ask(api, "PATCH", path, state="failed")
    time.sleep(10)
    assert len(runs(api)) == 2
    ask(api, "PATCH", "dags/retrain", is_paused=True)
