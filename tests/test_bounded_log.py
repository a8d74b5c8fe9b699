"""Logs of services: whole, private and of bounded size."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from components.orchestration import bounded_log, service
from components.orchestration.service import Service
from components.serving.server import Triton
from tests.running import until


def test_a_log_keeps_its_end(tmp_path):
    source, sink = os.pipe()
    (tmp_path / "a.log").write_text("of an earlier start")
    (tmp_path / "a.log").chmod(0o644)
    with os.fdopen(source, "rb") as read, os.fdopen(sink, "wb") as write:
        write.write(b"".join(b"%07d\n" % number for number in range(4000)))
        write.close()
        bounded_log.keep(read.fileno(), tmp_path / "a.log", limit=10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log"], "one read is never cut"
    assert (tmp_path / "a.log").read_bytes().endswith(b"0003999\n")
    assert stat.S_IMODE((tmp_path / "a.log").stat().st_mode) == 0o600


@pytest.mark.parametrize(("lines", "kept"), [(3, [(0, 3)]), (25, [(10, 20), (20, 25)])])
def test_a_log_that_has_grown_begins_anew(tmp_path, monkeypatch, lines, kept):
    """Ten lines of eight bytes fill a file; what was in the one before the last is gone."""
    read = iter([*(b"%07d\n" % number for number in range(lines)), b""])
    monkeypatch.setattr(bounded_log.os, "read", lambda source, size: next(read))
    bounded_log.keep(0, tmp_path / "a.log", limit=80)
    files = [tmp_path / "a.log.1", tmp_path / "a.log"][-len(kept) :]
    for file, (first, last) in zip(files, kept, strict=True):
        assert [int(line) for line in file.read_text().splitlines()] == list(range(first, last))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_service_writes_through_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    service.FOLDER.mkdir(parents=True)
    says = "import sys; print('out'); print('error', file=sys.stderr)"
    echo = Service("echo", [sys.executable, "-c", says], [], lambda: True, "")
    service.start(echo)
    until(lambda: sorted(echo.log.read_text().splitlines()) == ["error", "out"], "both lines")
    assert stat.S_IMODE(echo.log.stat().st_mode) == 0o600


def test_the_log_of_triton_begins_anew(tmp_path):
    log = tmp_path / "triton.log"
    with open(log, "ab") as stream:
        server = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=stream)
    triton = Triton(server, "", "", "", log, "", "")

    def says(text: bytes) -> None:
        server.stdin.write(text)
        server.stdin.flush()
        until(lambda: log.read_bytes().endswith(text), "what was written")

    says(b"x" * 20)
    triton.shorten_log(21)
    assert log.stat().st_size == 20
    triton.shorten_log(20)
    assert (log.stat().st_size, Path(f"{log}.1").read_bytes()) == (0, b"x" * 20)
    says(b"next")
    server.communicate()
    assert log.read_bytes() == b"next", "no hole where the first lines were"
