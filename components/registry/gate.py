"""The gate for reward models: is the challenger better than the champion on pairs that neither learnt from?

Both score the same test pairs, and each dimension's accuracy is compared pair by pair. The difference has an interval by
bootstrap over prompts and an exact test by sign flips of whole prompts, with Holm's correction over all cells. A
challenger wins if it loses nothing and gains something. No interval lies below zero, and one lies above zero and is
significant after the correction. Without a champion the challenger must only be good enough by itself.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from components.config.operation import PromotionParams
from components.contracts import PAIRS, SOURCE_VIDEOS
from components.errors import BadInput
from components.evaluation.win_rates import mean_interval
from components.files.tables import spread
from components.pipeline.stage import folder_digest
from components.registry.versions import FILES, Version, learnt_from, refuse_seen
from components.reward.bench import pair_table
from components.reward.card import read_card
from components.reward.check import check_reward, load_items
from components.reward.metrics import pair_metrics
from components.reward.model_files import ModelFiles
from components.reward.pairs import Pairs, read_pairs
from components.reward.published import LATEST
from components.reward.score import RewardModel
from components.reward.score_files import score_files, state_folder
from components.reward.scores import OVERALL, Unscored, score_names
from components.statistics.accuracy import correct
from components.statistics.intervals import as_text, is_above, is_below
from components.statistics.significance import correct_family, sign_flip_p

CHUNK = 64
KINDS = ("accuracy_without_ties", "accuracy_with_ties")
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]


def compare_rewards(
    client: Any, challenger: Version, champion: Version | None, params: PromotionParams, progress: Progress
) -> tuple[dict[str, Any], list[str], pd.DataFrame]:
    """Evidence about two VideoRewards, the reasons against the challenger, and a row a pair with the scores of both."""
    cards = {version.digest: read_card(version.folder) for version in (challenger, champion) if version}
    dimensions = cards[challenger.digest].dimensions
    if champion and cards[champion.digest].dimensions != dimensions:
        other = ", ".join(cards[champion.digest].dimensions)
        raise BadInput(str(challenger), f"scores {', '.join(dimensions)}, {champion} {other}: they cannot be compared")
    questions = score_names(dimensions)
    pairs = read_pairs("test", questions)
    for version in (challenger, champion):
        if version:
            refuse_seen(pairs.file, pairs.prompts, version, learnt_from(client, version))

    found, tables = {}, {}
    for version in (challenger, champion):
        if version is None:
            continue
        if version.digest not in tables:
            tables[version.digest] = pair_table(pairs, questions, score_pairs(version, pairs, questions, progress))
        thresholds = cards[version.digest].tie_thresholds
        found[str(version)] = pair_metrics(tables[version.digest], questions, thresholds, "validation", params.resamples)

    model = RewardModel.load(challenger.folder)
    contracts = [asdict(finding) for finding in check_reward(model, some_clips(pairs, params, model))]
    reasons = absolute_reasons(found[str(challenger)], contracts, params)
    evidence = {
        "pairs": {
            "file": str(pairs.file),
            "digest": folder_digest(pairs.file),
            "split_digest": folder_digest(PAIRS),
            "videos_digest": folder_digest(SOURCE_VIDEOS),
            "count": len(pairs),
            "prompts": len(set(pairs.prompts)),
        },
        "figures": found,
        "contracts": contracts,
        "differences": None,
    }
    table = tables[challenger.digest]
    if champion:
        sides = [(tables[v.digest], cards[v.digest].tie_thresholds) for v in (challenger, champion)]
        evidence["differences"] = differences(sides, questions, params.resamples)
        reasons += verdict_reasons(evidence["differences"], 0.0, params.level)
        others = {f"{q}_score_{side}": f"champion_{q}_score_{side}" for q in questions for side in "AB"}
        table = table.join(tables[champion.digest][list(others)].rename(columns=others))
    return evidence, reasons, table


def score_pairs(version: Version, pairs: Pairs, questions: list[str], progress: Progress) -> np.ndarray:
    """Normalised scores of A and B, [2, N, questions]. What is scored is kept: the next comparison on these pairs
    scores its challenger alone. BadInput where a video has no score."""
    items = [(SOURCE_VIDEOS / path, prompt) for path, prompt in pairs.sides()]
    files = ModelFiles(str(version.folder), None, LATEST)
    scores = score_files(items, files, "local", 1, CHUNK, state_folder(FILES / "scores", items, files, CHUNK), progress)
    rows = []
    for place, score in enumerate(scores):
        if isinstance(score, Unscored):
            key = "path_A" if place < len(pairs) else "path_B"
            raise pairs.refusal(place % len(pairs), f"{version}: {score.reason}", key)
        rows.append({**score.normalised, OVERALL: score.overall})
    return np.array([[row[name] for name in questions] for row in rows]).reshape(2, len(pairs), -1)


def some_clips(pairs: Pairs, params: PromotionParams, model: RewardModel) -> list:
    """Clips of test pairs, evenly spaced, to hold the contracts to."""
    return [
        item
        for row in spread(len(pairs), params.contract_clips)
        for item in load_items([SOURCE_VIDEOS / pairs.paths_a[row]], pairs.prompts[row], model)
    ]


def absolute_reasons(found: dict[str, Any], contracts: list[dict], params: PromotionParams) -> list[str]:
    """What speaks against a model by itself: no better than the least accuracy, badly calibrated, a contract broken."""
    reasons = []
    for name, entry in found["dimensions"].items():
        accuracy, error = entry["accuracy_without_ties"], found["calibration"][name]["error"]
        if accuracy["n"] == 0:
            continue  # nobody labelled this dimension
        if not is_above(accuracy, params.min_accuracy):
            reasons.append(f"accuracy: {name} {as_text(accuracy)}, not surely above {params.min_accuracy:g}")
        if error is None:
            reasons.append(f"calibration: {name} has too few decided pairs ({accuracy['n']}) to tell")
        elif error > params.max_calibration_error:
            reasons.append(f"calibration: {name} is off by {error:.3f}, more than {params.max_calibration_error:g}")
    if not any(entry["accuracy_without_ties"]["n"] for entry in found["dimensions"].values()):
        reasons.append("accuracy: no decided test pair")
    reasons += [f"contract: {finding['name']}" for finding in contracts if finding["holds"] is False]
    return reasons


def differences(
    sides: list[tuple[pd.DataFrame, dict[str, float | None]]], questions: list[str], resamples: int
) -> dict[str, dict[str, dict | None]]:
    """Accuracy of the first less that of the second by dimension and kind, {"value", "ci95", "n", "p", "p_holm"}; None where
    there are no labels. `sides`: both models' pair_table, of the same pairs, and tie thresholds."""
    cells: dict[str, dict[str, dict | None]] = {}
    for question in questions:
        known = sides[0][0][f"{question}_label"].notna().to_numpy()
        labels = sides[0][0].loc[known, f"{question}_label"].to_numpy(int)
        prompts = sides[0][0].loc[known, "prompt"].to_numpy()
        cells[question] = {}
        for kind in KINDS:
            counted = labels != 0 if kind == KINDS[0] else np.ones(len(labels), bool)
            stated = [0.0 if kind == KINDS[0] else own.get(question) for _, own in sides]
            thresholds = [threshold for threshold in stated if threshold is not None]
            if len(thresholds) < len(stated) or not counted.any():
                cells[question][kind] = None
                continue
            hits = []
            for (table, _), threshold in zip(sides, thresholds, strict=True):
                gap = (table[f"{question}_score_A"] - table[f"{question}_score_B"]).to_numpy()[known]
                hits.append(correct(labels, gap, threshold)[counted].astype(float))
            change, groups = hits[0] - hits[1], prompts[counted]
            found = mean_interval(change, groups, resamples, np.random.default_rng(0))
            cells[question][kind] = found.as_json() | {"p": sign_flip_p((change + 1) / 2, groups)}
    correct_family([cell for kinds in cells.values() for cell in kinds.values() if cell])
    return cells


def verdict_reasons(cells: Mapping[str, Mapping[str, dict | None]], null: float, level: float) -> list[str]:
    """What speaks against a challenger beside the champion: each loss, and that there is no gain. `null` is the value of no
    difference."""
    flat = {f"{name} {kind}".strip(): cell for name, kinds in cells.items() for kind, cell in kinds.items() if cell}
    reasons = [f"loss: {name} {as_text(cell)}" for name, cell in flat.items() if is_below(cell, null)]
    if not gains(cells, null, level):
        best = max(flat.items(), key=lambda item: item[1]["value"], default=None)
        said = f"; the most is {best[0]} {as_text(best[1])}, p after Holm {best[1]['p_holm']:.2g}" if best else ""
        reasons.append(f"no_gain: nothing is surely better{said}")
    return reasons


def gains(cells: Mapping[str, Mapping[str, dict | None]], null: float, level: float) -> list[str]:
    """Every real gain, in words."""
    flat = [(f"{name} {kind}".strip(), cell) for name, kinds in cells.items() for kind, cell in kinds.items() if cell]
    return [f"{name} {as_text(cell)}" for name, cell in flat if is_above(cell, null) and cell["p_holm"] <= level]
