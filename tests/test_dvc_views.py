"""What `dvc metrics` and `dvc plots` show of the pipeline: scalars that fit a screen, and charts whose fields are there."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from components.evaluation.compare import headline
from components.evaluation.evaluate import win_rate_table
from components.guidance.train import BINS, by_noise_table
from components.pipeline.stage import write_json
from components.reward import bench
from components.reward import metrics as figures
from components.runtime.training import write_rows
from components.statistics.intervals import as_json
from tests.conftest import REPOSITORY

DIMENSIONS = ("VQ", "MQ", "TA", "Overall")
METHODS = ("sft", "rwr", "dpo", "nrg", "best_of_n")
DVC = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
TRAINING = [file for plot in DVC["plots"] for entry in plot.values() for file in entry["y"] if file.endswith("training.csv")]


def alignment() -> dict:
    """Of metrics/alignment.json, what the headline and the plots are made of; SFT was sampled for three prompts only."""
    rate = as_json(0.71234567, 0.64, 0.78, 100, 50)
    few = as_json(0.5, None, None, 6, 3)
    return {
        "decides": "gold",
        "methods": {
            method: {
                "win_rate": {
                    judge: dict.fromkeys(DIMENSIONS, few if method == "sft" else rate) for judge in ("gold", "reward")
                },
                "hacking": {"alarm": method == "rwr"},
            }
            for method in METHODS
        },
    }


def bench_figures() -> dict:
    """Of metrics/reward_bench.json, the same."""
    rng = np.random.default_rng(0)
    accuracy = as_json(0.8456789, 0.81, 0.88, 320, 120)
    labels = rng.choice([-1, 1], 60)
    return {
        "dimensions": {d: {"accuracy_without_ties": accuracy, "accuracy_with_ties": accuracy} for d in DIMENSIONS},
        "calibration": {d: figures.calibration(labels, labels + rng.normal(size=60)) for d in DIMENSIONS},
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A finished pipeline as far as DVC's views read it: dvc.yaml as it is, files written by the stages' own functions."""
    folder = tmp_path_factory.mktemp("views")
    subprocess.run(["git", "init", "-q", folder], check=True)
    subprocess.run(["dvc", "init", "-q"], cwd=folder, check=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(REPOSITORY / name, folder / name)
    shutil.copytree(REPOSITORY / ".dvc/plots", folder / ".dvc/plots")
    write_json(folder / "metrics/headline.json", headline(alignment()))
    write_json(folder / "metrics/reward_headline.json", bench.headline(bench_figures()))
    (folder / "plots").mkdir()
    win_rate_table(alignment()).to_csv(folder / "plots/win_rates.csv", index=False)
    bench.calibration_table(bench_figures()).to_csv(folder / "plots/calibration.csv", index=False)
    by_noise = {d: [0.9 - part / 20 for part in range(BINS)] for d in DIMENSIONS} | {"MQ": [None] * BINS}
    by_noise_table(by_noise).to_csv(folder / "plots/accuracy_by_noise.csv", index=False)
    for file in TRAINING:
        (folder / file).parent.mkdir(parents=True)
        write_rows(folder / file, [{"step": step, "loss": 1 / step} for step in (10, 20)])
    return folder


def shown(folder: Path, *command: str) -> str:
    done = subprocess.run(["dvc", *command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "failed" not in done.stderr, done.stderr
    return done.stdout


def test_metrics_are_scalars_on_one_screen(checkout):
    text = shown(checkout, "metrics", "show")
    assert len(text) < 24 * 80
    found = json.loads(shown(checkout, "metrics", "show", "--json"))[""]["data"]
    assert set(found) == {"metrics/headline.json", "metrics/reward_headline.json"}
    for file in found:
        for row in json.loads((checkout / file).read_text()).values():
            assert all(isinstance(value, int | float) for value in row.values())
    methods = found["metrics/headline.json"]["data"]
    bounds = {"low": 0.64, "high": 0.78}
    assert methods["dpo"] == {"value": 0.7123, **bounds, "VQ": 0.7123, "MQ": 0.7123, "TA": 0.7123, "alarm": 0}
    assert methods["rwr"]["alarm"] == 1 and "low" not in methods["sft"]
    accuracies = found["metrics/reward_headline.json"]["data"]
    assert accuracies["TA"] == {"value": 0.8457, "low": 0.81, "high": 0.88}
    assert accuracies["Overall"]["with_ties"] == 0.8457


def test_every_plot_has_points_and_names_fields_that_are_there(checkout):
    found = json.loads(shown(checkout, "plots", "show", "--json"))
    assert not found.get("errors") and len(found["data"]) == len(DVC["plots"])
    for title, (plot,) in found["data"].items():
        spec = plot["content"] if isinstance(plot["content"], dict) else json.loads(plot["content"])
        rows = spec["data"]["values"]
        assert rows, title
        fields = set(named_fields(spec))
        assert fields and "<DVC_METRIC" not in json.dumps(spec["title"]), title
        assert fields <= set(rows[0]), f"{title}: {fields - set(rows[0])}"


def named_fields(tree: object) -> list[str]:
    if isinstance(tree, list):
        return [field for inner in tree for field in named_fields(inner)]
    if not isinstance(tree, dict):
        return []
    own = [tree["field"]] if isinstance(tree.get("field"), str) else []
    return own + [field for key, inner in tree.items() if key != "data" for field in named_fields(inner)]


def test_stages_have_no_metrics_but_headlines():
    stages = [entry.get("do", entry) for entry in DVC["stages"].values()]
    assert not any("plots" in stage for stage in stages)
    assert all("headline" in file for stage in stages for file in stage.get("metrics", []))
