"""Held-out judges at work on samples: their columns in the table of clips, and what they find of pairs of methods.

A pointwise judge adds its scores, JUDGE_DIMENSION. A judge of pairs compares each method's clips with base's: on the rows of
a method, JUDGE_DIMENSION are then its points against base, and base's own rows have none. A clip or pair without a verdict
is an error that names it, except for a judge that has a sample of pairs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.config.params import EvaluateParams
from components.contracts import VIDEO_REWARD
from components.errors import BadInput
from components.judges.card import CARD, JudgeCard, cards_below
from components.judges.judges import PARAM, parse
from components.judges.protocol import REASON, Context, Judge, JudgedClip, JudgeFacts, PairwiseJudge, PointwiseJudge
from components.methods import BASE
from components.pipeline.stage import SCRATCH, Stage
from components.video.limits import Limits

STATE = SCRATCH / "judges"
GOLD, REWARD = "gold", "reward"


@dataclass(frozen=True)
class Panel:
    """Facts of held-out judges by key, the one that decides first; `pointwise` are those with scores in the table of clips.
    `between`: points of a method against another by (judge, method, other), [N, dimensions], where a judge of pairs has
    any. `agreeing`: judges that agree with people, by nature or by their cards."""

    facts: dict[str, JudgeFacts]
    pointwise: frozenset[str]
    between: dict[tuple[str, str, str], pd.DataFrame] = field(default_factory=dict)
    agreeing: frozenset[str] = frozenset()

    @property
    def decides(self) -> str | None:
        return next(iter(self.facts), None)

    def as_json(self) -> dict[str, Any]:
        """`decides` and `judges` of metrics/alignment.json."""
        found = {
            key: facts.as_json() | {"pointwise": key in self.pointwise, "agrees_with_people": key in self.agreeing}
            for key, facts in self.facts.items()
        }
        return {"decides": self.decides, "judges": found}


def context_of(stage: Stage) -> Context:
    """How a stage loads judges."""

    def progress(items: Any, what: str, total: int) -> Any:
        return stage.progress(items, what, total=total)

    return Context(Limits.of(stage.params.limits), Path(VIDEO_REWARD), STATE, progress)


def ordered(judges: Mapping[str, Judge], decides: str | None) -> dict[str, Judge]:
    """Judges with the one that decides first."""
    return dict(sorted(judges.items(), key=lambda item: item[1].facts.name != decides))


def judged_with(panel: Panel) -> dict[str, Any]:
    """Everything that a verdict of the judge that decides depends on besides the clip and its prompt."""
    facts = panel.decides and panel.facts[panel.decides]
    return {"evaluate.decides": facts and facts.name, "judge": facts and facts.identity}


def tie_width(params: EvaluateParams, panel: Panel, judge: str) -> float:
    """A judge's tie width: that of params, or else its own."""
    own = panel.facts[judge].tie_width if judge in panel.facts else None
    return params.tie_width.get(judge, own or 0.0)


def cards_of(names: Iterable[str]) -> dict[str, tuple[Path, JudgeCard]]:
    """Cards below judges/, and those in the folders of the VideoRewards among these judges, by identity of the judge."""
    specs = [parse(name) for name in names]
    return cards_below(others=[Path(spec.argument) / CARD for spec in specs if spec.kind == "model"])


def agreeing(facts: Mapping[str, JudgeFacts]) -> frozenset[str]:
    """Keys of judges that need no card, or whose card has them surely better than chance at people's labels."""
    cards = cards_of(one.name for one in facts.values())
    return frozenset(
        key for key, one in facts.items() if one.trusted or (one.identity in cards and cards[one.identity][1].agrees())
    )


