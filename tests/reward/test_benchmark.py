"""`reelign bench-reward`: both layouts, planted scores with known accuracies, errors by line."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from components.cli import app
from components.errors import BadInput
from components.reward.benchmark import read_benchmark
from components.reward.figures import calibration, figures
from components.video.encode import write_video
from tests.reward.tiny import saved_model

DIMENSIONS = ["VQ", "MQ", "TA"]


def videogen(path, rows):
    head = "path_A,path_B,A_model,B_model,prompt,VQ,MQ,TA,Overall\n"
    path.write_text(head + "\n".join(",".join(row) for row in rows) + "\n")
    return path


def genai(path, votes):
    rows = [f"a cat,v/{i}a.mp4,v/{i}b.mp4,m1,m2,{vote}" for i, vote in enumerate(votes)]
    path.write_text("prompt,left_video,right_video,left_model,right_model,vote_type\n" + "\n".join(rows) + "\n")
    return path


def test_videogen_layout(tmp_path):
    rows = [("a.mp4", "b.mp4", "m1", "m2", "a cat", "A", "same", "B", "A")]
    pairs = read_benchmark(videogen(tmp_path / "x.csv", rows), DIMENSIONS)
    assert {name: labels.tolist() for name, labels in pairs.labels.items()} == {
        "VQ": [1],
        "MQ": [0],
        "TA": [-1],
        "Overall": [1],
    }
    assert pairs.models == (["m1"], ["m2"])


def test_genai_layout_is_answered_by_text_alignment(tmp_path):
    pairs = read_benchmark(genai(tmp_path / "x.csv", ["leftvote", "rightvote", "tievote", "bothbad_vote"]), DIMENSIONS)
    assert pairs.labels["preference"].tolist() == [1, -1, 0, 0]
    assert pairs.score_of == {"preference": "TA"}


def test_an_unknown_vote_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"row 3.*vote_type"):
        read_benchmark(genai(tmp_path / "x.csv", ["leftvote", "left"]), DIMENSIONS)


def test_planted_scores_give_their_accuracies():
    table = pd.DataFrame(
        {
            "prompt": list("abcd"), "model_A": ["m1"] * 4, "model_B": ["m2", "m2", "m3", "m3"],
            "VQ_label": pd.array([1, -1, 1, 0], dtype="Int64"),
            "VQ_score_A": [2.0, 0.0, 0.0, 0.1], "VQ_score_B": [0.0, 1.0, 3.0, 0.0],
        }
    )  # fmt: skip
    result = figures(table, ["VQ"], {"VQ": 0.2}, "validation", 20)
    entry = result["dimensions"]["VQ"]
    assert entry["accuracy_without_ties"]["value"] == pytest.approx(2 / 3)
    assert entry["accuracy_with_ties"]["value"] == 0.75 and entry["accuracy_with_ties"]["tie_threshold"] == 0.2
    assert result["generators"]["VQ"]["m2"] == {"accuracy_without_ties": 1.0, "n": 2}
    assert result["generators"]["VQ"]["m3"] == {"accuracy_without_ties": 0.0, "n": 1}


def test_calibration_finds_the_slope_that_labels_were_drawn_with():
    rng = np.random.default_rng(0)
    differences = rng.normal(0, 1, 40_000)
    labels = np.where(rng.random(40_000) < 1 / (1 + np.exp(-2 * differences)), 1, -1)
    found = calibration(labels, differences)
    assert found["slope"] == pytest.approx(2, rel=0.05) and found["error"] < 0.01
    assert [b["n"] for b in found["bins"]] == [4000] * 10


def test_command_on_real_files(tmp_path):
    saved_model(tmp_path / "model")
    for seed, name in enumerate(("a.mp4", "b.mp4", "c.mp4")):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
        write_video(tmp_path / name, pixels, fps=8)
    rows = [("a.mp4", "b.mp4", "m1", "m2", "a cat", *"AABA"), ("a.mp4", "c.mp4", "m1", "m3", "a cat", *"BABB")]
    csv, out = videogen(tmp_path / "x.csv", rows), tmp_path / "out"
    command = ["bench-reward", str(csv), "--videos", str(tmp_path), "--model", str(tmp_path / "model"), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads((out / "figures.json").read_text())["dimensions"]["Overall"]["accuracy_without_ties"]["n"] == 2
    assert {path.name for path in out.iterdir()} == {"figures.json", "pairs.csv", "calibration.png", "differences.png"}
    (tmp_path / "c.mp4").write_text("no video")
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, BadInput) and "row 3" in str(result.exception) and "video B" in str(result.exception)
