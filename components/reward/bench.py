"""Stage `reward_bench`: how often VideoReward agrees with people on pairs whose prompts it has never seen."""

from pathlib import Path

import numpy as np
import pandas as pd

from components.intervals import as_scalars
from components.reward.figures import figures, summary
from components.reward.pairs import NO_LABEL, VIDEOS, Pairs, read_pairs
from components.reward.score import RewardModel, score_table
from components.reward.scores import OVERALL, score_names
from components.stage import Stage, run_stage, write_json
from components.video.limits import Limits

MODEL = Path("models/video_reward")


def reward_bench(stage: Stage) -> None:
    params = stage.params.reward_bench
    model = RewardModel.load(MODEL, limits=Limits(**stage.params.limits.model_dump()))
    names = score_names(model.dimensions)
    pairs = read_pairs("test", names)
    scores = pair_scores(stage, model, pairs)  # [2, N, D + 1]
    table = pair_table(pairs, names, scores)
    thresholds = model.facts["tie_thresholds"] if params.threshold_from == "validation" else {}
    found = figures(table, names, thresholds, params.threshold_from, params.bootstrap)
    write_json(stage.output("metrics/reward_bench.json"), {"model_version": model.version} | found)
    write_json(stage.output("metrics/reward_headline.json"), headline(found))
    table.to_csv(stage.output("plots/reward_bench.csv"), index=False)
    calibration_table(found).to_csv(stage.output("plots/calibration.csv"), index=False)
    stage.log(
        {
            f"test/{kind}/{name}": entry[kind]["value"]
            for name, entry in found["dimensions"].items()
            for kind in ("accuracy_without_ties", "accuracy_with_ties")
            if entry[kind]["value"] is not None
        }
    )
    for name, entry in found["dimensions"].items():
        stage.say(f"{name}: {summary(entry, found['baselines'][name])}")


def headline(found: dict) -> dict[str, dict[str, float]]:
    """What DVC shows and compares: accuracy without ties of each dimension with its bounds, and of Overall with ties too."""
    shown = {name: as_scalars(entry["accuracy_without_ties"]) for name, entry in found["dimensions"].items()}
    with_ties = found["dimensions"][OVERALL]["accuracy_with_ties"]["value"]
    if with_ties is not None:
        shown[OVERALL]["with_ties"] = round(with_ties, 4)
    return shown


def calibration_table(found: dict) -> pd.DataFrame:
    """Calibration for DVC's plots, a row a bin: dimension, difference of scores, share right, share by the fit, pairs."""
    rows = [{"dimension": name} | bin_ for name, curve in found["calibration"].items() for bin_ in curve["bins"]]
    return pd.DataFrame(rows, columns=["dimension", "difference", "right", "said", "n"])


def pair_scores(stage: Stage, model: RewardModel, pairs: Pairs) -> np.ndarray:
    """Normalised scores of A and B, [2, N, names], of score_names; BadInput when a video cannot be scored: a
    benchmark over fewer pairs would be another benchmark."""
    sides = pairs.sides()
    table = score_table(stage, model, pd.DataFrame(sides, columns=["path", "prompt"]), VIDEOS)
    failed = table[table["status"] != "ok"]
    if len(failed):
        place = int(failed.index[0])
        key = "path_A" if place < len(pairs) else "path_B"
        raise pairs.refusal(place % len(pairs), failed["reason"].iloc[0], key)
    return table[score_names(model.dimensions)].to_numpy().reshape(2, len(pairs), -1)


def pair_table(pairs: Pairs, names: list[str], scores: np.ndarray) -> pd.DataFrame:
    """A row a pair: whose clips, label (empty where there is none) and both normalised scores of each dimension."""
    table = pd.DataFrame({"pair_id": pairs.pair_ids, "prompt": pairs.prompts})
    table["model_A"], table["model_B"] = pairs.models_a, pairs.models_b
    for column, name in enumerate(names):
        labels = pd.Series(pairs.labels[:, column], dtype="Int64")
        table[f"{name}_label"] = labels.mask(labels == NO_LABEL)
        table[f"{name}_score_A"], table[f"{name}_score_B"] = scores[0, :, column], scores[1, :, column]
    return table


if __name__ == "__main__":
    run_stage("reward_bench", reward_bench)
