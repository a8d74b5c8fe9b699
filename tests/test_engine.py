"""The engine: same rows for any number of workers, nothing done twice after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from components.engine import map_rows

ROOT = Path(__file__).parents[2]


def work(row: dict, log: str) -> dict:
    """Square a number, note that it was done; row 13 is slow, row 99 breaks."""
    with open(log, "a") as stream:
        stream.write(f"{row['n']}\n")
    if row["n"] == 13:
        time.sleep(60)
    if row["n"] == 99:
        raise ArithmeticError("row 99")
    return {"n": row["n"], "square": row["n"] ** 2 / 7}


def quiet(items, what, total):
    return iter(items)


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_come_back_in_order(tmp_path, workers):
    rows = [{"n": n} for n in range(10, 0, -1)]
    result = map_rows(partial(work, log=str(tmp_path / "log")), rows, workers, 3, tmp_path, quiet)
    assert result == [{"n": row["n"], "square": row["n"] ** 2 / 7} for row in rows]


def test_no_rows(tmp_path):
    assert map_rows(partial(work, log=str(tmp_path / "log")), [], 2, 3, tmp_path, quiet) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_the_map_and_keeps_what_is_done(tmp_path, workers):
    op = partial(work, log=str(tmp_path / "log"))
    rows = [{"n": n} for n in (1, 2, 99, 3)]
    with pytest.raises(ArithmeticError, match="row 99"):
        map_rows(op, rows, workers, 2, tmp_path, quiet)
    assert json.loads((tmp_path / "chunk-000000.json").read_text())[1]["n"] == 2
    assert not (tmp_path / "chunk-000001.json").exists()


def test_a_number_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError):
        map_rows(partial(dict, value=float("nan")), [{"n": 1}], 1, 1, tmp_path, quiet)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_started_again(tmp_path, workers):
    """SIGKILL while row 13 is on its way: chunks that were done are not done again, and no process stays behind."""
    log = tmp_path / "log"
    state = tmp_path / "state"
    state.mkdir()
    code = f"""
from functools import partial
from pathlib import Path
from components.engine import map_rows
from tests.curation.test_engine import quiet, work
if __name__ == "__main__":
    rows = [dict(n=n) for n in range(16)]
    map_rows(partial(work, log={str(log)!r}), rows, {workers}, 2, Path({str(state)!r}), quiet)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True)
    wanted = 6 if workers == 1 else 7  # all but the slow chunk, and one process never goes past it
    deadline = time.monotonic() + 60
    while len(list(state.glob("*.json"))) < wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    done = {row["n"] for file in state.glob("*.json") for row in json.loads(file.read_text())}
    assert len(done) == 2 * wanted
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    log.write_text("")
    rows = [{"n": n if n != 13 else -13} for n in range(16)]  # the chunk in flight, quick this time
    result = map_rows(partial(work, log=str(log)), rows, workers, 2, state, quiet)
    assert [row["square"] for row in result] == [n**2 / 7 for n in range(16)]
    assert {int(line) for line in log.read_text().split()} == {abs(n) if n != 13 else -13 for n in range(16)} - done
    while time.monotonic() < deadline and _group_alive(process.pid):
        time.sleep(0.05)
    assert not _group_alive(process.pid)


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
