"""How far a judge is to be trusted: its verdicts on pairs that people labelled, and its habits. `reelign judge check` writes
both as a card (components/judges/card.py), which the gate reads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from components.contracts import DIMENSIONS, NO_LABEL
from components.errors import BadInput
from components.judges.card import Agreement, Figure, JudgeCard
from components.judges.protocol import REASON, Judge, JudgedClip, Pair, PairwiseJudge, PointwiseJudge
from components.pipeline.stage import folder_digest
from components.reward.layouts import Labelled
from components.reward.scores import OVERALL
from components.statistics.accuracy import Estimate, share, with_ties, without_ties
from components.statistics.correlation import rank_correlation
from components.statistics.intervals import as_text, counted
from components.video.container import VideoError
from components.video.decode import read_chosen
from components.video.limits import Limits

LIGHT_FRAMES = 8  # of a clip, whose mean is its brightness
LUMA = (0.299, 0.587, 0.114)


@runtime_checkable
class InOneOrder(Protocol):
    """A judge of pairs that compares in one order alone. Each `repeat` has new answers."""

    def in_order(self, pairs: Sequence[Pair], repeat: int = 0) -> pd.DataFrame: ...


@runtime_checkable
class ScoresAgain(Protocol):
    """A judge that scores clips. Each `repeat` has new answers."""

    def score_again(self, clips: Sequence[JudgedClip], repeat: int) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Settings:
    """repeat_pairs: how many pairs are judged a second time; 0 none. rounds: of the bootstrap."""

    repeat_pairs: int
    rounds: int


@dataclass(frozen=True)
class Leads:
    """A judge's verdicts on pairs, [N]: by dimension the lead of the first clip, positive where it is better. NaN where
    there is no verdict, for the reason in `reasons`."""

    of: dict[str, np.ndarray]
    reasons: np.ndarray

    @property
    def judged(self) -> np.ndarray:
        return pd.isna(self.reasons)


def check_judge(judge: Judge, labels: Labelled, videos: Path, limits: Limits, settings: Settings) -> tuple[JudgeCard, Leads]:
    """The card, and the verdicts that it was made from. BadInput where there is no verdict at all, or people labelled
    none of the judge's dimensions. The first pair is judged before the others: a program's dimensions are in its result."""
    facts = judge.facts
    if not labels.rows:
        raise BadInput(labels.file, "no pairs")
    pairs = [
        (JudgedClip(str(videos / a), prompt), JudgedClip(str(videos / b), prompt))
        for a, b, prompt in zip(*labels.paths, labels.prompts, strict=True)
    ]
    prompts = np.unique(np.array(labels.prompts, object), return_inverse=True)[1]
    score_of = judged_questions(labels, verdicts(judge, pairs[:1])[0], facts.name)
    leads, orders = verdicts(judge, pairs)
    if not leads.judged.any():
        raise BadInput(facts.name, f"no verdict on any of {len(pairs)} pairs: {leads.reasons[0]}")
    width = facts.tie_width or 0.0
    found = {name: agreement(leads, labels, question, name, prompts, width, settings.rounds)
             for question, name in score_of.items()}  # fmt: skip
    length, light = biases(leads, labels, score_of, pairs, prompts, width, limits, settings.rounds)
    card = JudgeCard(
        judge=facts.name,
        identity=facts.identity,
        protocol="pairwise" if isinstance(judge, PairwiseJudge) else "pointwise",
        unit=facts.unit,
        pairs=str(labels.file),
        pairs_digest=folder_digest(labels.file),
        count=len(pairs),
        prompts=int(prompts.max()) + 1,
        failures=int((~leads.judged).sum()),
        dimensions=found,
        position_bias=None if orders is None else position_bias(*orders, prompts, settings.rounds),
        self_consistency=self_consistency(judge, pairs, prompts, width, settings),
        length_bias=length,
        brightness_bias=light,
    )
    return card, leads


def judged_questions(labels: Labelled, leads: Leads, judge: str) -> dict[str, str]:
    """Questions that people answered, with the judge's dimension that answers each; BadInput where there is none."""
    found = {question: name for question, name in labels.score_of.items() if name in leads.of}
    if not found:
        asked, given = (", ".join(names) for names in (labels.score_of.values(), leads.of))
        raise BadInput(labels.file, f"has labels for {asked}; {judge} judges {given}")
    return found


