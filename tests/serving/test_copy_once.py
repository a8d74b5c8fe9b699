"""`reelign serve --live`: the copy of a repository, made by one process, whole."""

import shutil
import threading

import pytest

from components.cli.serving import copy_once
from components.errors import BadInput
from components.files.locks import sole_writer


def test_a_second_command_waits_for_the_copy_of_the_first(tmp_path, capsys):
    """It neither removes what the first has copied nor fails, and uses the first's copy."""
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository/config").write_text("of the repository")
    live, said = tmp_path / "live", threading.Event()
    with sole_writer(live):
        second = threading.Thread(target=copy_once, args=(tmp_path / "repository", live))
        second.start()
        while "waiting for" not in capsys.readouterr().out and second.is_alive():
            said.wait(0.01)
        assert second.is_alive() and not live.exists()
        shutil.copytree(tmp_path / "repository", live)
        (live / "config").write_text("of the first")
    second.join(10)
    assert (live / "config").read_text() == "of the first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live", "repository"]


def test_a_repository_that_is_missing_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"repository: missing; `dvc repro package` makes it"):
        copy_once(tmp_path / "repository", tmp_path / "live")
    assert list(tmp_path.iterdir()) == []
