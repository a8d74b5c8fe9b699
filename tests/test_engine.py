"""The engine: same rows for any number of workers here or on Ray, nothing done twice after a kill, nothing left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

from components.errors import BadInput, NonFinite
from components.runtime.engine import map_chunks, map_rows
from tests.running import all_below, command_of, until, until_gone

ROOT = Path(__file__).parents[1]
RAY = pytest.mark.ray
HOW = [("local", 1), ("local", 2), pytest.param("ray", 2, marks=RAY)]


def work(row: dict, log: str) -> dict:
    """Square a number, note that it was done; some rows do worse."""
    with open(log, "a") as stream:
        stream.write(f"{row['n']}\n")
    match row["n"]:
        case 13:
            time.sleep(600)
        case 97:
            raise NonFinite("loss", 3)
        case 98:
            os.kill(os.getpid(), signal.SIGKILL)
        case 99:
            raise BadInput("clips.csv", "no such clip", row=7, key="path")
        case 100 if Path(log).read_text().split().count("100") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return {"n": row["n"], "square": row["n"] ** 2 / 7, "folder": os.getcwd()}


def work_chunk(rows: list[dict], log: str) -> list[dict]:
    return [work(row, log) for row in rows]


def quiet(items, what, total):
    return iter(items)


@pytest.mark.parametrize(("engine", "workers"), HOW)
def test_rows_come_back_in_order_and_progress_counts_them(tmp_path, engine, workers):
    counted = []

    def count(items, what, total):
        for item in items:
            counted.append(item["n"])
            yield item
        assert (what, total) == ("numbers", 10)

    rows = [{"n": n} for n in range(10, 0, -1)]
    result = map_rows(partial(work, log=str(tmp_path / "log")), rows, workers, 3, tmp_path, count, "numbers", engine)
    assert result == [{"n": row["n"], "square": row["n"] ** 2 / 7, "folder": os.getcwd()} for row in rows]
    assert sorted(counted) == list(range(1, 11))
    assert sorted((tmp_path / "log").read_text().split(), key=int) == [str(n) for n in range(1, 11)]


def test_processes_share_the_chunks(tmp_path):
    """Each of two does every second chunk; three that go on later find all done."""
    rows, how = [{"n": n} for n in range(10)], {"workers": 1, "chunk": 2, "state_dir": tmp_path, "progress": quiet}
    op = partial(work_chunk, log=str(tmp_path / "log"))
    halves = [map_chunks(op, rows, share=(k, 2), **how) for k in (0, 1)]
    assert [[row["n"] for row in half] for half in halves] == [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7]]
    thirds = [map_chunks(op, rows, share=(k, 3), **how) for k in range(3)]
    assert [[row["n"] for row in third] for third in thirds] == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5]]
    assert sorted((tmp_path / "log").read_text().split(), key=int) == [str(n) for n in range(10)], "once each"


@pytest.mark.parametrize(("engine", "workers"), HOW)
def test_no_rows(tmp_path, engine, workers):
    assert map_rows(partial(work, log=str(tmp_path / "log")), [], workers, 3, tmp_path, quiet, "rows", engine) == []


BAD = 99, BadInput, "clips.csv, row 7, key 'path': no such clip"
NOT_FINITE = 97, NonFinite, "loss is not finite at step 3; the last checkpoint before it is kept"
ERRORS = [("local", 1, *BAD), ("local", 2, *BAD), pytest.param("ray", 2, *BAD, marks=RAY), ("local", 2, *NOT_FINITE)]


@pytest.mark.parametrize(("engine", "workers", "row", "error", "said"), ERRORS)
def test_an_error_ends_the_map_as_it_is_and_keeps_what_is_done(tmp_path, engine, workers, row, error, said):
    op = partial(work, log=str(tmp_path / "log"))
    rows = [{"n": n} for n in (1, 2, row, 3)]
    state = tmp_path / "state"
    state.mkdir()
    map_rows(op, rows[:2], 1, 2, state, quiet)
    with pytest.raises(error) as caught:
        map_rows(op, rows, workers, 2, state, quiet, "rows", engine)
    assert str(caught.value) == said
    assert [file.name for file in state.iterdir()] == ["chunk-000000.json"]


def test_a_number_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError):
        map_rows(partial(dict, value=float("nan")), [{"n": 1}], 1, 1, tmp_path, quiet)


def start(folder: Path, workers: int, engine: str) -> subprocess.Popen:
    """A process that maps rows 0 to 15, of which the 13th takes for ever, in chunks of 2 kept in folder/state."""
    (folder / "state").mkdir()
    (folder / "script.py").write_text(f"""
