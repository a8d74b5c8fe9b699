"""Stage evaluate: score every method's samples with held-out judges and VideoReward, compare with base, write the report."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from components.config.params import Params
from components.contracts import (
    ALIGNMENT_METRICS,
    BASE_GENERATOR,
    SAMPLE_SCORES,
    SAMPLES,
    VIDEO_REWARD,
)
from components.evaluation.compare import compare, headline
from components.evaluation.lineage import upstream_outputs
from components.evaluation.report import write_report
from components.evaluation.verdict import lead_rates
from components.methods import BASE, METHODS
from components.pipeline.stage import Stage, folder_digest, stage_main, write_json
from components.statistics.intervals import as_text


def evaluate(stage: Stage) -> None:
    """Reads data/samples, models/video_reward and the judges' files. Writes metrics/alignment.json and headline.json, plots,
    data/sample_scores.parquet and report/index.html.

    Fails with BadInput for a clip without a score, samples of unlike prompts, and a judge that is kin of VideoReward. A
    killed run judges and scores anew; answers that a judge keeps are not asked for again.
    """
    params = stage.params.evaluate
    clips, metrics = compare(stage, {name: SAMPLES / name for name in (BASE, *params.methods)}, params)
    write_json(stage.output(ALIGNMENT_METRICS), metrics)
    write_json(stage.output("metrics/headline.json"), headline(metrics))
    win_rate_table(metrics).to_csv(stage.output("plots/win_rates.csv"), index=False)
    clips.drop(columns="video").to_parquet(stage.output(SAMPLE_SCORES), index=False)
    stage.log(flat_metrics(metrics))
    report = stage.output("report/index.html")
    profile = stage.params.profile
    outputs = upstream_outputs(Path("dvc.lock"), "evaluate")
    write_report(report, metrics, clips, params, profile, outputs, model_versions(stage.params))
    for method in metrics["methods"]:
        judge, rates = lead_rates(metrics, method)
        stage.say(f"{method}: wins {as_text(rates['Overall'], '{:.1%}'.format, '({} to {})')} against base by {judge}")


def win_rate_table(metrics: dict) -> pd.DataFrame:
    """Win rates as a table for DVC's plots: method, judge, dimension, value, low, high (empty without an interval), n."""
    rows = [
        {"method": method, "judge": judge, "dimension": dimension, "value": found["value"], "n": found["n"]}
        | dict(zip(("low", "high"), found["ci95"] or (), strict=False))
        for method, entry in metrics["methods"].items()
        for judge, dimensions in entry["win_rate"].items()
        for dimension, found in dimensions.items()
    ]
    return pd.DataFrame(rows, columns=["method", "judge", "dimension", "value", "low", "high", "n"])


def flat_metrics(metrics: dict) -> dict[str, float]:
    """Metrics for MLflow: win rates, shares of prompts right, alarms."""
    rows: Iterable[Any] = win_rate_table(metrics).itertuples()
    logged = {f"win_rate/{row.method}/{row.judge}/{row.dimension}": row.value for row in rows}
    for method, entry in {"base": metrics["base"], **metrics["methods"]}.items():
        if "prompt_right" in entry:
            logged[f"prompt_right/{method}"] = entry["prompt_right"]
        if "hacking" in entry:
            logged[f"hacking_alarm/{method}"] = float(entry["hacking"]["alarm"])
    return logged


def model_versions(params: Params) -> list[tuple[str, str]]:
    """(name, digest) of the models behind the clips and scores."""
    methods = {name: METHODS[name] for name in params.evaluate.methods}
    folders = {"base generator": Path(BASE_GENERATOR), "VideoReward": Path(VIDEO_REWARD)}
    folders |= {name: Path(method.lora) for name, method in methods.items() if method.lora}
    rewards = {method.reward_folder(params) for method in methods.values()} - {None, VIDEO_REWARD}
    folders |= {Path(folder).name.replace("_", " "): Path(folder) for folder in sorted(filter(None, rewards))}
    return [(name, folder_digest(folder)) for name, folder in folders.items() if folder.exists()]


if __name__ == "__main__":
    stage_main("evaluate", evaluate)
