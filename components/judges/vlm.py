"""Judge `vlm:NAME`: a vision-language model behind an OpenAI-compatible server, as `judges/NAME.yaml` describes it.

Pairwise it is shown both clips of a pair, in both orders, and states a verdict. Pointwise it is shown one clip, and the
log-odds of its answer Yes are the score. Answers are on record by the digest of clips, prompt, text, model and order, so
that a question is sent once, also by a run that was killed.
"""

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from components.files.locks import sole_writer
from components.judges.protocol import REASON, Context, JudgedClip, JudgeFacts, Pair
from components.judges.vlm_client import Endpoint, Failed
from components.judges.vlm_media import Part, clip_digest, media_parts
from components.judges.vlm_questions import (
    COMPARED,
    PAIRWISE,
    PAIRWISE_MARKS,
    POINTWISE,
    POINTWISE_MARKS,
    RATED,
    Answer,
    Unreadable,
    check_template,
    parts_of,
    read_log_odds,
    read_points,
)
from components.judges.vlm_record import Record
from components.judges.vlm_settings import VlmSettings, read_settings, read_template, settings_file
from components.video.container import VideoError

if TYPE_CHECKING:
    from components.judges.judges import Spec

FORMAT = 1  # of messages and of their reading: another number is another judge
# Settings that no answer depends on.
HOW = {"key_variable", "concurrency", "requests_per_minute", "tries", "timeout", "price"}
IN_THE_TEXT = {"both_orders", "protocol", "template", "dimensions"}  # or the judge's own, in its identity
CLIPS_KEPT = 64  # that are coded once for several questions


@dataclass(frozen=True)
class Question:
    """A message about clips: its texts and, between them, the marks that clips stand for."""

    digest: str
    parts: tuple[str, ...]
    clips: dict[str, JudgedClip]  # by mark


@dataclass
class Spent:
    """Answers of a run: requested, found on record, without one; tokens and cost of the requests."""

    asked: int = 0
    on_record: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    def cost(self, settings: VlmSettings) -> float | None:
        price = settings.price
        return None if price is None else (self.tokens_in * price.input + self.tokens_out * price.output) / 1e6

    def as_json(self, settings: VlmSettings) -> dict[str, Any]:
        """Counts, and the cost where the settings have a price."""
        return asdict(self) | {"cost": self.cost(settings), "currency": settings.price and settings.price.currency}

    def line(self, settings: VlmSettings) -> str:
        cost, price = self.cost(settings), settings.price
        paid = "" if cost is None or price is None else f", {cost:.2f} {price.currency}"
        tokens = f"{self.tokens_in} tokens in, {self.tokens_out} out"
        return f"{self.asked} answers ({tokens}{paid}), {self.on_record} on record, {self.failed} without one"


class Vlm:
    """What both protocols share."""

    def __init__(self, spec: "Spec", context: Context):
        self.spec, self.context = spec, context
        self.file = settings_file(spec.argument)
        self.settings = read_settings(self.file)
        self.spent = Spent()
        self._known: set[str] = set()  # digests of questions that this run has counted
        pairwise = self.settings.protocol == "pairwise"
        self.marks = PAIRWISE_MARKS if pairwise else POINTWISE_MARKS
        fields = ("{prompt}", "{questions}" if pairwise else "{question}")
        own = read_template(self.file, self.settings)
        self.template = check_template(own or (PAIRWISE if pairwise else POINTWISE), self.marks, fields, self.file)
        about = {"format": FORMAT, "template": self.template} | self.settings.model_dump(
            mode="json", exclude=HOW | IN_THE_TEXT
        )
        self.about = json.dumps(about, sort_keys=True)
        whole = json.dumps([self.about, self.settings.protocol, self.settings.both_orders, self.settings.dimensions])
        self.facts = JudgeFacts(
            name=str(spec),
            key=spec.key,
            title=f"{self.settings.model} ({spec.argument})",
            identity=hashlib.sha256(whole.encode()).hexdigest()[:16],
            dimensions=tuple(self.settings.dimensions),
            unit="points, 0 to 1" if pairwise else "log-odds of Yes",
            tie_width=None if pairwise else 0.0,
        )

    def question(self, clips: Sequence[JudgedClip], fields: dict[str, str], repeat: int) -> Question | Failed:
        """A question about clips of one prompt, in the order of the marks; `repeat` numbers repetitions, each of which has
        answers of its own. Failed where a clip cannot be read."""
        try:
            return self._question(dict(zip(self.marks, clips, strict=True)), clips[0].prompt, fields, repeat)
        except VideoError as error:
            return Failed(error.why)

    def _question(self, clips: dict[str, JudgedClip], prompt: str, fields: dict[str, str], repeat: int) -> Question:
        if (why := self.context.limits.refuse_prompt(prompt)) is not None:
            raise VideoError(next(iter(clips.values())).video, why)
        parts = tuple(parts_of(self.template, self.marks, {"{prompt}": prompt} | fields))
        shown = {mark: clip_digest(clip) for mark, clip in clips.items()}
        about = json.dumps([self.about, parts, shown, repeat], sort_keys=True)
        return Question(hashlib.sha256(about.encode()).hexdigest(), parts, clips)

    def answers(self, questions: Sequence[Question | Failed]) -> list[Answer | Failed]:
        """An answer or a reason each, in order; equal questions are sent once. Unreachable or BadInput where the server
        answers none; what it has answered stays on record."""
        asked = {one.digest: one for one in questions if isinstance(one, Question)}
        file = self.context.state / f"{self.spec.key}.sqlite"
        with sole_writer(file):
            record = Record(file)
            try:
                found: dict[str, Answer | Failed] = dict(record.known(asked))
                new = [one for digest, one in asked.items() if digest not in found]
                self.spent.on_record += len(found.keys() - self._known)
                self._known |= found.keys()
                if new:
                    found |= self._ask(new, record)
            finally:
                record.close()
        return [one if isinstance(one, Failed) else found[one.digest] for one in questions]

    def _ask(self, questions: list[Question], record: Record) -> dict[str, Answer | Failed]:
        stopped = threading.Event()
        coded = lru_cache(CLIPS_KEPT)(self._coded)
        endpoint = Endpoint(self.settings, self.file)

        def ask(question: Question) -> Answer | Failed:
            try:
                content = message(question, coded)
            except VideoError as error:
                return Failed(error.why)
            answer = endpoint.ask(content, stopped)
            if isinstance(answer, Answer):
                record.keep(question.digest, answer)
            return answer

        found: dict[str, Answer | Failed] = {}
        pool = ThreadPoolExecutor(self.settings.concurrency)
        try:
            asked: dict[Future, str] = {pool.submit(ask, one): one.digest for one in questions}
            for future in self.context.progress(as_completed(asked), f"ask {self.settings.model}", len(asked)):
                digest, answer = asked[future], future.result()
                found[digest] = answer
                self._count(digest, answer)
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)  # what is under way ends, and is kept
            endpoint.close()
        print(f"{self.facts.name}: {self.spent.line(self.settings)}", file=sys.stderr, flush=True)
        return found

    def _count(self, digest: str, answer: Answer | Failed) -> None:
        if isinstance(answer, Failed):
            self.spent.failed += 1
            return
        self._known.add(digest)
        self.spent.asked += 1
        self.spent.tokens_in += answer.tokens_in
        self.spent.tokens_out += answer.tokens_out

    def _coded(self, clip: "Shown") -> list[Part]:
        return media_parts(clip.clip, self.settings, self.context.limits)


