"""Rewards of scorers elsewhere, beside VideoReward's: a gateway of ours, a service with UniRL's protocol, a program.

Scores of a dimension are normalised over the clips that they are of: (score - mean) / standard deviation, as VideoReward's
are over its validation clips. A clip that a scorer has no finite score for is named with the reason; no number takes its
place. Answers are kept by batch, so that after a failed or killed run the others alone are scored.
"""

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.config.sources import SourceParams
from components.errors import BadInput
from components.files.atomic import atomic_write, discard
from components.files.text import read_json
from components.pipeline.stage import Stage, folder_digest
from components.reward.external_http import Poster
from components.reward.program import REASON, identity_of, run_program, split

if TYPE_CHECKING:
    import pandas as pd

Clip = tuple[str, str]  # path and prompt
Scored = dict[str, Any]  # scores by dimension, or REASON; and `by`, the version of what scored


@dataclass(frozen=True)
class SourceScores:
    """`values`: normalised scores [N] by NAME.DIMENSION. `stamp`: JSON of what scored, and of each mean and deviation."""

    values: dict[str, np.ndarray]
    stamp: str


def source_names(sources: Mapping[str, SourceParams]) -> list[str]:
    return [f"{name}.{dimension}" for name, source in sources.items() for dimension in source.dimensions]


def source_scores(stage: Stage, sources: Mapping[str, SourceParams], rows: "pd.DataFrame", root: Path) -> SourceScores:
    """Scores of all sources for a table with the columns path (below `root`) and prompt. BadInput names a clip that a source
    has no score for, a source whose scores are all alike or of two versions; Unreachable, one that does not answer."""
    clips = [(str(root / path), prompt) for path, prompt in zip(rows["path"], rows["prompt"], strict=True)]
    values: dict[str, np.ndarray] = {}
    stamps: dict[str, Any] = {}
    for name, source in sources.items():
        found = list(scored(stage, name, source, clips))
        if len(versions := sorted({one["by"] for one in found})) > 1:
            raise BadInput(where(name), f"scores of several versions: {', '.join(versions)}")
        stamps[name] = {"kind": source.kind, "reward": source.reward, "by": versions[0]}
        for dimension in source.dimensions:
            raw = np.array([one[dimension] for one in found])
            mean, std = float(raw.mean()), float(raw.std())
            if not std > 0:
                raise BadInput(where(name), "all clips score the same, so that scores cannot be normalised", key=dimension)
            values[f"{name}.{dimension}"] = (raw - mean) / std
            stamps[name][dimension] = {"mean": mean, "std": std}
    return SourceScores(values, json.dumps(stamps, sort_keys=True))


def where(name: str) -> str:
    return f"relabel.sources.{name}"


def scored(stage: Stage, name: str, source: SourceParams, clips: Sequence[Clip]) -> Iterator[Scored]:
    """The scores of each clip, in order; BadInput for the first one without."""
    ask = asker(name, source)
    batches = [clips[start : start + source.batch] for start in range(0, len(clips), source.batch)]
    for number, batch in enumerate(stage.progress(batches, f"scores of {name}", total=len(batches))):
        file = stage.state() / f"source-{name}-{number}-{digest_of(source, batch)}.json"
        rows = kept(file, source.dimensions, len(batch))
        if rows is None:
            rows = [checked(row, source.dimensions) for row in ask(batch)]
            for (path, _), row in zip(batch, rows, strict=True):
                if REASON in row:
                    raise BadInput(path, f"{where(name)}: {row[REASON]}")
            atomic_write(file, json.dumps(rows))
        yield from rows


def digest_of(source: SourceParams, batch: Sequence[Clip]) -> str:
    """Of all that a batch's scores depend on here: a stage may score more than one set of clips."""
    asked = [[folder_digest(path), prompt] for path, prompt in batch]
    return hashlib.sha256(json.dumps([source.model_dump(), asked]).encode()).hexdigest()[:16]


def kept(file: Path, dimensions: Sequence[str], count: int) -> list[Scored] | None:
    """The rows of a batch that was scored before; of a damaged file none."""
    if not file.exists():
        return None
    try:
        rows = read_json(file)
    except BadInput as error:
        discard(file, error)
        return None
    good = isinstance(rows, list) and len(rows) == count
    if good and all(isinstance(row, dict) and {*dimensions, "by"} <= row.keys() for row in rows):
        return rows
    discard(file, "not the scores of this batch")
    return None


def checked(row: Scored, dimensions: Sequence[str]) -> Scored:
    """A row with the scores of these dimensions alone, or with the reason why they are none."""
    if REASON in row:
        return {REASON: str(row[REASON])}
    for dimension in dimensions:
        value = row.get(dimension)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return {REASON: f"{dimension} is {value!r:.60}, no finite number" if dimension in row else f"has no {dimension}"}
    return {"by": row["by"], **{dimension: float(row[dimension]) for dimension in dimensions}}


def asker(name: str, source: SourceParams) -> Any:
    """What scores a batch of clips."""
    if source.kind == "command":
        return lambda batch: of_program(name, source, batch)
    poster = Poster(where(name), source)
    return lambda batch: (of_gateway if source.kind == "gateway" else of_unirl)(poster, source, batch)


def of_program(name: str, source: SourceParams, batch: Sequence[Clip]) -> list[Scored]:
    words = split(source.place, where(name))
    rows = run_program(where(name), words, batch, source.dimensions)
    by = identity_of(words)
    return [{**rows[str(number)], "by": by} for number in range(len(batch))]


def of_gateway(poster: Poster, source: SourceParams, batch: Sequence[Clip]) -> list[Scored]:
    """By /v1/score. Items that may get a score later are sent again."""
    found: dict[int, Scored] = {}
    for attempt in range(source.attempts):
        left = [place for place in range(len(batch)) if place not in found]
        items = [{"prompt": batch[place][1], "video": in_base64(batch[place][0])} for place in left]
        results = poster.post("/v1/score", {"items": items}, "results", len(left))
        for place, result in zip(left, results, strict=True):
            if isinstance(result.get("scores"), dict):
                found[place] = {**result["scores"], "by": str(result.get("model_version"))}
            elif not result.get("retry") or attempt + 1 == source.attempts:
                found[place] = {REASON: str(result.get("detail", "neither scores nor a reason"))}
        if len(found) == len(batch):
            break
        poster.wait(attempt)
    return [found[place] for place in range(len(batch))]


def of_unirl(poster: Poster, source: SourceParams, batch: Sequence[Clip]) -> list[Scored]:
    """By /score, protocol version 1. A reward that is left out of the results has failed."""
    name, requests = str(source.reward), []
    for path, prompt in batch:
        turn = {"text": prompt, "video_b64": in_base64(path)}
        identity = {"request_id": folder_digest(path)}
        requests.append({"history": [turn], "required_rewards": [name], **identity})
    body = {"protocol_version": "1", "requests": requests, "grad_mode": False}
    answer = poster.answer("/score", body)
    results, errors = (poster.listed(answer, key, len(batch)) for key in ("results", "errors"))
    given = answer.get("identities")
    identities = poster.listed(answer, "identities", len(batch)) if given else [{}] * len(batch)
    rows = []
    for result, error, identity in zip(results, errors, identities, strict=True):
        if isinstance(result.get(name), dict):
            rows.append({**result[name], "by": str(identity.get("scorer_version") or "unnamed")})
        else:
            rows.append({REASON: str(error.get(name, "neither scores nor a reason"))})
    return rows


def in_base64(path: str) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode()
