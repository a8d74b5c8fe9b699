"""Files that share bytes: a generator's large files are not copied, and what is written later changes no other name."""

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from components.cli.doctor import disk, dvc_links
from components.files import links
from components.files.atomic import atomic_write, put_in_place, whole_file
from components.files.links import linked, share, way_of
from tests.conftest import REPOSITORY


@pytest.fixture
def no_reflinks(monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr(links.fcntl, "ioctl", refuse)


def test_a_file_system_without_reflinks_gets_hard_links(tmp_path, no_reflinks):
    (tmp_path / "a").write_bytes(b"weights")
    assert linked(str(tmp_path / "a"), tmp_path / "b") == "hard link"
    assert os.path.samefile(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileExistsError):
        linked(str(tmp_path / "a"), tmp_path / "b")


def test_without_either_it_is_a_copy(tmp_path, no_reflinks, monkeypatch):
    def refuse(*_):
        raise PermissionError

    (tmp_path / "a").write_bytes(b"weights")
    monkeypatch.setattr(links.os, "link", refuse)
    assert linked(str(tmp_path / "a"), tmp_path / "b") == "copy"
    assert (tmp_path / "b").read_bytes() == b"weights" and not os.path.samefile(tmp_path / "a", tmp_path / "b")


def test_small_files_are_copied_and_links_followed(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"config")
    (tmp_path / "link").symlink_to("a")
    assert share(tmp_path / "link", tmp_path / "b") == "copy"
    assert not (tmp_path / "b").is_symlink() and (tmp_path / "b").read_bytes() == b"config"
    monkeypatch.setattr(links, "LARGE", 3)
    assert share(tmp_path / "link", tmp_path / "c") in ("reflink", "hard link", "copy")
    assert not (tmp_path / "c").is_symlink()


def write_anew(path: Path) -> None:
    atomic_write(path, "new")


def write_whole(path: Path) -> None:
    with whole_file(path) as partial:
        partial.write_text("new")


def rename_over(path: Path) -> None:
    partial = path.with_name("partial")
    partial.write_text("new")
    put_in_place(partial, path)


@pytest.mark.parametrize("write", [write_anew, write_whole, rename_over])
def test_nothing_writes_to_a_linked_file_in_place(tmp_path, no_reflinks, write):
    (tmp_path / "cache").write_text("old")
    linked(str(tmp_path / "cache"), tmp_path / "out")
    write(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "new" and (tmp_path / "cache").read_text() == "old"


STAGE = """
from pathlib import Path
from types import SimpleNamespace
from components.pipeline.stage import Stage
stage = object.__new__(Stage)
stage._partial, stage._outputs, stage._measured = Path("partial"), {}, {}
text = Path("in.txt").read_text()
out = stage.output("out")
out.mkdir()
(out / "weights.bin").write_text(text)
stage.output("metrics.json").write_text(text)
stage._commit()
"""


def test_a_stage_that_runs_again_leaves_dvcs_cache_whole(tmp_path):
    """Outputs are hard links to the cache; the next run of the stage makes new files."""
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  s:\n    cmd: python stage.py\n    deps: [in.txt]\n    outs: [out]\n    metrics: [metrics.json]\n"
    )
    types = configparser.ConfigParser()
    types.read(REPOSITORY / ".dvc/config")
    for words in (["init", "--no-scm", "--quiet"], ["config", "cache.type", types["cache"]["type"]]):
        subprocess.run(["dvc", *words], cwd=tmp_path, check=True)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    for text in ("first", "second"):
        (tmp_path / "in.txt").write_text(text)
        subprocess.run(["dvc", "repro", "--quiet"], cwd=tmp_path, env=environment, check=True)
        assert (tmp_path / "out/weights.bin").read_text() == text and (tmp_path / "out/weights.bin").stat().st_nlink > 1
    kept = {path.read_text() for path in (tmp_path / ".dvc/cache/files/md5").rglob("*") if path.is_file()}
    assert {"first", "second"} <= kept


def test_doctor_says_how_files_are_shared(in_repository):
    assert way_of(".") in ("reflink", "hard link", "copy") and f"by {way_of('.')}" in disk()
    assert dvc_links() == "hardlink, copy"
    assert shutil.which("dvc")
