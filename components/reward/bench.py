"""Stage `reward_bench`: how often VideoReward agrees with people on pairs whose prompts it has never seen."""

import numpy as np
import pandas as pd

from components.contracts import REWARD_METRICS, SOURCE_VIDEOS, VIDEO_REWARD
from components.pipeline.stage import Stage, stage_main, write_json
from components.reward.metrics import pair_metrics, summary
from components.reward.pairs import Pairs, label_column, read_pairs
from components.reward.score import RewardModel, score_table
from components.reward.scores import OVERALL, score_names
from components.statistics.intervals import as_scalars
from components.video.limits import Limits


def reward_bench(stage: Stage) -> None:
    """Reads models/video_reward, data/pairs and their videos. Writes metrics/reward_bench.json and reward_headline.json, and
    plots.

    Fails with BadInput for a video without a score, and a test split without labels. A killed run scores anew.
    """
    params = stage.params.reward_bench
    model = RewardModel.load(VIDEO_REWARD, limits=Limits.of(stage.params.limits))
    names = score_names(model.dimensions)
    pairs = read_pairs("test", names)
    scores = pair_scores(stage, model, pairs)  # [2, N, D + 1]
    table = pair_table(pairs, names, scores)
    thresholds = model.card.tie_thresholds if params.threshold_from == "validation" else {}
    found = pair_metrics(table, names, thresholds, params.threshold_from, params.bootstrap)
    write_json(stage.output(REWARD_METRICS), {"model_version": model.version} | found)
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
    table = score_table(stage, model, pd.DataFrame(sides, columns=["path", "prompt"]), SOURCE_VIDEOS)
    failed = table.loc[table["status"] != "ok"]
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
        table[f"{name}_label"] = label_column(pairs.labels[:, column])
        table[f"{name}_score_A"], table[f"{name}_score_B"] = scores[0, :, column], scores[1, :, column]
    return table


if __name__ == "__main__":
    stage_main("reward_bench", reward_bench)