def judged(clips: pd.DataFrame, judges: Mapping[str, Judge], methods: list[str]) -> tuple[pd.DataFrame, Panel]:
    """Clips with each judge's columns, and the panel. Columns that gold measures replace those of the same name.

    clips: columns method, prompt_id, prompt, seed, video; the clips of every method in one order.
    BadInput for a clip or pair without a verdict, and a verdict that is not finite.
    """
    own = {method: clips.index[(clips["method"] == method).to_numpy()] for method in (BASE, *methods)}
    shown = dict(zip(clips.index, judged_clips(clips), strict=True))
    facts, pointwise, between = {}, set(), {}
    for key, judge in judges.items():
        if isinstance(judge, PointwiseJudge):
            table = judge.score(list(shown.values())).set_index(clips.index)
            need_verdicts(table, judge.facts, clips)
            clips = clips.assign(**columns(table, judge.facts))
            pointwise.add(key)
        else:
            clips, more = compared(clips, judge, own, shown)
            between |= {(key, *pair): table for pair, table in more.items()}
        facts[key] = judge.facts
    return clips, Panel(facts, frozenset(pointwise), between, agreeing(facts))


def judged_clips(clips: pd.DataFrame) -> list[JudgedClip]:
    return [JudgedClip(str(video), prompt) for video, prompt in zip(clips["video"], clips["prompt"], strict=True)]


def compared(
    clips: pd.DataFrame, judge: PairwiseJudge, own: dict[str, pd.Index], shown: dict[Any, JudgedClip]
) -> tuple[pd.DataFrame, dict[tuple[str, str], pd.DataFrame]]:
    """Clips with a judge's points against base, and its points of other pairs of methods: those of a judge with verdicts
    on record. Any other would cost a comparison more for each pair of methods."""
    methods = [method for method in own if method != BASE]
    clips = clips.assign(**{column: np.nan for column in columns_of(judge.facts).values()})
    for method in methods:
        table = points_of(judge, own[method], own[BASE], shown, clips)
        for dimension, column in columns_of(judge.facts).items():
            clips.loc[own[method], column] = table[dimension].to_numpy(float)
    pairs = [(one, other) for other in methods for one in methods if methods.index(one) > methods.index(other)]
    if not judge.facts.on_record:
        return clips, {}
    return clips, {pair: points_of(judge, own[pair[0]], own[pair[1]], shown, clips) for pair in pairs}


def points_of(
    judge: PairwiseJudge, first: pd.Index, second: pd.Index, shown: dict[Any, JudgedClip], clips: pd.DataFrame
) -> pd.DataFrame:
    """Points of the clips at `first` against those at `second`; NaN where a judge with a sample has no verdict."""
    table = judge.compare([(shown[a], shown[b]) for a, b in zip(first, second, strict=True)]).set_index(first)
    if not judge.facts.sampled:
        need_verdicts(table, judge.facts, clips)
    return table


def columns_of(facts: JudgeFacts) -> dict[str, str]:
    """Column of the clips by dimension."""
    return {dimension: f"{facts.key}_{dimension}" for dimension in facts.dimensions}


def columns(table: pd.DataFrame, facts: JudgeFacts) -> dict[str, np.ndarray]:
    """Column names of a judge: its scores, and its other measures."""
    found = {column: table[dimension].to_numpy(float) for dimension, column in columns_of(facts).items()}
    more = [name for name in table if name not in (*facts.dimensions, REASON)]
    return found | {name: table[name].to_numpy() for name in more}


def need_verdicts(table: pd.DataFrame, facts: JudgeFacts, clips: pd.DataFrame) -> None:
    """BadInput for the first row with a reason, or a verdict that is not finite; `table` has the index of `clips`."""
    for place, reason in table[REASON].items():
        if isinstance(reason, str):
            why = f"{facts.name} ({PARAM}) has no verdict: {reason}"
            raise BadInput(sample_file(clips, place), why, key=clip_key(clips, place))
        for dimension in facts.dimensions:
            if not np.isfinite(value := float(np.asarray(table.loc[place, dimension]))):
                why = f"the verdict of {facts.name} is {value} in {dimension}"
                raise BadInput(sample_file(clips, place), why, key=clip_key(clips, place))


def sample_file(clips: pd.DataFrame, place: Any) -> Path:
    return Path(clips.loc[place, "video"]).parents[1] / "samples.parquet"


def clip_key(clips: pd.DataFrame, place: Any) -> str:
    return f"{clips.loc[place, 'prompt_id']}, seed {clips.loc[place, 'seed']}"
