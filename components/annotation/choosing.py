"""`reelign annotate next`: which pairs to label next, by the reward model's uncertainty and by coverage.

The rule: take, one at a time, the pair with the greatest

    uncertainty / ((1 + pairs of its two generators) (1 + pairs of its prompt))

where pairs are those labelled, out for labelling, or taken before it; on equal terms the first by prompt and paths. So the
most uncertain pair comes first where nothing is known, and no two generators and no prompt take all. The denominators are
our own choice. They are the plainest ones under which the n-th pair of a kind must be n times as uncertain as a first.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.special import entr, expit

from components.annotation.clips import Clip, by_prompt, generators, name_of
from components.annotation.tasks import read_key
from components.errors import BadInput
from components.preferences.schema import Pair, read_annotations
from components.preferences.split import prompt_key
from components.reward.score_rows import RAW, ScoreRow, read_score_rows

Generators = tuple[str, str]  # sorted


@dataclass(frozen=True)
class Scores:
    """Raw scores by clip path, [dimensions] each, and how many clips have none: `failed` to be scored, or `absent`."""

    raw: dict[str, np.ndarray]
    failed: int
    absent: int


def read_scores(file: Path, clips: Sequence[Clip], videos: Path) -> Scores:
    """Raw scores from a table that `reelign score --out` wrote (.parquet or .csv), one row a clip and prompt.

    A row belongs to a clip when its path is the clip's, as clips.csv has it or below `videos`, and its prompt is the same.
    BadInput names a missing column, a clip with two rows, and a score that is not a finite number.
    """
    spelt = {clip.path: clip for clip in clips} | {os.path.abspath(videos / clip.path): clip for clip in clips}
    raw: dict[str, np.ndarray] = {}
    rows: dict[str, int] = {}
    failed = 0
    for row in read_score_rows(file):
        clip = spelt.get(row.path) or spelt.get(os.path.abspath(row.path))
        if clip is None or row.prompt is None or prompt_key(row.prompt) != clip.key:
            continue
        if clip.path in rows:
            raise BadInput(file, f"{clip.path} is in row {rows[clip.path]} already", row=row.row, key="path")
        rows[clip.path] = row.row
        if row.ok:
            raw[clip.path] = raw_scores(row)
        else:
            failed += 1
    return Scores(raw, failed, absent=len(clips) - len(rows))


def raw_scores(row: ScoreRow) -> np.ndarray:
    """The raw scores [D], by name of the dimension."""
    if not row.dimensions:
        why = "no raw scores; `reelign score --csv FILE --out TABLE` writes them"
        raise BadInput(row.file, why, row=row.row, key=f"{RAW}VQ")
    return np.array([row.score(RAW + name) for name in sorted(row.dimensions)])


def taken_pairs(labelled: Path | None, folder: Path | None) -> dict[Pair, Generators]:
    """Pairs of an annotation CSV and of a folder of tasks, with their generators ("" where not known)."""
    views = [] if labelled is None else read_annotations(labelled)
    tasks = [] if folder is None else read_key(folder)
    models = {one.pair: (one.model_A or "", one.model_B or "") for one in (*views, *tasks)}
    return {pair: (min(both), max(both)) for pair, both in models.items()}


def uncertainty(difference: np.ndarray, theta: float) -> np.ndarray:
    """Entropy in nats of A better, B better or tie under Bradley-Terry with ties (components/reward/losses.py), mean over
    dimensions: [...] for raw score differences [..., D]. theta >= 1; 1 leaves no room for ties."""
    k = math.log(theta)
    a, b = expit(difference - k), expit(-difference - k)
    chances = np.stack([a, b, np.maximum(1 - a - b, 0)])
    return entr(chances).sum(axis=0).mean(axis=-1)


def choose_next(
    clips: Iterable[Clip], scores: dict[str, np.ndarray], taken: dict[Pair, Generators], count: int, theta: float
) -> list[tuple[tuple[Clip, Clip], float]]:
    """Up to `count` pairs by the rule above, best first, each with its uncertainty. The order of `clips` does not count.

    Args:
        clips: those without scores are never chosen.
        scores: raw scores [D] by path.
        taken: pairs that are labelled or out for labelling, with their generators. They are not chosen again.
    """
    # Pairs of one prompt and the same generators differ in uncertainty alone: only the best of such a cell competes.
    cells: list[tuple[str, Generators, list[tuple[float, tuple[Clip, Clip]]]]] = []
    for prompt, group in by_prompt(clip for clip in clips if clip.path in scores).items():
        free = [pair for pair in combinations(group, 2) if name_of(pair) not in taken]
        cells += [(prompt, who, queue) for who, queue in by_generators(free, scores, theta).items()]
    if not cells:
        return []
    queues = [queue for _, _, queue in cells]
    prompt_at, prompt_pairs = numbered([prompt for prompt, _, _ in cells], Counter(prompt for prompt, _, _ in taken))
    who_at, who_pairs = numbered([who for _, who, _ in cells], Counter(taken.values()))
    best = np.array([queue[-1][0] for queue in queues])
    chosen = []
    while len(chosen) < count and np.isfinite(best).any():
        cell = int(np.argmax(best / ((1 + who_pairs[who_at]) * (1 + prompt_pairs[prompt_at]))))
        value, pair = queues[cell].pop()
        chosen.append((pair, value))
        who_pairs[who_at[cell]] += 1
        prompt_pairs[prompt_at[cell]] += 1
        best[cell] = queues[cell][-1][0] if queues[cell] else -np.inf
    return chosen


def by_generators(
    pairs: Sequence[tuple[Clip, Clip]], scores: dict[str, np.ndarray], theta: float
) -> dict[Generators, list[tuple[float, tuple[Clip, Clip]]]]:
    """(uncertainty, pair) of a prompt's pairs by their generators, the most uncertain last, of equals the first by path."""
    if not pairs:
        return {}
    difference = np.stack([scores[one.path] - scores[other.path] for one, other in pairs])
    queues: dict[Generators, list[tuple[float, tuple[Clip, Clip]]]] = {}
    for value, pair in zip(uncertainty(difference, theta).tolist(), pairs, strict=True):
        queues.setdefault(generators(pair), []).append((value, pair))
    return {who: sorted(queue, key=lambda entry: -entry[0])[::-1] for who, queue in queues.items()}


def numbered(keys: Sequence, known: Counter) -> tuple[np.ndarray, np.ndarray]:
    """Each key's place among the distinct ones, and how many pairs are known of each of those."""
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return np.array([places[key] for key in keys]), np.array([known[key] for key in places], dtype=float)
