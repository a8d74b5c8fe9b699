"""Files appear whole or not at all, whatever library writes them and however it ends."""

import ast
import os
import resource
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from components.errors import disk_error
from components.files import atomic as files
from components.files.atomic import whole_file, whole_folder
from components.files.tables import write_table
from components.pipeline.stage import write_json
from components.runtime.training import _save
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
        if path not in (Path("components/files/atomic.py"), Path("components/orchestration/bounded_log.py"))  # logs rotate
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
    left = tmp_path / ".out.0123abcd.partial"
    left.mkdir()
    (left / "old").write_text("of a run that was killed")
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "out") as partial:
        partial.mkdir()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_two_that_make_one_folder_have_a_place_each(tmp_path):
    """The second removes nothing of the first, whose process lives; the first that is done is there."""
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "out") as first:
        first.mkdir()
        (first / "weights").write_text("of the first")
        with whole_folder(tmp_path / "out") as second:
            second.mkdir()
            (second / "weights").write_text("of the second")
        assert (first / "weights").read_text() == "of the first"
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == []
    assert (tmp_path / "out/weights").read_text() == "of the second"
