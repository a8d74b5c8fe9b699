"""Files appear whole or not at all, whatever library writes them and however it ends."""

import ast
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from components import files
from components.errors import BadInput, disk_error
from components.files import sole_writer, whole_file, whole_folder
from components.stage import write_json
from components.tables import write_table
from components.training import _save
from components.video.encode import write_video

LIMIT = 20_000  # bytes that a file may have, in place of a disk that is full
VALUES = np.random.default_rng(1).random(9000)
NOISE = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)


@pytest.fixture
def small_files():
    """A process that cannot write more than LIMIT bytes to a file: as a full disk, an error of write(2)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_tensors(path):
    with whole_file(path) as partial:
        save_file({"a": torch.zeros(LIMIT)}, partial)


WRITERS = {
    "json": lambda path: write_json(path, ["a"] * LIMIT),
    "table": lambda path: write_table(path, [{"a": float(value)} for value in VALUES], A),
    "video": lambda path: write_video(path, NOISE, 8),
    "checkpoint": lambda path: _save(path, {"a": torch.zeros(LIMIT)}),
}
A = pa.schema([pa.field("a", pa.float64())])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(kind, tmp_path, small_files):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises((OSError, RuntimeError)) as caught:
        WRITERS[kind](path)
    assert disk_error(caught.value)[1] == 4
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_in_a_folder_that_is_not_there(tmp_path):
    with whole_file(tmp_path / "new/folder/file") as partial:
        partial.write_text("whole")
    assert (tmp_path / "new/folder/file").read_text() == "whole"
    assert len(list((tmp_path / "new/folder").iterdir())) == 1


HOLDER = """
import sys, time
from components.files import sole_writer
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
from components.files import sole_writer
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


def renames(node: ast.AST) -> bool:
    """Whether a call renames a file: os.rename, os.replace, shutil.move, Path.rename(target), Path.replace(target)."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    module, name = getattr(node.func.value, "id", None), node.func.attr
    if module in ("os", "shutil"):
        return name in ("rename", "renames", "replace", "move")
    return name in ("rename", "replace") and len(node.args) == 1 and not node.keywords


def test_nothing_else_renames():
    """So that all that matters is on the disk before it has its name."""
    assert renames(ast.parse("partial.replace(out)").body[0].value) and renames(ast.parse("os.rename(a, b)").body[0].value)
    assert not renames(ast.parse("text.replace('a', 'b')").body[0].value)
    found = [
        f"{path}:{node.lineno}"
        for folder in ("components", "dags")
        for path in sorted(Path(folder).rglob("*.py"))
        if path != Path("components/files.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if renames(node)
    ]
    assert found == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_bytes_are_on_the_disk_before_the_rename_and_the_name_after_it(kind, tmp_path, monkeypatch):
    done = []
    for name in ("_sync", "_sync_file_system"):
        monkeypatch.setattr(files, name, lambda path, name=name: done.append((name, path)))
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(("rename", new)), rename(old, new)))
    with (whole_file if kind == "file" else whole_folder)(tmp_path / "out") as partial:
        if kind == "folder":
            partial.mkdir()
            (partial / "weights").write_text("whole")
        else:
            partial.write_text("whole")
    sync = "_sync" if kind == "file" else "_sync_file_system"
    assert done == [(sync, partial), ("rename", tmp_path / "out"), ("_sync", tmp_path)]
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_folder_is_whole_or_not_there(tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/old").write_text("of a run that was killed")
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "out") as partial:
        partial.mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
