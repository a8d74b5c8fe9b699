"""Digests of large files, which outlive a process: never those of other bytes."""

import hashlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.files import digests
from components.files.digests import RECORD, file_digest
from tests.conftest import REPOSITORY

SIZE = digests.LARGE + 1


@pytest.fixture
def reads(tmp_path, monkeypatch) -> list[str]:
    """Files whose bytes were read, in a checkout."""
    monkeypatch.chdir(tmp_path)
    RECORD.parent.mkdir()
    digests._remembered.cache_clear()
    names, read = [], digests._read
    monkeypatch.setattr(digests, "_read", lambda path: (names.append(Path(path).name), read(path))[1])
    return names


def large(name: str, first: bytes = b"a") -> Path:
    """A sparse file that has not changed for a while."""
    path = Path(name)
    with path.open("wb") as stream:
        stream.write(first)
        stream.truncate(SIZE)
    old = time.time() - 60
    os.utime(path, (old, old))
    return path


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(digests, "SETTLED", -60.0)  # no test waits for the time of change to be two seconds old


def again(path: Path) -> str:
    """As another process does it."""
    digests._remembered.cache_clear()
    return file_digest(path)


def true_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_another_process_reads_no_bytes(reads, settled):
    path = large("weights.safetensors")
    assert file_digest(path) == again(path) == again(path) == true_digest(path)
    assert reads == ["weights.safetensors"]
    os.link(path, "same bytes")
    os.rename(path, "moved")
    assert again(Path("same bytes")) == true_digest(Path("moved"))


def test_other_bytes_of_the_same_size_and_time_are_read(reads, settled):
    path = large("weights.safetensors")
    before, times = file_digest(path), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    with path.open("r+b") as stream:
        stream.write(b"b")
    os.utime(path, ns=times)
    assert again(path) == true_digest(path) != before
    assert reads == ["weights.safetensors"] * 2


def test_small_and_fresh_files_are_not_on_record(reads):
    path = large("fresh")
    Path("small").write_bytes(b"a")
    for _ in range(2):
        again(path)
        again(Path("small"))
    assert reads == ["fresh", "small"] * 2 and not RECORD.exists()


def test_outside_of_a_checkout_nothing_is_written(reads, settled):
    RECORD.parent.rmdir()
    path = large("weights.safetensors")
    assert file_digest(path) == again(path)
    assert reads == ["weights.safetensors"] * 2 and not RECORD.parent.exists()


def cut(record: Path) -> None:
    record.write_bytes(record.read_bytes()[:100])


@pytest.mark.parametrize(
    "damage", [cut, lambda r: r.write_bytes(b""), lambda r: r.write_bytes(bytes(8192))], ids=["cut", "empty", "zeros"]
)
def test_a_damaged_record_is_begun_anew(reads, settled, damage):
    path = large("weights.safetensors")
    file_digest(path)
    damage(RECORD)
    assert again(path) == again(path) == again(path) == true_digest(path)
    assert 2 <= len(reads) <= 3
    count = len(reads)
    assert again(path) == true_digest(path) and len(reads) == count


def test_a_record_that_another_holds_is_done_without(reads, settled, monkeypatch):
    path = large("weights.safetensors")
    file_digest(path)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file, timeout: connect(file, timeout=0.01))
    with connect(RECORD, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert again(path) == true_digest(path)


def test_several_processes_at_once(reads, settled):
    paths = [large(f"{number}", bytes([number])) for number in range(4)]
    code = "import sys; from components.files import digests; digests.SETTLED = -60.0\n"
    code += "for path in sys.argv[1:]: print(digests.file_digest(path))"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    running = [
        subprocess.Popen([sys.executable, "-c", code, *map(str, paths)], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(4)
    ]
    expected = [true_digest(path) for path in paths]
    for process in running:
        assert process.communicate()[0].split() == expected and process.returncode == 0
    with sqlite3.connect(RECORD) as record:
        assert record.execute("SELECT count(*) FROM files").fetchone() == (4,)
