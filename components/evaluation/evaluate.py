"""Stage evaluate: score every method's samples with the gold judge and VideoReward, compare with base, write the report."""

from pathlib import Path

import pandas as pd

from components.evaluation.compare import REWARD_MODEL, SAMPLES, compare, headline
from components.evaluation.lineage import upstream_outputs
from components.evaluation.report import write_report
from components.intervals import as_text
from components.params import Params
from components.stage import Stage, folder_digest, run_stage, write_json


def evaluate(stage: Stage) -> None:
    params = stage.params.evaluate
    clips, metrics = compare(stage, {name: SAMPLES / name for name in ("base", *params.methods)}, params)
    write_json(stage.output("metrics/alignment.json"), metrics)
    write_json(stage.output("metrics/headline.json"), headline(metrics))
    win_rate_table(metrics).to_csv(stage.output("plots/win_rates.csv"), index=False)
    clips.drop(columns="video").to_parquet(stage.output("data/sample_scores.parquet"), index=False)
    stage.log(flat_metrics(metrics))
    report = stage.output("report/index.html")
    profile = stage.params.profile
    outputs = upstream_outputs(Path("dvc.lock"), "evaluate")
    write_report(report, metrics, clips, params, profile, outputs, model_versions(stage.params))
    for method, entry in metrics["methods"].items():
        judge = "gold" if "gold" in entry["win_rate"] else "reward"
        rate = entry["win_rate"][judge]["Overall"]
        stage.say(f"{method}: wins {as_text(rate, '{:.1%}'.format, '({} to {})')} against base by {judge}")


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
    logged = {
        f"win_rate/{row.method}/{row.judge}/{row.dimension}": row.value for row in win_rate_table(metrics).itertuples()
    }
    for method, entry in {"base": metrics["base"], **metrics["methods"]}.items():
        if "prompt_right" in entry:
            logged[f"prompt_right/{method}"] = entry["prompt_right"]
        if "hacking" in entry:
            logged[f"hacking_alarm/{method}"] = float(entry["hacking"]["alarm"])
    return logged


def model_versions(params: Params) -> list[tuple[str, str]]:
    """(name, digest) of the models behind the clips and scores."""
    methods = params.evaluate.methods
    folders = {"base generator": Path("models/base_generator"), "VideoReward": REWARD_MODEL}
    folders |= {method: Path("models/aligned") / method for method in methods if method in ("sft", "rwr", "dpo")}
    if "nrg" in methods or ("best_of_n" in methods and params.best_of_n.judge == "latent_reward"):
        folders["latent reward"] = Path("models/latent_reward")
    return [(name, folder_digest(folder)) for name, folder in folders.items() if folder.exists()]


if __name__ == "__main__":
    run_stage("evaluate", evaluate)