import signal
from functools import partial
from pathlib import Path
from components.runtime.engine import map_rows
from tests.test_engine import quiet, work
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
    rows = [dict(n=n) for n in range(16)]
    map_rows(partial(work, log="log"), rows, {workers}, 2, Path("state"), quiet, "rows", {engine!r})
""")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "script.py"], cwd=folder, env=environment, start_new_session=True)


@pytest.mark.parametrize(("engine", "workers"), HOW)
def test_killed_and_started_again(tmp_path, engine, workers):
    """SIGKILL while row 13 is on its way: chunks that were done are not done again, and no process stays behind."""
    process = start(tmp_path, workers, engine)
    log, state = tmp_path / "log", tmp_path / "state"
    wanted = 6 if workers == 1 else 7  # all but the slow chunk, and one process never goes past it
    until(lambda: len(list(state.glob("*.json"))) == wanted, "chunks")
    done = {row["n"] for file in state.glob("*.json") for row in json.loads(file.read_text())}
    assert len(done) == 2 * wanted
    processes = all_below(process.pid)
    assert len(processes) >= workers - 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Ray's two agents, which do no work, first try to tell a Ray that is gone, for a minute.
    until_gone([process for process in processes if "Agent" not in command_of(process)])
    log.write_text("")
    rows = [{"n": n if n != 13 else -13} for n in range(16)]  # the chunk in flight, quick this time
    result = map_rows(partial(work, log=str(log)), rows, workers, 2, state, quiet, "rows", engine)
    assert [row["square"] for row in result] == [n**2 / 7 for n in range(16)]
    again = [int(line) for line in log.read_text().split()]
    assert sorted(again) == sorted({abs(n) if n != 13 else -13 for n in range(16)} - done)


@RAY
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_ray_takes_its_processes_along(tmp_path, signal_):
    process = start(tmp_path, 2, "ray")
    until(lambda: len(list((tmp_path / "state").glob("*.json"))) == 7, "chunks")
    processes = all_below(process.pid)
    assert len(processes) >= 3, "Ray's own and two workers"
    os.kill(process.pid, signal_)
    assert process.wait(60) != 0
    until_gone(processes)


@RAY
def test_a_chunk_whose_ray_worker_died_is_done_again(tmp_path):
    rows = [{"n": n} for n in (1, 2, 3, 100, 4, 5)]
    result = map_rows(partial(work, log=str(tmp_path / "log")), rows, 2, 2, tmp_path, quiet, "rows", "ray")
    assert [row["n"] for row in result] == [1, 2, 3, 100, 4, 5]
    assert sorted((tmp_path / "log").read_text().split(), key=int) == ["1", "2", "3", "3", "4", "5", "100", "100"]


@RAY
def test_a_chunk_that_kills_every_ray_worker_ends_the_map(tmp_path, capfd):
    from ray.exceptions import RayError

    processes = []

    def look(items, what, total):
        for item in items:
            processes.extend(all_below(os.getpid()))
            yield item

    rows = [{"n": n} for n in (1, 2, 98)]
    with pytest.raises(RayError):
        map_rows(partial(work, log=str(tmp_path / "log")), rows, 1, 1, tmp_path, look, "rows", "ray")
    assert (tmp_path / "log").read_text().split().count("98") == 4
    assert len(processes) >= 2
    until_gone(processes)
    assert capfd.readouterr().out == ""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Ray of its own, started in another folder, that RAY_ADDRESS leads to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # For good: Ray reads them once, and the engine leaves them as they are.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", "0" * 32)
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2"]
    command += ["--include-dashboard=false", "--disable-usage-stats"]
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,  # a short one, for sockets
        open(tmp_path / "ray.log", "w") as said,
        subprocess.Popen([*command, f"--temp-dir={folder}"], cwd=tmp_path, stdout=said, stderr=said) as process,
    ):
        try:
            until(lambda: "Ray runtime started" in (tmp_path / "ray.log").read_text(), "start of Ray")
            monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
            yield process
        finally:
            processes = all_below(process.pid)
            process.terminate()
            process.wait(60)
            until_gone(processes)


@RAY
def test_a_cluster_is_used_and_left_as_it_was(cluster, tmp_path):
    rows = [{"n": n} for n in range(6)]
    result = map_rows(partial(work, log=str(tmp_path / "log")), rows, 2, 2, tmp_path, quiet, "rows", "ray")
    assert [row["n"] for row in result] == list(range(6))
    assert {row["folder"] for row in result} == {os.getcwd()}
    assert cluster.poll() is None
    until(
        lambda: not [name for name in map(command_of, all_below(cluster.pid)) if "MapWorker" in name], "end of the workers"
    )
