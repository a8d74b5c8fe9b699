"""Outputs that one process alone writes."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from components.errors import BadInput
from components.locks import sole_writer

HOLDER = """
import sys, time
from components.locks import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that writes tmp_path/out, and has not ended."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_writer_ends_at_once_and_names_the_first(holder, tmp_path):
    named = rf"out: is being written by process {holder.pid}, -c .*out; wait for its end"
    with pytest.raises(BadInput, match=named), sole_writer(tmp_path / "out"):
        raise AssertionError
    with sole_writer(tmp_path / "other"):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_lock_of_a_writer_that_was_ended_is_free(number, holder, tmp_path):
    os.kill(holder.pid, number)
    holder.wait()
    with sole_writer(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_its_holder_just_removed_is_taken_anew(tmp_path):
    """Writers come and go at one path: never are two inside, and no lock stays."""
    script = """
import os, sys, time
from components.errors import BadInput
from components.locks import sole_writer
done = 0
while done < 200:
    try:
        with sole_writer(sys.argv[1]):
            os.close(os.open(sys.argv[1] + ".inside", os.O_CREAT | os.O_EXCL))
            os.unlink(sys.argv[1] + ".inside")
        done += 1
    except BadInput:
        pass
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "out"]) for _ in range(3)]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == []


def test_one_that_waits_has_a_lock_that_is_there(tmp_path):
    """The holder removes the lock as it ends: who waited for it must not hold a file that is gone."""
    path, waits, done = tmp_path / "out", threading.Event(), []

    def second() -> None:
        with sole_writer(path, waits=lambda holder: waits.set()):
            done.append((tmp_path / ".out.lock").exists())

    with sole_writer(path):
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        assert not done
    thread.join(10)
    assert done == [True]
