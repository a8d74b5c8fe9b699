"""Outputs that one process alone writes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from unittest.mock import Mock

import pytest

from components.errors import BadInput
from components.files import locks
from components.files.locks import sole_writer
from tests.running import heed_interrupts

HOLDER = """
import sys, time
from components.files.locks import sole_writer
with sole_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that writes tmp_path/out, and has not ended."""
    command = [sys.executable, "-c", HOLDER, tmp_path / "out"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts)
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
from components.files.locks import sole_writer
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


@pytest.fixture
def not_beside(monkeypatch, tmp_path):
    """A function after which nothing can be written to tmp_path, as on a read-only file system, also by root."""
    opened = os.open

    def refuse(file, flags, *mode, **named):
        if flags & os.O_CREAT and os.path.dirname(file) == str(tmp_path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return opened(file, flags, *mode, **named)

    return lambda: monkeypatch.setattr(locks.os, "open", refuse)


def test_a_folder_is_locked_where_nothing_can_be_written_beside_it(not_beside, tmp_path):
    """As a mounted output: both forms of the lock exclude each other."""
    (tmp_path / "out").mkdir()
    with sole_writer(tmp_path / "out"):
        not_beside()
        with pytest.raises(BadInput, match="out: is being written by"), sole_writer(tmp_path / "out"):
            raise AssertionError
    with sole_writer(tmp_path / "out"):
        assert [path.name for path in tmp_path.rglob("*")] == ["out"]
        with pytest.raises(BadInput, match="out: is being written by another process"), sole_writer(tmp_path / "out"):
            raise AssertionError
    with pytest.raises(PermissionError) as caught, sole_writer(tmp_path / "clips.csv"):
        raise AssertionError
    assert caught.value.filename == str(tmp_path)


def test_a_folder_that_is_replaced_stays_locked(tmp_path):
    (tmp_path / "out").mkdir()
    with sole_writer(tmp_path / "out"):
        (tmp_path / "out").rmdir()
        (tmp_path / "out").mkdir()
        with pytest.raises(BadInput, match="is being written by process"), sole_writer(tmp_path / "out"):
            raise AssertionError


def test_two_names_of_one_folder_are_one_lock(tmp_path):
    (tmp_path / "out/in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for one, other in (("out", "link"), ("out/new.csv", "link/new.csv"), ("out", "out/in/..")):
        with sole_writer(tmp_path / one), pytest.raises(BadInput), sole_writer(tmp_path / other):
            raise AssertionError


def test_the_root_is_no_output():
    with pytest.raises(BadInput, match="/: is the root of all folders"), sole_writer("/"):
        raise AssertionError


@pytest.mark.parametrize("removable", [True, False])
def test_what_another_users_killed_process_left_is_no_obstacle(removable, monkeypatch, tmp_path):
    """A lock that may be read alone; it is replaced where the folder permits it."""
    lock, opened = tmp_path / ".out.lock", os.open
    lock.write_text("process 1, of another user")
    theirs = lock.stat().st_ino

    def refuse(file, flags, *mode, **named):
        if flags & os.O_ACCMODE and os.path.exists(file) and os.stat(file).st_ino == theirs:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, flags, *mode, **named)

    monkeypatch.setattr(locks.os, "open", refuse)
    if not removable:
        monkeypatch.setattr(locks, "_remove", lambda lock: False)
    with sole_writer(tmp_path / "out"):
        assert (f"process {os.getpid()}" in lock.read_text()) == removable
        with pytest.raises(BadInput, match="is being written by"), sole_writer(tmp_path / "out"):
            raise AssertionError
    assert lock.exists() != removable


def test_a_lock_that_may_not_be_read_is_named(monkeypatch, tmp_path):
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr(locks.os, "open", Mock(side_effect=denied))
    with (
        pytest.raises(BadInput, match=r"out: cannot be locked: .*/\.out\.lock is another user's"),
        sole_writer(tmp_path / "out"),
    ):
        raise AssertionError


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_line(number, monkeypatch, tmp_path):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(number, os.strerror(number))))
    with pytest.raises(BadInput, match=rf"out: cannot be locked \({os.strerror(number)}\)"), sole_writer(tmp_path / "out"):
        raise AssertionError
