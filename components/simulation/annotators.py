"""Simulated annotators: what people would answer when shown two clips side by side.

Each of three annotators observes the difference of two gold scores with independent noise. They answer "same" where it is
below their tie width, and sometimes swap the sides. They have no bias for a side. Overall is a separate question: it is
judged on the mean of the gold scores with separate noise, not summed from the other answers. Where all three answers differ
(one "A", one "B", one "same"), a more careful reviewer decides, as in the paper. Each of the three also rates both clips
from 1 to 5 with the same noise: ratings never contradict the answer beside them, but are coarser.

Noise and tie widths are in units of the gold score, whose whole range is 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import krippendorff
import numpy as np

from components.contracts import LABELS

QUESTIONS = ("VQ", "MQ", "TA", "Overall")
REVIEWER = "reviewer"
LOWEST, HIGHEST = 1, 5  # of a rating

Ratings = dict[str, tuple[int, int]]  # question to the ratings of A and of B


@dataclass(frozen=True)
class Annotator:
    """One annotator: standard deviation of the noise and half width of "same" for each question, in gold units, and the
    probability that an answer swaps A and B ("same" is unaffected)."""

    name: str
    noise: Mapping[str, float]
    tie: Mapping[str, float]
    lapse: float


@dataclass(frozen=True)
class Panel:
    """The annotators of a pair, and the reviewer of disputes."""

    annotators: tuple[Annotator, ...]
    reviewer: Annotator


# Factors of the three annotators around the mean of each question: a careful, a hasty and a decisive one.
NOISE_FACTORS = (0.8, 1.25, 1.0)
TIE_FACTORS = (1.0, 1.2, 0.8)
DEFAULT_NOISE = {"VQ": 0.045, "MQ": 0.07, "TA": 0.03, "Overall": 0.04}
DEFAULT_TIE = {"VQ": 0.08, "MQ": 0.14, "TA": 0.04, "Overall": 0.08}
DEFAULT_LAPSE = 0.1


def panel(
    noise: Mapping[str, float] = DEFAULT_NOISE, tie: Mapping[str, float] = DEFAULT_TIE, lapse: float = DEFAULT_LAPSE
) -> Panel:
    """Three different annotators around the given noise and tie widths, and a reviewer with half the noise and no lapses."""

    def scaled(widths: Mapping[str, float], factor: float) -> dict[str, float]:
        return {question: widths[question] * factor for question in QUESTIONS}

    people = tuple(
        Annotator(str(number), scaled(noise, noisy), scaled(tie, wide), lapse)
        for number, (noisy, wide) in enumerate(zip(NOISE_FACTORS, TIE_FACTORS, strict=True), start=1)
    )
    return Panel(people, Annotator(REVIEWER, scaled(noise, 0.5), scaled(tie, 1.0), lapse=0.0))


def annotate(
    gold_a: Mapping[str, float], gold_b: Mapping[str, float], annotator: Annotator, rng: np.random.Generator
) -> tuple[dict[str, str], Ratings]:
    """One annotator's answers, question to "A", "B" or "same", and ratings; gold is question to score
    (`Verdict.scores()`)."""
    answers, ratings = {}, {}
    for question in QUESTIONS:
        noise = rng.normal(0, annotator.noise[question])
        seen = gold_a[question] - gold_b[question] + noise
        mixed_up = rng.random() < annotator.lapse
        answers[question] = "same" if abs(seen) < annotator.tie[question] else "A" if (seen > 0) != mixed_up else "B"
        # Half of the noise on either clip, so that the noisy scores differ by `seen`.
        a, b = rating(gold_a[question] + noise / 2), rating(gold_b[question] - noise / 2)
        ratings[question] = (b, a) if mixed_up else (a, b)
    return answers, ratings


def rating(seen: float) -> int:
    """Rating from 1 to 5 for a clip with this noisy score."""
    return int(np.clip(np.rint(LOWEST + (HIGHEST - LOWEST) * seen), LOWEST, HIGHEST))


def label_pair(
    gold_a: Mapping[str, float], gold_b: Mapping[str, float], panel: Panel, rng: np.random.Generator
) -> tuple[dict[str, dict[str, str]], dict[str, Ratings]]:
    """All answers to one pair, annotator to question to label, and the ratings by annotator.

    The reviewer answers only disputed questions and rates nothing.
    """
    answers, ratings = {}, {}
    for annotator in panel.annotators:
        answers[annotator.name], ratings[annotator.name] = annotate(gold_a, gold_b, annotator, rng)
    # Drawn for every pair, so that a dispute does not change the noise of later pairs.
    review, _ = annotate(gold_a, gold_b, panel.reviewer, rng)
    disputed = [q for q in QUESTIONS if _majority([answer[q] for answer in answers.values()]) is None]
    if disputed:
        answers[REVIEWER] = {question: review[question] for question in disputed}
    return answers, ratings


def decided_label(answers: Mapping[str, Mapping[str, str]], question: str) -> str:
    """The final label: the majority's, or the reviewer's where there is none."""
    votes = [answer[question] for name, answer in answers.items() if name != REVIEWER]
    return _majority(votes) or answers[REVIEWER][question]


def realism(
    annotations: Sequence[Mapping[str, Mapping[str, str]]],
    gold: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """How realistic the labels are, for each question over all pairs: answers as of `label_pair`, gold scores of A and B.

    - tie_share: share of pairs whose final label is "same";
    - alpha: Krippendorff's alpha among the annotators without the reviewer, at the nominal level. A against B counts no
      more than A against "same": the stricter choice, without an assumed order of labels;
    - agreement: of single annotators' decided answers (A or B) on pairs with different gold scores, the share that
      prefers the better clip.

    A figure that cannot be computed (alpha of a single label, agreement without a decided pair) raises ValueError.
    """
    report = {}
    for question in QUESTIONS:
        signs = np.sign([a[question] - b[question] for a, b in gold])
        voters = [name for name in annotations[0] if name != REVIEWER]
        codes = np.array([[list(LABELS).index(answers[name][question]) for answers in annotations] for name in voters])
        choice = np.where(codes == 0, 1, np.where(codes == 1, -1, 0))  # [annotators, pairs]
        decided = (choice != 0) & (signs != 0)
        if not decided.any():
            raise ValueError(f"{question}: no annotator decided on any pair, so agreement with gold is undefined")
        report[question] = {
            "tie_share": float(np.mean([decided_label(answers, question) == "same" for answers in annotations])),
            "alpha": float(krippendorff.alpha(reliability_data=codes, level_of_measurement="nominal")),
            "agreement": float((choice == signs)[decided].mean()),
        }
    return report


def _majority(votes: Sequence[str]) -> str | None:
    """The label that more than half of the voters gave, None where there is none."""
    label = max(LABELS, key=list(votes).count)
    return label if 2 * list(votes).count(label) > len(votes) else None
