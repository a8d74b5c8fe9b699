"""Digests of files and folders: what is remembered, and where links lead."""

import os
import shutil
from pathlib import Path

import pytest

from components.errors import BadInput
from components.files.digests import file_digest
from components.pipeline.stage import folder_digest


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "vae" / "weights").write_text("one")
    return folder


def test_a_linked_folder_counts_as_its_files_would(folder, tmp_path):
    before = folder_digest(folder)
    shutil.move(folder / "vae", tmp_path / "elsewhere")
    (folder / "vae").symlink_to(tmp_path / "elsewhere")
    assert folder_digest(folder) == before
    assert folder_digest(shutil.copytree(folder, tmp_path / "copy")) == before
    (tmp_path / "elsewhere" / "weights").write_text("two")
    assert folder_digest(folder) != before


def test_links_without_an_end_or_without_a_file_are_refused(folder, tmp_path):
    (folder / "vae" / "again").symlink_to(folder)
    with pytest.raises(BadInput, match=r"model/vae/again: a link back to .*model, which contains it"):
        folder_digest(folder)
    (folder / "vae" / "again").unlink()
    (folder / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"model/gone: a link to .*nowhere, which does not exist"):
        folder_digest(folder)
    with pytest.raises(BadInput, match="none: missing"):
        folder_digest(tmp_path / "none")


def test_another_file_of_the_same_size_and_time_has_another_digest(tmp_path):
    """Both old enough to be remembered: one in the other's place has another inode, or another time of change."""
    file, other = tmp_path / "a", tmp_path / "b"
    for path, text in ((file, "one"), (other, "two")):
        path.write_text(text)
        os.utime(path, (0, 0))
    before = file_digest(file)
    os.replace(other, file)
    assert file_digest(file) != before
    file.write_text("six")
    os.utime(file, (0, 0))
    assert len({before, file_digest(file)}) == 2
