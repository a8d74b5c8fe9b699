"""Figures of a reward model on labelled pairs, from a table of labels and scores. The stage `reward_bench` and the command
`bench-reward` report the same."""

from typing import Any

import numpy as np
import pandas as pd

from components.statistics.accuracy import correct, fit_tie_threshold, tie_baselines, with_ties, without_ties
from components.statistics.intervals import as_text, counted

CALIBRATION_BINS = 10


def pair_metrics(
    table: pd.DataFrame, questions: list[str], thresholds: dict[str, float | None], threshold_from: str, rounds: int
) -> dict[str, Any]:
    """All figures of scored pairs: accuracies and baselines of each question, the published protocol's figure, accuracy
    by generator, calibration.

    table: a row a pair with columns prompt, model_A, model_B and for each question its label (1 A, -1 B, 0 same, NA none)
    and both scores: <question>_label, <question>_score_A, <question>_score_B.
    """
    result: dict[str, Any] = {"pairs": len(table), "prompts": table.prompt.nunique(), "dimensions": {}, "baselines": {}}
    result |= {"reference_protocol": {}, "generators": {}, "calibration": {}}
    # Sorting of texts is slow: once for all questions. Numbers in the same order draw the same prompts.
    table = table.assign(prompt=np.unique(table.prompt.to_numpy(object), return_inverse=True)[1])
    for question in questions:
        part = table.loc[table[f"{question}_label"].notna()]
        labels = part[f"{question}_label"].to_numpy(int)
        differences = (part[f"{question}_score_A"] - part[f"{question}_score_B"]).to_numpy()
        rng = np.random.default_rng(0)
        threshold = thresholds.get(question)
        result["dimensions"][question] = measure(
            labels, differences, part.prompt.to_numpy(), threshold, threshold_from, rng, rounds
        )
        result["baselines"][question] = tie_baselines(labels)
        reference = fit_tie_threshold(labels, differences, "reference")[1] if len(labels) else None
        result["reference_protocol"][question] = {"accuracy_with_ties": reference}
        result["generators"][question] = by_generator(part, labels, differences)
        result["calibration"][question] = calibration(labels, differences)
    return result


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


def by_generator(
    part: pd.DataFrame, labels: np.ndarray, differences: np.ndarray
) -> dict[str, dict[str, float | int | None]]:
    """Accuracy without ties over the pairs that each generator takes part in."""
    decided, right = labels != 0, correct(labels, differences)
    codes, models = pd.factorize(np.concatenate([part.model_A.to_numpy(object), part.model_B.to_numpy(object)]))
    a, b = np.split(codes, 2)

    def count(mine: np.ndarray) -> np.ndarray:
        return np.bincount(a[mine], minlength=len(models)) + np.bincount(b[mine & (a != b)], minlength=len(models))

    pairs, hits = count(decided), count(decided & right)
    return {
        models[place]: {
            "accuracy_without_ties": float(hits[place] / pairs[place]) if pairs[place] else None,
            "n": int(pairs[place]),
        }
        for place in sorted(range(len(models)), key=models.__getitem__)
    }


def calibration(labels: np.ndarray, differences: np.ndarray) -> dict[str, Any]:
    """How often the better scored clip is preferred, by size of the difference (normalised scores), over decided pairs.

    Bins hold equal numbers of pairs. `slope` is k of P(A) = sigma(k d), fitted; `error` the mean distance of the bins from
    it, weighted by pairs.
    """
    decided = labels != 0
    if decided.sum() < CALIBRATION_BINS:
        return {"bins": [], "slope": None, "error": None}
    size, right = np.abs(differences[decided]), (np.sign(differences) == labels)[decided]
    slope = _slope(size, right)
    bins = []
    for part in np.array_split(np.argsort(size, kind="stable"), CALIBRATION_BINS):
        said = float((1 / (1 + np.exp(-slope * size[part]))).mean())
        bins.append(
            {"difference": float(size[part].mean()), "right": float(right[part].mean()), "said": said, "n": len(part)}
        )
    error = sum(b["n"] * abs(b["right"] - b["said"]) for b in bins) / len(size)
    return {"bins": bins, "slope": slope, "error": error}


def _slope(size: np.ndarray, right: np.ndarray) -> float:
    """Maximum likelihood of k in P(right) = sigma(k size); the likelihood is concave in k."""
    from scipy.optimize import minimize_scalar

    def loss(k: float) -> float:
        return float(np.logaddexp(0, np.where(right, -k, k) * size).mean())

    found: Any = minimize_scalar(loss, bounds=(0.0, 100.0), method="bounded")
    return float(found.x)


def summary(entry: dict[str, Any], baseline: dict[str, float | None]) -> str:
    parts = []
    for kind in ("accuracy_without_ties", "accuracy_with_ties"):
        parts.append(f"{kind.replace('_', ' ')} {as_text(entry[kind])} over {counted(entry[kind]['n'], 'pair')}")
    if baseline["random"] is not None:
        parts.append(f"always tie {baseline['always_tie']:.3f}, random {baseline['random']:.3f}")
    return "; ".join(parts)
