"""Preferences with one label: from chosen and rejected clips to a reward model of Overall alone and its figures."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.pipeline.tracking import signature
from components.reward.bench import reward_bench
from components.reward.pairs import read_pairs, shuffled
from components.reward.prompt import TEMPLATES
from components.reward.score import RewardModel, as_table, need_scores, with_overall
from components.reward.scores import score_names
from components.reward.train import reward
from components.serving.monitor import read_reference
from components.video.encode import write_video
from tests.curation.test_stages import PlainStage as DataStage
from tests.curation.test_stages import run
from tests.reward.test_train import PARAMS, PlainStage
from tests.reward.tiny import tiny_model

OVERALL = ["Overall"]
FEW = PARAMS.training.model_copy(update={"steps": 2, "batch_size": 2})


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder of nine clips a side of dark (rejected) and bright (chosen) ones, gone through all stages up to pairs."""
    rng, rows = np.random.default_rng(0), []
    for n in range(9):
        for side, level in (("good", 200), ("bad", 60)):
            frames = np.clip(level + rng.normal(0, 10, (3, 16, 16, 3)), 0, 255).astype(np.uint8)
            write_video(tmp_path / f"given/{side}/{n}.mp4", frames, fps=8)
        rows.append(f"good/{n}.mp4,bad/{n}.mp4,prompt number {n},wan,other")
    header = "chosen,rejected,prompt,chosen_model,rejected_model"
    (tmp_path / "given/labels.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    report = run(DataStage(tmp_path / "given", dimensions=OVERALL))
    assert report["dimensions"]["Overall"] == {"labelled": 9, "tie_share": 0.0, "A_share": 1.0}
    assert report["generators"]["wan"]["win_rate"]["Overall"] == 1.0
    model = tiny_model()
    model.backbone.network.save_pretrained("base")
    model.prompts.tokenizer.save_pretrained("base")
    return tmp_path


def test_from_chosen_and_rejected_clips_to_a_benchmark(work):
    stage = PlainStage(dimensions=OVERALL, template=str(TEMPLATES / "overall/short.txt"), training=FEW)
    reward(stage)
    reward_bench(stage)
    report = json.loads(Path("metrics/reward_bench.json").read_text())
    assert list(report["dimensions"]) == OVERALL and report["dimensions"]["Overall"]["accuracy_without_ties"]["n"] == 3
    columns = Path("plots/reward_bench.csv").read_text().splitlines()[0].split(",")
    assert columns[-3:] == ["Overall_label", "Overall_score_A", "Overall_score_B"]

    model = RewardModel.load("models/video_reward")
    (score,) = model.score([(work / "given/good/0.mp4", "prompt number 0")])
    assert score.overall == score.normalised["Overall"]
    assert list(read_reference(Path("models/video_reward")).quantiles) == OVERALL
    assert signature(Path("models/video_reward"), SimpleNamespace())["outputs"] == {"raw": OVERALL, "normalised": OVERALL}
    table = as_table(["a.mp4"], ["a cat"], [score], OVERALL)
    assert list(table) == ["path", "prompt", "status", "reason", "raw_Overall", "Overall", "reward_model", "frame_plan"]

    out = work / "bench"
    rest = [f"--videos={work / 'given'}", "--model=models/video_reward", f"--out={out}"]
    result = CliRunner().invoke(app, ["bench-reward", str(work / "given/labels.csv"), *rest])
    assert result.exit_code == 0, result.output
    assert "columns of chosen and rejected: 9 pairs" in result.output
    scores = pd.read_parquet(out / "scores.parquet")
    assert list(scores) == list(table) and len(scores) == 18


def test_shuffled_labels_of_one_side_are_drawn(work):
    """Else the control, labels of other pairs, would be the labels themselves."""
    pairs = read_pairs("train", OVERALL)
    many = shuffled(pairs, np.random.default_rng(0)).labels
    assert set(pairs.labels.ravel()) == {1} and set(many.ravel()) <= {1, -1}
    found = {tuple(shuffled(pairs, np.random.default_rng(seed)).labels.ravel()) for seed in range(20)}
    assert len(found) > 1 and set(pairs.labels.ravel()) == {1}


def test_methods_are_compared_by_all_dimensions():
    """What stops is evaluation, with a line: sampling has no use for scores."""
    need_scores(score_names(["VQ", "MQ", "TA"]), DIMENSIONS)
    with pytest.raises(BadInput, match=r"key 'reward.dimensions': VideoReward has no score VQ, MQ, TA, and methods are"):
        need_scores(score_names(OVERALL), DIMENSIONS)


def test_overall_is_the_sum_unless_it_is_a_dimension():
    assert score_names(["VQ", "TA"]) == ["VQ", "TA", "Overall"] and score_names(["Overall", "VQ"]) == ["Overall", "VQ"]
    scores = np.array([[1.0, 2.0], [3.0, 5.0]])
    assert with_overall(scores, ["VQ", "TA"]).tolist() == [[1, 2, 3], [3, 5, 8]]
    assert with_overall(scores, ["Overall", "TA"]) is scores