def verdicts(judge: Judge, pairs: Sequence[Pair]) -> tuple[Leads, tuple[np.ndarray, np.ndarray] | None]:
    """Verdicts on pairs, and of a judge that compares, Overall points of the clip shown first in both orders, [N] each: of
    the pair's first clip, then of its second. None of a judge that sees one clip at a time."""
    if isinstance(judge, PointwiseJudge):
        return scored_leads(judge.score, pairs), None
    orders = None
    if not judge.facts.on_record:  # verdicts on record have no order
        ask = judge.in_order if isinstance(judge, InOneOrder) else judge.compare
        both = ask([*pairs, *((b, a) for a, b in pairs)])[OVERALL].to_numpy(float)
        orders = both[: len(pairs)], both[len(pairs) :]
    points = judge.compare(pairs)
    leads = {name: points[name].to_numpy(float) - 0.5 for name in judge.facts.dimensions}
    return Leads(leads, points[REASON].to_numpy(object)), orders


def scored_leads(score: Callable[[Sequence[JudgedClip]], pd.DataFrame], pairs: Sequence[Pair]) -> Leads:
    """Differences of scores; each distinct clip and prompt is scored once."""
    clips = {(clip.video, clip.prompt): clip for pair in pairs for clip in pair}
    table = score(list(clips.values()))
    places = dict(zip(clips, range(len(clips)), strict=True))
    a, b = (np.array([places[pair[side].video, pair[side].prompt] for pair in pairs]) for side in range(2))
    reasons = table[REASON].to_numpy(object)
    scores = {name: table[name].to_numpy(float) for name in DIMENSIONS if name in table}
    leads = {name: of[a] - of[b] for name, of in scores.items()}
    return Leads(leads, np.where(pd.isna(reasons[a]), reasons[b], reasons[a]))


def agreement(
    leads: Leads, labels: Labelled, question: str, name: str, prompts: np.ndarray, width: float, rounds: int
) -> Agreement:
    """Accuracy over the pairs with a label and a verdict."""
    known = (labels.labels[question] != NO_LABEL) & leads.judged
    label, lead, prompt = labels.labels[question][known], leads.of[name][known], prompts[known]
    lead = np.where(np.abs(lead) <= width, 0.0, lead)  # the judge's own ties are ties, also where people decided
    rng = np.random.default_rng(0)
    return Agreement(
        accuracy_without_ties=figure(without_ties(label, lead, prompt, rng, rounds)),
        accuracy_with_ties=figure(with_ties(label, lead, prompt, 0.0, rng, rounds)),
    )


def position_bias(first: np.ndarray, second: np.ndarray, prompts: np.ndarray, rounds: int) -> Figure:
    """Points of the clip shown first, less one half: 0 where the order has no effect, one half where the first always wins.
    A pair counts where both orders have a verdict."""
    known = ~(np.isnan(first) | np.isnan(second))
    points = (first[known] + second[known]) / 2
    return figure(share(points, prompts[known], np.random.default_rng(0), rounds), less=0.5)


def self_consistency(
    judge: Judge, pairs: Sequence[Pair], prompts: np.ndarray, width: float, settings: Settings
) -> Figure | None:
    """Share of pairs that get the same verdict, Overall, when they are judged again, in one order; over pairs spread evenly.
    None where no pair is to be judged again, or the judge's verdicts are on record."""
    if not settings.repeat_pairs or judge.facts.on_record:
        return None
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), settings.repeat_pairs)).round().astype(int))
    some = [pairs[place] for place in chosen]
    once, again = (signs(one_order(judge, some, repeat), width) for repeat in range(2))
    known = ~(np.isnan(once) | np.isnan(again))
    return figure(share(once[known] == again[known], prompts[chosen][known], np.random.default_rng(0), settings.rounds))


def one_order(judge: Judge, pairs: Sequence[Pair], repeat: int) -> np.ndarray:
    """Overall leads of the first clips, [N]. A judge that keeps answers gives new ones for another `repeat`."""
    if isinstance(judge, PointwiseJudge):
        score = partial(judge.score_again, repeat=repeat) if isinstance(judge, ScoresAgain) else judge.score
        return scored_leads(score, pairs).of[OVERALL]
    table = judge.in_order(pairs, repeat) if isinstance(judge, InOneOrder) else judge.compare(pairs)
    return table[OVERALL].to_numpy(float) - 0.5


def signs(leads: np.ndarray, width: float) -> np.ndarray:
    """1, -1, 0 for a tie; NaN stays."""
    return np.where(np.abs(leads) <= width, 0.0, np.sign(leads))


