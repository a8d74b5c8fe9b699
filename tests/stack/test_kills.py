"""SIGKILL of each service in turn while a retraining of the smoke profile runs: it ends green, with the metrics of one that
nothing disturbed, and nothing is lost."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.running import until
from tests.stack.conftest import Airflow, Stack, make_checkout, stack_ports
from tests.stack.test_stack import champion, deployed, records, registered

pytestmark = pytest.mark.stack
KILLED = ("postgres", "s3", "airflow-scheduler", "airflow-api-server", "triton", "gateway")


def metrics(stack: Stack) -> dict[str, dict]:
    """All metrics files that the stages' trees have, by path."""
    found = {}
    for tree in sorted((stack.folder / ".reelign/trees").iterdir()):
        for file in sorted((tree / "metrics").glob("*.json")):
            found[file.name] = json.loads(file.read_text())
    return found


def retrained(stack: Stack, disturb=None) -> dict[str, dict]:
    airflow = Airflow(stack)
    airflow.unpause("retrain", "deploy")
    begun = time.monotonic()
    run = airflow.trigger("retrain")
    if disturb is not None:
        disturb(airflow, run)
    state = airflow.ended("retrain", run)
    states = airflow.states("retrain", run)
    assert state == "success" and set(states.values()) == {"success"}, states
    print(f"retraining: {time.monotonic() - begun:.0f} s")
    return metrics(stack)


def test_a_retraining_outlives_the_kill_of_each_service(stack, new_folder):
    undisturbed = retrained(stack)
    assert {"reward_bench.json", "alignment.json"} <= undisturbed.keys()
    assert stack.call("down").returncode == 0
    ports = stack_ports()
    other = Stack(make_checkout(new_folder("kills") / "checkout", ports), ports)
    try:
        done = other.up()
        assert done.returncode == 0, done.stderr
        with kept_up(other):
            assert retrained(other, lambda airflow, run: kill_each(other, airflow, run)) == undisturbed
        deployed(Airflow(other))
        assert champion(other) == registered(other)["model_versions"][0]["version"] == "1"
    finally:
        assert other.call("down").returncode == 0
        shutil.rmtree(other.folder / ".reelign", ignore_errors=True)


@contextmanager
def kept_up(stack: Stack) -> Iterator[None]:
    """`make up` whenever a service is gone, and each minute, as a cron job would: without Postgres, Airflow's own parts end,
    or run on and do nothing."""
    over = threading.Event()

    def keep() -> None:
        last = time.monotonic()
        while not over.wait(2):
            gone = [name for name, pid in records(stack).items() if not lives(pid)]
            if gone or time.monotonic() - last > 60:
                begun, done = time.monotonic(), stack.up()
                last = time.monotonic()
                words = f"up, without {', '.join(gone)}" if gone else "up"
                again = [line for line in done.stdout.splitlines() if "started again" in line]
                print(f"{words}: {done.returncode} after {last - begun:.1f} s {done.stderr} {again}")

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def kill_each(stack: Stack, airflow: Airflow, run: str) -> None:
    """One after the other, each while tasks run, and after progress since the last one."""
    done = 0
    for name in KILLED:
        until(lambda floor=done: finished(airflow, run) > floor and running(airflow, run), "progress", 900)
        done = finished(airflow, run)
        busy = running(airflow, run)
        process = psutil.Process(records(stack)[name])
        process.kill()
        psutil.wait_procs([process], 30)
        print(f"{name} killed beside {busy}")
        until(lambda: all(map(lives, records(stack).values())), f"{name} to be back", 300)


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def finished(airflow: Airflow, run: str) -> int:
    return sum(state == "success" for state in airflow.states("retrain", run).values())


def running(airflow: Airflow, run: str) -> list[str]:
    return [task for task, state in airflow.states("retrain", run).items() if state == "running"]
