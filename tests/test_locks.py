"""Work of one process at a time."""

import shutil
import threading

import pytest

from components.errors import BadInput
from components.locks import alone


def test_a_second_one_is_refused_and_a_folder_with_nothing_in_it_goes(tmp_path):
    folder = tmp_path / "state"
    with alone(folder), pytest.raises(BadInput, match="busy"), alone(folder, BadInput("out", "busy")):
        pass
    assert not folder.exists()
    with alone(folder, BadInput("out", "busy")):
        (folder / "kept").touch()
    assert folder.exists()


def test_one_that_waited_for_a_folder_that_is_gone_has_its_own(tmp_path):
    folder, waits, done = tmp_path / "state", threading.Event(), []

    def second() -> None:
        with alone(folder, waits=waits.set):
            done.append((folder.exists(), list(folder.iterdir())))

    with alone(folder):
        (folder / "chunk").touch()
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        shutil.rmtree(folder)
    thread.join(10)
    assert done == [(True, [])]
