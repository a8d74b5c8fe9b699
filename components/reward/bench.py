"""Stage `reward_bench`: how often VideoReward agrees with people on pairs whose prompts it has never seen."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.errors import BadInput
from components.reward.accuracy import fit_tie_threshold, tie_baselines, with_ties, without_ties
from components.reward.pairs import NO_LABEL, VIDEOS, Pairs, read_pairs
from components.reward.score import OVERALL, RewardModel, score_table
from components.stage import Stage, run_stage, write_json

MODEL = Path("models/video_reward")


def reward_bench(stage: Stage) -> None:
    params = stage.params.reward_bench
    model = RewardModel.load(MODEL)
    names = [*model.dimensions, OVERALL]
    pairs = read_pairs("test", names)
    scores = pair_scores(stage, model, pairs)  # [2, N, D + 1]
    known_thresholds = model.facts["tie_thresholds"] if params.threshold_from == "validation" else {}
    dimensions, baselines = {}, {}
    for column, name in enumerate(names):
        known = pairs.labels[:, column] != NO_LABEL
        labels = pairs.labels[known, column]
        differences = (scores[0] - scores[1])[known, column]
        prompts = np.array(pairs.prompts)[known]
        dimensions[name] = measure(
            labels,
            differences,
            prompts,
            known_thresholds.get(name),
            params.threshold_from,
            stage.rng(name),
            params.bootstrap,
        )
        baselines[name] = tie_baselines(labels)
    write_json(
        stage.output("metrics/reward_bench.json"),
        {
            "model_version": model.version,
            "pairs": len(pairs),
            "prompts": len(set(pairs.prompts)),
            "dimensions": dimensions,
            "baselines": baselines,
        },
    )
    plot = stage.output("plots/reward_bench.csv")
    pair_table(pairs, names, scores).to_csv(plot, index=False)
    stage.log(
        {
            f"test/{kind}/{name}": entry[kind]["value"]
            for name, entry in dimensions.items()
            for kind in ("accuracy_without_ties", "accuracy_with_ties")
            if entry[kind]["value"] is not None
        }
    )
    for name, entry in dimensions.items():
        stage.say(f"{name}: {summary(entry, baselines[name])}")


def measure(
    labels: np.ndarray,
    differences: np.ndarray,
    prompts: np.ndarray,
    threshold: float | None,
    threshold_from: str,
    rng: np.random.Generator,
    rounds: int,
) -> dict[str, Any]:
    """One dimension's entry of metrics/reward_bench.json. Where there is no tie threshold to be had (no label in the
    split that it comes from), there is no accuracy with ties: value null over 0 pairs."""
    if threshold_from == "test" and len(labels):
        threshold, _ = fit_tie_threshold(labels, differences)
    counted = slice(None) if threshold is not None else slice(0)
    tied = with_ties(labels[counted], differences[counted], prompts[counted], threshold or 0.0, rng, rounds)
    return {
        "accuracy_without_ties": without_ties(labels, differences, prompts, rng, rounds).as_json(),
        "accuracy_with_ties": {**tied.as_json(), "tie_threshold": threshold, "threshold_from": threshold_from},
    }


def pair_scores(stage: Stage, model: RewardModel, pairs: Pairs) -> np.ndarray:
    """Normalised scores of A and B with Overall last, [2, N, D + 1]; BadInput when a video cannot be scored: a
    benchmark over fewer pairs would be another benchmark."""
    sides = pairs.sides()
    table = score_table(stage, model, pd.DataFrame(sides, columns=["path", "prompt"]), VIDEOS)
    failed = table[table["status"] != "ok"]
    if len(failed):
        place = int(failed.index[0])
        key = "path_A" if place < len(pairs) else "path_B"
        raise BadInput(pairs.file, failed["reason"].iloc[0], row=place % len(pairs), key=key)
    return table[[*model.dimensions, OVERALL]].to_numpy().reshape(2, len(pairs), -1)


def pair_table(pairs: Pairs, names: list[str], scores: np.ndarray) -> pd.DataFrame:
    """A row a pair: label (empty where there is none) and both normalised scores of each dimension."""
    table = pd.DataFrame({"pair_id": pairs.pair_ids, "prompt": pairs.prompts})
    for column, name in enumerate(names):
        labels = pd.Series(pairs.labels[:, column], dtype="Int64")
        table[f"{name}_label"] = labels.mask(labels == NO_LABEL)
        table[f"{name}_score_A"], table[f"{name}_score_B"] = scores[0, :, column], scores[1, :, column]
    return table


def summary(entry: dict[str, Any], baseline: dict[str, float | None]) -> str:
    parts = []
    for kind in ("accuracy_without_ties", "accuracy_with_ties"):
        value, ci95, n = (entry[kind][key] for key in ("value", "ci95", "n"))
        shown = "none" if value is None else f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"
        parts.append(f"{kind.replace('_', ' ')} {shown} over {n} pairs")
    if baseline["random"] is not None:
        parts.append(f"always tie {baseline['always_tie']:.3f}, random {baseline['random']:.3f}")
    return "; ".join(parts)


if __name__ == "__main__":
    run_stage("reward_bench", reward_bench)
