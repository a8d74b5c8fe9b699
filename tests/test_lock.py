"""A lock that a kill cut short is put back as the last stage found it."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from components.pipeline.lock import COPY, LOCK, clear_run_cache, is_whole, keep_copy, put_back

REPOSITORY = Path(__file__).parents[1]
TEXT = (REPOSITORY / "dvc.lock").read_text()
STAGES = yaml.load(TEXT, yaml.CSafeLoader)["stages"]
ENDS = [at for at, letter in enumerate(TEXT, 1) if letter == "\n"][:-1]  # of lines


def before(stage: str) -> str:
    """The lock up to a stage."""
    return TEXT[: TEXT.index(f"\n  {stage}:\n") + 1]


def pipeline(folder: Path) -> Path:
    """A folder with this pipeline's definition, where a lock may lie; no git."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    return folder / "dvc.lock"


@pytest.fixture
def lock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(pipeline(tmp_path).name)


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    """A folder with a lock and a copy of all of it."""
    folder = tmp_path_factory.mktemp("copied")
    pipeline(folder).write_text(TEXT)
    with contextlib.chdir(folder):
        keep_copy()
    return folder


@settings(max_examples=12)
@given(st.one_of(st.integers(0, len(TEXT) - 1), st.sampled_from(ENDS)))
def test_a_cut_is_seen_wherever_it_is(copied, at):
    with contextlib.chdir(copied):
        LOCK.write_text(TEXT[:at])
        assert not is_whole(LOCK)


def test_a_cut_of_the_stage_that_was_just_done_is_seen_though_no_copy_has_it(lock):
    """The first stages of a new lock; the last of them makes a folder."""
    names = list(STAGES)
    last = next(n for n, name in enumerate(names) if n > 3 and STAGES[name]["outs"][-1].get("md5", "").endswith(".dir"))
    whole = before(names[last + 1])
    lock.write_text(before(names[last]))
    keep_copy()
    lock.write_text(whole)
    assert is_whole(lock)
    cuts = [at for at in ENDS if len(before(names[last])) < at < len(whole)]
    for at in [*cuts[::20], *cuts[-12:]]:
        lock.write_text(whole[:at])
        assert not is_whole(lock), whole[at - 60 : at]


def test_fewer_stages_are_whole_where_git_has_them_or_the_lock_was_removed(lock):
    lock.write_text(TEXT)
    keep_copy()
    fewer, least = before([*STAGES][5]), before([*STAGES][2])
    lock.write_text(fewer)
    assert not is_whole(lock)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "--quiet"], ["add", "dvc.lock"], ["commit", "--quiet", "--message", "fewer"]):
        subprocess.run([*git, *words], check=True)
    put_back()
    assert lock.read_text() == fewer
    keep_copy()
    assert COPY.read_text() == fewer
    lock.unlink()  # to begin anew
    keep_copy()
    lock.write_text(least)
    put_back()
    assert lock.read_text() == least


@pytest.mark.parametrize(
    "left", ["", TEXT[:8192], TEXT[:16384], "schema: '2.0'\nstages:\n  a:\n   b\n  c: [", TEXT[: ENDS[900]], "a line\n"]
)
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


def test_an_empty_folder_that_a_killed_dvc_left_in_its_run_cache_goes(tmp_path, monkeypatch):
    """With it DVC fails (a join of a path and None), each time."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: echo made > out, params: [seed], outs: [out]}}\n")
    (tmp_path / "params.yaml").write_text("seed: 1\n")

    def dvc(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, capture_output=True, text=True)

    assert dvc("init", "--no-scm").returncode == dvc("repro").returncode == 0
    (kept,) = (tmp_path / ".dvc/cache/runs").glob("*/*/*")
    half = kept.with_name(".x.tmp")
    half.write_bytes(kept.read_bytes()[:20])
    kept.rename(tmp_path / "entry")
    (tmp_path / "dvc.lock").unlink()
    clear_run_cache()
    assert not kept.parent.exists() and not half.exists()
    kept.parent.mkdir()
    assert "NoneType" in dvc("repro").stderr, "DVC has mended it: clear_run_cache can go"
    clear_run_cache()
    assert dvc("repro").returncode == 0 and kept.read_bytes() == (tmp_path / "entry").read_bytes()
    clear_run_cache()
    assert kept.exists(), "whole entries stay"
