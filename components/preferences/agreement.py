"""Aggregation of several annotators into one label per dimension, and their agreement.

Protocol of the paper (section 3.1): three independent annotators per pair; where they disagree, a reviewer decides. Here
two equal votes of three decide, and the reviewer decides where all three differ.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.preferences.schema import GIVEN, REVIEWER, Annotation

ANNOTATORS_PER_PAIR = 3
LEVELS = (-1, 0, 1)  # labels, in order
Level = Literal["ordinal", "nominal"]  # of measurement, for alpha


def majority(votes: Sequence[int]) -> int | None:
    """The vote that at least two of three share, or None when all three differ."""
    if len(votes) != ANNOTATORS_PER_PAIR:
        raise ValueError(f"{len(votes)} votes, not {ANNOTATORS_PER_PAIR}")
    return next((vote for vote in votes if votes.count(vote) > 1), None)


def decide(file: str | Path, views: Sequence[Annotation]) -> tuple[dict[str, int | None], str]:
    """Labels of one pair and how they were decided: `given`, `majority`, or `reviewer` if any dimension needed one.

    `views` are the pair's annotations, one per annotator, all with the same sides. BadInput when the annotators are
    neither one "given" nor three with or without a reviewer, or when a dimension stays undecided.
    """
    names = [view.annotator for view in views]
    if names == [GIVEN]:
        return dict(views[0].labels), "given"
    votes = [view for view in views if view.annotator != REVIEWER]
    if GIVEN in names or len(votes) != ANNOTATORS_PER_PAIR:
        why = f"annotators {', '.join(names)}: a pair needs either '{GIVEN}' alone or {ANNOTATORS_PER_PAIR} of them"
        raise BadInput(file, f"{why}, with or without '{REVIEWER}'", row=views[0].row, key="annotator")
    reviewer = next((view for view in views if view.annotator == REVIEWER), None)
    labels, decided_by = {}, "majority"
    for dimension in DIMENSIONS:
        given = [view.labels[dimension] for view in votes]
        if given == [None] * ANNOTATORS_PER_PAIR:
            labels[dimension] = None
            continue
        if None in given:
            raise BadInput(file, "some annotators left it empty", row=votes[given.index(None)].row, key=dimension)
        labels[dimension] = majority([label for label in given if label is not None])
        if labels[dimension] is None:
            if reviewer is None or reviewer.labels[dimension] is None:
                raise BadInput(file, "all three differ and no reviewer decides", row=views[0].row, key=dimension)
            labels[dimension], decided_by = reviewer.labels[dimension], "reviewer"
    return labels, decided_by


def decide_part(views: Sequence[Annotation]) -> tuple[dict[str, int | None], str]:
    """Labels by some of a pair's annotators, and how they were decided: `votes`, or `reviewer` if any dimension needed one.

    The label that more than half of the votes share decides, else a reviewer among `views`; else there is none.
    """
    votes = [view for view in views if view.annotator != REVIEWER]
    reviewer = next((view for view in views if view.annotator == REVIEWER), None)
    labels, decided_by = {}, "votes"
    for dimension in DIMENSIONS:
        given = [label for view in votes if (label := view.labels[dimension]) is not None]
        labels[dimension] = next((label for label in given if 2 * given.count(label) > len(given)), None)
        if labels[dimension] is None and given and reviewer is not None:
            labels[dimension] = reviewer.labels[dimension]
            decided_by = "reviewer" if labels[dimension] is not None else decided_by
    return labels, decided_by


def awaits(views: Sequence[Annotation]) -> Literal["annotators", "reviewer"] | None:
    """Whose answers a pair still needs before `decide` can label it; None for nobody's. `views` as for `decide`."""
    names = [view.annotator for view in views]
    if names == [GIVEN]:
        return None
    votes = [view for view in views if view.annotator != REVIEWER]
    if len(votes) < ANNOTATORS_PER_PAIR:
        return "annotators"
    nothing: dict[str, int | None] = dict.fromkeys(DIMENSIONS)
    reviewer = next((view.labels for view in views if view.annotator == REVIEWER), nothing)
    return "reviewer" if any(reviewer[dimension] is None for dimension in disputed(votes)) else None


def disputed(votes: Sequence[Annotation]) -> list[str]:
    """Dimensions on which all three annotators of a pair differ."""
    answers = {dimension: {vote.labels[dimension] for vote in votes} for dimension in DIMENSIONS}
    return [name for name, given in answers.items() if None not in given and len(given) == ANNOTATORS_PER_PAIR]


def krippendorff_alpha(votes: np.ndarray, level: Level = "ordinal") -> float | None:
    """Krippendorff's alpha of votes [annotators, pairs] in {-1, 0, 1}, NaN where missing.

    The three labels are ordered (B, same, A), so `ordinal` is the right level; `nominal` counts a tie against A as
    much as B against A. None where alpha is undefined: fewer than two values in use, or no pair with two votes.
    """
    return alpha_of_counts(count_votes(votes), level)


def count_votes(votes: np.ndarray) -> np.ndarray:
    """How often each pair got each of LEVELS, [pairs, 3], from votes [annotators, pairs], NaN where missing."""
    return np.stack([np.sum(votes == level, axis=0) for level in LEVELS], axis=1)


def alpha_of_counts(counts: np.ndarray, level: Level = "ordinal") -> float | None:
    """As krippendorff_alpha, from the counts of count_votes, which alpha depends on."""
    import krippendorff

    rated = counts[counts.sum(axis=1) >= 2]
    if np.count_nonzero(rated.sum(axis=0)) < 2:
        return None
    return float(krippendorff.alpha(value_counts=rated, value_domain=LEVELS, level_of_measurement=level))


def agreement(pairs: Sequence[Sequence[Annotation]]) -> dict[str, dict[str, float | None]] | None:
    """Alpha per dimension, {"VQ": {"ordinal", "nominal"}, ...}, of the annotators without the reviewer.

    None when labels were given as final ones. Where more than three annotators share the work, an annotator is a position,
    not a name: alpha does not depend on identities.
    """
    several = [[view for view in views if view.annotator != REVIEWER] for views in pairs]
    several = [views for views in several if len(views) == ANNOTATORS_PER_PAIR]
    if not several:
        return None
    alphas = {}
    for dimension in DIMENSIONS:
        votes = np.array([[view.labels[dimension] for view in views] for views in several], dtype=float).T
        alphas[dimension] = {level: krippendorff_alpha(votes, level) for level in ("ordinal", "nominal")}
    return alphas


def shares(labels: Sequence[int | None]) -> dict[str, float | int | None]:
    """Distribution of a dimension's labels: {"labelled", "tie_share", "A_share" of the decided}; None over no labels."""
    known = [label for label in labels if label is not None]
    decided = [label for label in known if label != 0]
    return {
        "labelled": len(known),
        "tie_share": known.count(0) / len(known) if known else None,
        "A_share": decided.count(1) / len(decided) if decided else None,
    }
