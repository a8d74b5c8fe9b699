"""`reelign score` over many files: the same table from any engine, a killed run goes on, bad input comes through whole."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.reward.score import RewardModel
from components.reward.score_files import ModelFiles, state_folder
from components.video.encode import write_video
from tests.reward.tiny import saved_model

REPOSITORY = Path(__file__).parents[2]
CLIPS = 30
pytestmark = pytest.mark.ray  # most of it starts Ray
HOW = [("local", 1), ("local", 2), ("ray", 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """30 clips of several sizes, one of them broken, and clips.csv: one clip comes three times, for two prompts."""
    folder = tmp_path_factory.mktemp("scoring")
    saved_model(folder / "model")
    rng = np.random.default_rng(0)
    for number in range(CLIPS):
        size = [(9, 32, 32), (5, 32, 48), (12, 64, 32)][number % 3]
        write_video(folder / f"{number}.mp4", rng.integers(0, 256, (*size, 3), dtype=np.uint8), fps=8)
    (folder / "7.mp4").write_text("not a video")
    rows = [(f"{number}.mp4", "a red circle") for number in range(CLIPS)]
    rows += [("3.mp4", "a red circle"), ("3.mp4", "a blue square moving up"), ("none.mp4", "a cat")]
    pd.DataFrame(rows, columns=["path", "prompt"]).to_csv(folder / "clips.csv", index=False)
    return folder


def command(folder: Path, out: Path, *options: str) -> list[str]:
    files = [f"--csv={folder / 'clips.csv'}", f"--model={folder / 'model'}", f"--out={out}"]
    return ["score", *files, "--chunk=8", *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "2"}


def run(folder: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "components.cli.main", *command(folder, out, *options)]
    return subprocess.run(line, env=environment(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def tables(folder):
    """The table as made by local 1, local 2 and ray 2."""
    made = {}
    for engine, workers in HOW:
        made[engine, workers] = folder / f"{engine}{workers}.parquet"
        result = run(folder, made[engine, workers], f"--engine={engine}", f"--workers={workers}")
        assert result.returncode == 2, result.stderr
        errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 2 and "7.mp4" in errors[0] and "none.mp4: no such file" in errors[1]
        said = f"{made[engine, workers]}: {CLIPS + 1} of {CLIPS + 3} videos scored\n"
        assert result.stdout == said, "the table has the scores; nothing of Ray's"
    return made


def test_ray_and_local_make_the_same_bytes(tables):
    assert tables["ray", 2].read_bytes() == tables["local", 2].read_bytes()
    assert not list(tables["ray", 2].parent.glob("*.partial"))


def test_scores_are_those_of_the_model(folder, tables):
    one, two = (pd.read_parquet(tables["local", workers]) for workers in (1, 2))
    items = [(folder / Path(row.path).name, row.prompt) for row in one.itertuples()]
    expected = RewardModel.load(folder / "model").score(items)
    for row, other, score in zip(one.itertuples(), two.itertuples(), expected, strict=True):
        if row.status == "failed":
            assert (other.status, row.reason) == ("failed", score.reason) and np.isnan(row.Overall)
            continue
        assert (row.reward_model, row.frame_plan) == (score.model_version, score.frame_plan)
        assert [row.raw_VQ, row.raw_MQ, row.raw_TA] == pytest.approx(list(score.raw.values()), abs=1e-5)
        assert [other.raw_VQ, other.raw_MQ, other.raw_TA] == pytest.approx(list(score.raw.values()), abs=1e-5)
    assert one.Overall.notna().sum() == CLIPS + 1 and one.Overall[3] == one.Overall[CLIPS]
    assert one.TA[3] != one.TA[CLIPS + 1]


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_and_started_again(folder, tables, tmp_path, engine):
    """SIGKILL once two of four chunks are done: the next run takes them as they are and ends with the same table."""
    out = tmp_path / "scores.parquet"
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, signal
from pathlib import Path
from components.cli.reward import read_items
from components.reward.score_files import ModelFiles, score_files, state_folder

def some(items, what, total):
    for count, item in enumerate(items, start=1):
        yield item
        if count == 9:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    items = read_items([], None, Path({str(folder / "clips.csv")!r}))
    model = ModelFiles({str(folder / "model")!r}, None, -1)
    score_files(items, model, {engine!r}, 2, 8, state_folder(Path({str(out)!r}), items, model, 8), some)
""")
    assert subprocess.run([sys.executable, script], env=environment()).returncode == -signal.SIGKILL
    kept = tmp_path / "scores.parquet.partial"
    done = sorted(kept.glob("*/chunk-*.json"))
    assert not out.exists() and len(done) >= 2
    # A score that was tampered with comes through: its chunk was not done again.
    first = int(done[0].stem.removeprefix("chunk-")) * 8
    done[0].write_text(re.sub(r'"overall": [-+.0-9e]+', '"overall": 1234.5', done[0].read_text(), count=1))

    assert run(folder, out, f"--engine={engine}", "--workers=2").returncode == 2
    expected = pd.read_parquet(tables[engine, 2])
    expected.loc[first, "Overall"] = 1234.5
    pd.testing.assert_frame_equal(pd.read_parquet(out), expected, check_exact=True)
    assert not kept.exists()


def test_chunks_belong_to_exactly_this_work(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    shutil.copyfile(folder / "0.mp4", tmp_path / "0.mp4")
    items = [(tmp_path / "0.mp4", "a"), (tmp_path / "none.mp4", "b")]
    model, out = ModelFiles(str(tmp_path / "model"), None, -1), tmp_path / "scores.csv"
    folders = [state_folder(out, items, model, 8)]
    assert state_folder(out, items, model, 8) == folders[0] == state_folder(out, list(items), model, 8)
    folders.append(state_folder(out, items, model, 9))
    folders.append(state_folder(out, [items[0], (items[1][0], "c")], model, 8))
    folders.append(state_folder(out, items[::-1], model, 8))
    shutil.copyfile(folder / "1.mp4", tmp_path / "0.mp4")
    folders.append(state_folder(out, items, model, 8))
    (tmp_path / "model" / "config.json").write_text("{}")
    folders.append(state_folder(out, items, model, 8))
    assert len(set(folders)) == 6 and {folder.parent.name for folder in folders} == {"scores.csv.partial"}


def test_a_model_that_no_worker_can_load_is_one_line(folder, tmp_path):
    out = tmp_path / "scores.csv"
    result = run(folder, out, "--engine=ray", "--workers=2", f"--model={tmp_path}")
    assert result.returncode == 2 and not out.exists()
    errors = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and errors[0].startswith(f"error: {tmp_path}"), result.stderr
    assert "Traceback" not in result.stderr


def test_triton_has_its_own_workers(folder):
    options = ["--prompt=a", "--triton=127.0.0.1:9", "--engine=ray"]
    with pytest.raises(BadInput, match="no --engine, --workers or --dtype with it"):
        CliRunner().invoke(app, ["score", str(folder / "0.mp4"), *options], catch_exceptions=False)
