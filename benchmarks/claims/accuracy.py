"""Accuracy of reward models on the demo's test pairs, by prompt."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from components.statistics.accuracy import correct, fit_tie_threshold

ASKED = ("VQ", "MQ", "TA")


def hits(pairs: pd.DataFrame, ties: bool, asked: Sequence[str] = ASKED) -> pd.DataFrame:
    """Right answers and counted pairs of each prompt, over `asked` together: columns right, count. pairs: of
    models.test_pairs. Without ties, pairs that people decided; with ties, all, under the thresholds of validation pairs."""
    found = []
    for name in asked:
        labels = pairs[name].to_numpy(float)
        counted = np.isfinite(labels) & ((labels != 0) | ties)
        threshold = float(pairs[f"threshold_{name}"].iloc[0]) if ties else 0.0
        right = correct(labels, pairs[f"difference_{name}"].to_numpy(), threshold) & counted
        found.append(pd.DataFrame({"prompt": pairs.prompt, "right": right.astype(int), "count": counted.astype(int)}))
    return pd.concat(found).groupby("prompt").sum()


def best_thresholds(pairs: pd.DataFrame, asked: Sequence[str] = ASKED) -> pd.DataFrame:
    """`pairs` with the thresholds that give the highest accuracy on these pairs themselves."""
    fitted = {}
    for name in asked:
        labels = pairs[name].to_numpy(float)
        known = np.isfinite(labels)
        fitted[f"threshold_{name}"], _ = fit_tie_threshold(labels[known], pairs[f"difference_{name}"].to_numpy()[known])
    return pairs.assign(**fitted)


def separation(pairs: pd.DataFrame, asked: Sequence[str] = ASKED) -> pd.Series:
    """By prompt, whose mean is how often a decided pair has the larger difference of scores than a tie (area under the ROC
    curve, mean over `asked`): its linear part, from the share of ties below each decided pair and the reverse."""
    prompts = pd.Index(sorted(set(pairs.prompt)), name="prompt")
    found = []
    for name in asked:
        labels, sizes = pairs[name].to_numpy(float), np.abs(pairs[f"difference_{name}"].to_numpy())
        tied, decided = labels == 0, np.abs(labels) == 1
        below = np.searchsorted(np.sort(sizes[tied]), sizes[decided]) / tied.sum()
        above = 1 - np.searchsorted(np.sort(sizes[decided]), sizes[tied]) / decided.sum()
        area = below.mean()
        parts = [pd.Series((values - area) / len(values), index=pairs.prompt[rows].to_numpy())
                 for values, rows in ((below, decided), (above, tied))]  # fmt: skip
        found.append(area + len(prompts) * pd.concat(parts).groupby(level=0).sum().reindex(prompts, fill_value=0.0))
    return pd.concat(found, axis=1).mean(axis=1)


def share(found: pd.DataFrame) -> float:
    return float(found.right.sum() / found["count"].sum())


def of_prompts(right: pd.Series, count: pd.Series) -> pd.Series:
    """A value of each prompt whose mean is the pooled share, sum(right) / sum(count): the share's linear part."""
    whole = right.sum() / count.sum()
    return whole + (right - whole * count) / count.mean()


def gain(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.Series:
    """By prompt, whose mean is the difference of both pooled accuracies on the same pairs."""
    if not ours["count"].equals(theirs["count"]):
        raise ValueError("two models were measured on other pairs")
    return of_prompts(ours.right - theirs.right, ours["count"])
