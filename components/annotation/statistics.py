"""What annotations say about the annotators: agreement, confusion, leaning to a side, time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components.contracts import DIMENSIONS
from components.evaluation.win_rates import Interval, interval_levels, mean_interval
from components.preferences.agreement import Level, alpha_of_counts, awaits, count_votes, decide, disputed
from components.preferences.schema import GIVEN, REVIEWER, Annotation
from components.preferences.split import prompt_key
from components.statistics.intervals import MIN_PROMPTS

ROUNDS = 500  # bootstrap rounds of alpha's interval
ORDER = (1, 0, -1)  # labels as tables show them: A, tie, B

Pairs = Sequence[Sequence[Annotation]]  # as group_by_pair makes them: views of a pair, all with the same sides


@dataclass(frozen=True)
class Annotator:
    """Figures of one annotator; the reviewer is not one.

    agreed: per dimension, the share of decided pairs where the decision is this annotator's answer, and of how many.
    confusion: per dimension [3, 3], rows what the others said where all of them said the same, columns this annotator's
    answer, both in ORDER; the own vote is no part of the rows.
    """

    name: str
    pairs: int
    ties: dict[str, float]
    agreed: dict[str, tuple[float, int] | None]
    confusion: dict[str, np.ndarray]
    side: Interval | None


def dimensions_of(pairs: Pairs) -> list[str]:
    """Dimensions that anybody answered."""
    return [name for name in DIMENSIONS if any(view.labels[name] is not None for views in pairs for view in views)]


def votes_of(pairs: Pairs, dimension: str) -> tuple[np.ndarray, np.ndarray]:
    """Votes [most annotators of a pair, pairs], NaN where there is none, and the prompt of each pair. An annotator is a
    position, not a name: alpha does not depend on who is who."""
    columns = [[view.labels[dimension] for view in annotators(views)] for views in pairs]
    votes = np.full((max(map(len, columns), default=0), len(columns)), np.nan)
    for place, column in enumerate(columns):
        votes[: len(column), place] = [np.nan if label is None else label for label in column]
    return votes, np.array([prompt_key(views[0].prompt) for views in pairs])


def annotators(views: Sequence[Annotation]) -> list[Annotation]:
    """Those of a pair that vote: neither the reviewer nor ready-made labels."""
    return [view for view in views if view.annotator not in (REVIEWER, GIVEN)]


def alpha_interval(votes: np.ndarray, prompts: np.ndarray, level: Level, rng: np.random.Generator) -> Interval | None:
    """Krippendorff's alpha with its 95% interval over prompts; None where alpha is not defined, and no interval over fewer
    than MIN_PROMPTS prompts.

    Pairs of a prompt share clips, so whole prompts are drawn, as everywhere in this project. A resample in which alpha is
    not defined (all say the same) does not count.
    """
    counts = count_votes(votes)
    value = alpha_of_counts(counts, level)
    names, cluster = np.unique(prompts, return_inverse=True)
    if value is None:
        return None
    if len(names) < MIN_PROMPTS:
        return Interval(value, None, None, n=votes.shape[1], prompts=len(names))
    rows = [np.flatnonzero(cluster == number) for number in range(len(names))]
    drawn = []
    for _ in range(ROUNDS):
        chosen = np.concatenate([rows[number] for number in rng.integers(len(names), size=len(names))])
        drawn.append(alpha_of_counts(counts[chosen], level))
    known = [alpha for alpha in drawn if alpha is not None]
    if not known:
        return None
    low, high = np.quantile(known, interval_levels(len(names)))
    return Interval(value, float(low), float(high), n=votes.shape[1], prompts=len(names))


def side_interval(views: Sequence[Annotation], rng: np.random.Generator) -> Interval | None:
    """Share of A among answers that chose a side, over all dimensions, with its 95% interval over prompts; one half is no
    leaning. None where there is no such answer. Views must be as shown, not turned."""
    answers = [(label == 1, prompt_key(view.prompt)) for view in views for label in view.labels.values() if label in (1, -1)]
    if not answers:
        return None
    chosen, prompts = zip(*answers, strict=True)
    return mean_interval(np.array(chosen, dtype=float), np.array(prompts), 2000, rng)


def figures_by_annotator(file: Path, pairs: Pairs, shown: Sequence[Annotation], rng: np.random.Generator) -> list[Annotator]:
    """Figures of each annotator, by name. `shown` are all annotations with the sides that people saw."""
    dimensions = dimensions_of(pairs)
    names = sorted({view.annotator for views in pairs for view in annotators(views)}, key=by_number)
    decided = [decide(file, views)[0] if awaits(views) is None else None for views in pairs]
    found = []
    for name in names:
        own = [
            (view, [other for other in annotators(views) if other is not view], labels)
            for views, labels in zip(pairs, decided, strict=True)
            for view in annotators(views)
            if view.annotator == name
        ]
        found.append(
            Annotator(
                name=name,
                pairs=len(own),
                ties={dimension: tie_share([view for view, _, _ in own], dimension) for dimension in dimensions},
                agreed={dimension: agreed(own, dimension) for dimension in dimensions},
                confusion={dimension: confusion(own, dimension) for dimension in dimensions},
                side=side_interval([view for view in shown if view.annotator == name], rng),
            )
        )
    return found


def by_number(name: str) -> tuple[bool, int, str]:
    """Order of names: numbers by size, then the rest."""
    return (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)


def tie_share(views: Sequence[Annotation], dimension: str) -> float:
    answers = [view.labels[dimension] for view in views if view.labels[dimension] is not None]
    return answers.count(0) / len(answers) if answers else float("nan")


def agreed(own: Sequence[tuple[Annotation, list[Annotation], dict | None]], dimension: str) -> tuple[float, int] | None:
    same = [
        view.labels[dimension] == labels[dimension] for view, _, labels in own if labels and labels[dimension] is not None
    ]
    return (float(np.mean(same)), len(same)) if same else None


def confusion(own: Sequence[tuple[Annotation, list[Annotation], dict | None]], dimension: str) -> np.ndarray:
    """See Annotator. At least two others must be there: one other is no majority."""
    table = np.zeros((3, 3), dtype=int)
    for view, others, _ in own:
        said = {other.labels[dimension] for other in others}
        if len(others) >= 2 and len(said) == 1 and None not in said and view.labels[dimension] is not None:
            table[ORDER.index(said.pop()), ORDER.index(view.labels[dimension])] += 1
    return table


def awaiting_reviewer(pairs: Pairs) -> list[tuple[Annotation, list[str]]]:
    """A view of each pair that only a reviewer can decide, and the dimensions in dispute."""
    return [(views[0], disputed(annotators(views))) for views in pairs if awaits(views) == "reviewer"]