@dataclass(frozen=True, eq=False)
class Shown:
    """A clip as a key: by its identity, as its frames are no key."""

    clip: JudgedClip

    def __hash__(self) -> int:
        return hash((self.clip.video, id(self.clip.frames)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Shown):
            return False
        return self.clip.video == other.clip.video and self.clip.frames is other.clip.frames


def message(question: Question, coded: Callable[[Shown], list[Part]]) -> list[dict[str, Any]]:
    """The content of a chat message."""
    content: list[dict[str, Any]] = []
    for place, part in enumerate(question.parts):
        if place % 2:
            content.extend(coded(Shown(question.clips[part])))
        elif part.strip():
            content.append({"type": "text", "text": part})
    return content


class PairwiseVlm(Vlm):
    """Compares two clips of a prompt; a pair has a verdict where each order has one."""

    def compare(self, pairs: Sequence[Pair]) -> pd.DataFrame:
        if not pairs or not self.settings.both_orders:
            return self.in_order(pairs)
        names, count = list(self.facts.dimensions), len(pairs)
        both = self.in_order([*pairs, *((b, a) for a, b in pairs)])
        first, second = both.iloc[:count], both.iloc[count:].reset_index(drop=True)
        table = (first[names] + 1 - second[names]) / 2
        table[REASON] = first[REASON].where(first[REASON].notna(), second[REASON])
        table.loc[table[REASON].notna(), names] = np.nan
        return table

    def in_order(self, pairs: Sequence[Pair], repeat: int = 0) -> pd.DataFrame:
        """A row a pair: points of the clip that is shown first, in this order alone."""
        names = list(self.facts.dimensions)
        fields = {"{questions}": "\n".join(f"{name}: {COMPARED[name]}" for name in names)}
        answers = self.answers([self.question(pair, fields, repeat) for pair in pairs])
        return _table([_row(answer, lambda found: read_points(found, names)) for answer in answers], names)


class PointwiseVlm(Vlm):
    """Scores clips one by one, a question a dimension."""

    def score(self, clips: Sequence[JudgedClip]) -> pd.DataFrame:
        return self.score_again(clips, 0)

    def score_again(self, clips: Sequence[JudgedClip], repeat: int) -> pd.DataFrame:
        """As score; each `repeat` has new answers."""
        names = list(self.facts.dimensions)
        asked = [self.question([clip], {"{question}": RATED[name]}, repeat) for clip in clips for name in names]
        answers, rows = iter(self.answers(asked)), []
        for _ in clips:
            parts = [_row(next(answers), lambda found, n=name: {n: read_log_odds(found)}) for name in names]
            reasons = [part[REASON] for part in parts if part[REASON] is not None]
            rows.append({REASON: reasons[0]} if reasons else {key: value for part in parts for key, value in part.items()})
        return _table(rows, names)


def _table(rows: list[dict[str, Any]], names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[*names, REASON]).astype(dict.fromkeys(names, float) | {REASON: object})


def _row(answer: Answer | Failed, read: Callable[[Answer], dict[str, float]]) -> dict[str, Any]:
    if isinstance(answer, Failed):
        return {REASON: answer.reason}
    try:
        return {**read(answer), REASON: None}
    except Unreadable as error:
        return {REASON: str(error)}


def load(spec: "Spec", context: Context) -> PairwiseVlm | PointwiseVlm:
    """The judge of `judges/NAME.yaml`; BadInput as of its settings."""
    settings = read_settings(settings_file(spec.argument))
    return (PairwiseVlm if settings.protocol == "pairwise" else PointwiseVlm)(spec, context)
