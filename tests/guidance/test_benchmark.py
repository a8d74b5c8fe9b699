"""benchmarks/guidance.py reads what stages made: `study` and `ablation` run to their end on clips that lie ready."""

import json
import runpy
from pathlib import Path

import pandas as pd
import pytest
import yaml

from components.evaluation.tradeoff import SECONDS
from components.pipeline.stage import MEASURED, write_json
from tests.conftest import REPOSITORY

DIMENSIONS = ("VQ", "MQ", "TA", "Overall")
SETTINGS = ("1:0:0", "0:1:0", "0:0:1", "0.1:0.1:0.8", "0.1:0.1:0.6", "0.5:0.5:0")


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    loaded = runpy.run_path("benchmarks/guidance.py")
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    for name in ("frozen_trunk", *(f"{model}{run}" for model in ("noise-aware", "clean") for run in ("", "_17", "_18"))):
        finished(Path(".reelign/guidance") / name, guided=0.6 if name.startswith("noise-aware") else 0.3)
    return loaded


def finished(folder: Path, guided: float) -> None:
    """The outputs of stages latent_reward and tradeoff: plain clips score `place` / 10, guided ones `guided`."""
    (folder / "models/latent_reward").mkdir(parents=True)
    (folder / "metrics").mkdir()
    (folder / "data").mkdir()
    rates = {"gold": {d: {"value": 0.5, "ci95": [0.4, 0.6], "n": 10} for d in DIMENSIONS}}
    (folder / "metrics/tradeoff.json").write_text(json.dumps({"settings": {s: {"win_rate": rates} for s in SETTINGS}}))
    rows = [
        {"setting": setting, "prompt_id": f"p{place}", "clip": f"p{place}_0"}
        | {f"gold_{d}": place / 10 - 0.05 if setting == "plain" else guided for d in DIMENSIONS}
        for setting in ("plain", *SETTINGS)
        for place in range(10)
    ]
    pd.DataFrame(rows).to_parquet(folder / "data/tradeoff.parquet")
    write_json(folder / MEASURED / "tradeoff.json", {f"{SECONDS}{setting}": 1.0 for setting in ("plain", *SETTINGS)})


def test_the_study_compares_both_models_clip_by_clip(benchmark, capsys):
    benchmark["study"]()
    printed = capsys.readouterr().out
    assert printed.count("clips, plain sampling 1.00 s a clip") == 3
    assert sum("VQ 1.000 [1.00, 1.00]" in line for line in printed.splitlines()) == len(SETTINGS)


def test_the_ablation_gives_each_seed_and_the_mean_over_seeds(benchmark, capsys):
    benchmark["ablation"]("17,18")
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("0:0:1 gold TA")]
    # Of ten plain clips seven lie below 0.6 and four below 0.3; the clean model's clips all lie below the other's.
    means = {" ".join(line[3:6]): line[6] for line in lines}
    assert means == {
        "noise-aware against plain": "0.700",
        "clean against plain": "0.400",
        "noise-aware against clean": "1.000",
    }
    assert yaml.safe_load(Path(".reelign/guidance/clean_18/params.yaml").read_text())["seed"] == 18


def test_clips_of_other_prompts_are_not_compared(benchmark):
    clips = pd.read_parquet(".reelign/guidance/clean/data/tradeoff.parquet")
    with pytest.raises(ValueError, match="not of the same prompts and seeds"):
        benchmark["against"](clips, "1:0:0", clips[clips["clip"] != "p3_0"], "plain", "VQ")
