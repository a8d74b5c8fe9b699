"""A lock that a kill cut short is put back as the last stage found it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.lock import is_whole, keep_copy, put_back

TEXT = (Path(__file__).parents[1] / "dvc.lock").read_text()


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("dvc.lock")


@given(st.integers(0, len(TEXT) - 1))
def test_a_cut_is_seen_unless_it_is_at_the_end_of_a_line(tmp_path_factory, at):
    file = tmp_path_factory.getbasetemp() / "cut.lock"
    file.write_text(TEXT[:at])
    assert not is_whole(file) or TEXT[at - 1] == "\n"


@pytest.mark.parametrize("left", ["", TEXT[:8192], TEXT[:16384], "schema: '2.0'\nstages:\n  a:\n   b\n  c: ["])
def test_a_cut_lock_is_put_back(lock, left, capsys):
    lock.write_text(TEXT)
    keep_copy()
    lock.write_text(left)
    keep_copy()  # a copy is never made of what is cut
    put_back()
    assert lock.read_text() == TEXT and "cut short" in capsys.readouterr().out
    put_back()
    assert lock.read_text() == TEXT and not capsys.readouterr().out


def test_without_a_copy_a_cut_lock_goes_and_no_lock_is_none(lock):
    put_back()
    keep_copy()
    lock.write_text(TEXT[:8192])
    put_back()
    assert not lock.exists()