def biases(
    leads: Leads,
    labels: Labelled,
    score_of: dict[str, str],
    pairs: Sequence[Pair],
    prompts: np.ndarray,
    width: float,
    limits: Limits,
    rounds: int,
) -> tuple[Figure | None, Figure | None]:
    """Of length and of brightness: Spearman's correlation of the judge's verdict, less people's, with the difference of the
    clips. Over pairs whose Overall people labelled, else the first question; each in both directions, as sides are chance.
    None where there is no spread."""
    question = next((asked for asked, name in score_of.items() if name == OVERALL), next(iter(score_of)))
    looks = {video: look(video, limits) for video in {clip.video for pair in pairs for clip in pair}}
    sides = np.array([[looks[clip.video] for clip in pair] for pair in pairs], float)  # [N, 2, 2]
    known = (labels.labels[question] != NO_LABEL) & leads.judged & ~np.isnan(sides).any(axis=(1, 2))
    beyond = signs(leads.of[score_of[question]], width)[known] - labels.labels[question][known]
    found = []
    for measure in range(2):
        lead = (sides[:, 0, measure] - sides[:, 1, measure])[known]
        both = np.concatenate([beyond, -beyond]), np.concatenate([lead, -lead]), np.concatenate([prompts[known]] * 2)
        estimate = rank_correlation(*both, np.random.default_rng(0), rounds)
        few = estimate["prompts"] if estimate["ci95"] is None else None
        counted = estimate | {"n": int(known.sum()), "prompts": few}
        found.append(None if estimate["value"] is None else Figure(**counted))
    return found[0], found[1]


def look(video: str, limits: Limits) -> tuple[float, float]:
    """Number of frames, and mean luma from 0 to 1 of frames spread evenly; NaN where the clip cannot be read."""
    count: list[int] = []

    def chosen(info) -> list[int]:
        count.append(info.frames)
        return sorted({int(place) for place in np.linspace(0, info.frames - 1, min(info.frames, LIGHT_FRAMES)).round()})

    try:
        frames = read_chosen(video, chosen, limits=limits)
    except VideoError:
        return np.nan, np.nan
    return float(count[0]), float((frames.mean(axis=(0, 1, 2)) * LUMA).sum() / 255)


def figure(found: Estimate, less: float = 0.0) -> Figure:
    """An estimate as a card has it, less a constant."""
    value = None if found.value is None else found.value - less
    ci95 = None if found.ci95 is None else [bound - less for bound in found.ci95]
    return Figure(value=value, ci95=ci95, n=found.n, prompts=found.prompts if value is not None and ci95 is None else None)


def failures(labels: Labelled, leads: Leads) -> list[str]:
    """A line a pair without a verdict: its row and the reason."""
    return [
        f"no verdict: {labels.file}, row {row}: {reason}"
        for row, reason in zip(labels.rows, leads.reasons, strict=True)
        if not pd.isna(reason)
    ]


def as_lines(card: JudgeCard) -> list[str]:
    """The card for a terminal."""
    lines = [
        f"{card.judge}, {card.protocol}: {counted(card.count, 'pair')} of {counted(card.prompts, 'prompt')}, "
        f"{card.failures} without a verdict"
    ]
    for name, found in card.dimensions.items():
        for kind, accuracy in (("without", found.accuracy_without_ties), ("with", found.accuracy_with_ties)):
            lines.append(f"{name}, accuracy {kind} ties: {told(accuracy)} over {counted(accuracy.n, 'pair')}")
    if card.position_bias is not None:
        lines.append(
            f"position bias: {told(card.position_bias)}{surely(card.position_bias)}; 0 is none, 0.5 is always the first"
        )
    if card.self_consistency is not None:
        lines.append(
            f"same verdict when judged again: {told(card.self_consistency)} of {counted(card.self_consistency.n, 'pair')}"
        )
    for name, bias in (("longer", card.length_bias), ("brighter", card.brightness_bias)):
        if bias is not None:
            lines.append(f"pull of {name} clips beyond people's: {told(bias)}{surely(bias)}")
    if not card.agrees():
        lines.append("Overall is not surely better than chance: this judge may decide nothing")
    return lines


def told(found: Figure) -> str:
    return as_text(found.model_dump())


def surely(bias: Figure) -> str:
    """A word where the interval excludes 0."""
    return ", surely not 0" if bias.ci95 is not None and (bias.ci95[0] > 0 or bias.ci95[1] < 0) else ""
