"""Score many files: in this process, in several or on Ray, in chunks that survive a kill.

A chunk's videos are batched among themselves alone, so a score does not depend on where its chunk was worked out, nor on
whether a killed run lies between.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from components.files.atomic import partial_folder, whole_file
from components.files.digests import file_digest
from components.pipeline.code_digest import SCORING, code_digest
from components.reward.model_files import ModelFiles
from components.reward.score import RewardModel, as_table, distinct_videos
from components.reward.scores import Score, Unscored
from components.runtime.engine import Engine, Row, map_chunks

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
WINDOW = 16  # videos of a chunk that are decoded ahead and batched together: while they are scored, the next are decoded


def score_files(
    items: Sequence[tuple[Path, str]],
    model: ModelFiles,
    engine: Engine,
    workers: int,
    chunk: int,
    state_dir: Path,
    progress: Progress,
) -> list[Score | Unscored]:
    """A score or a reason for each (file, prompt), in order; each distinct file is decoded once.

    `chunk` counts distinct files. The workers of components/runtime/engine.py load the model once each and share out this
    machine's threads: with as many workers the scores are the same to the last bit in either engine, with another number
    of them to float32's rounding. On a GPU two workers overlap the decoding of one with the scoring of the other; several
    GPUs are for the engine ray, which gives each worker its share. BadInput where the model cannot be loaded.
    """
    videos = distinct_videos(items)
    rows = [{"path": str(path), "prompts": list(prompts)} for path, prompts in videos]
    op = functools.partial(score_chunk, model=model, threads=max(1, torch.get_num_threads() // workers))
    scored = map_chunks(op, rows, workers, chunk, state_dir, progress, "scoring", engine, gpu=True)
    results: list[Any] = [None] * len(items)
    for row, (_, prompts) in zip(scored, videos, strict=True):
        for found, places in zip(row["scores"], prompts.values(), strict=True):
            for place in places:
                results[place] = Unscored(**found) if "reason" in found else Score(**found)
    return results


@dataclass(frozen=True)
class Workers:
    """Who scores: processes of this machine or of Ray, `count` of them; `chunk` is of distinct files."""

    engine: Engine
    count: int
    chunk: int


def score_to(
    out: Path | None, items: Sequence[tuple[Path, str]], model: ModelFiles, workers: Workers, progress: Progress
) -> list[Score | Unscored]:
    """As score_files; what a killed run has scored lies beside the table `out`, where one is to be written."""
    with ExitStack() as passing:
        if out is None:
            folder = Path(passing.enter_context(TemporaryDirectory()))
        else:
            folder = state_folder(out, items, model, workers.chunk)
        return score_files(items, model, workers.engine, workers.count, workers.chunk, folder, progress)


def score_chunk(rows: list[Row], model: ModelFiles, threads: int) -> list[Row]:
    """Rows with `path` and `prompts` to rows with `scores`: a Score or Unscored as a dict for each prompt."""
    torch.set_num_threads(threads)
    items = [(row["path"], prompt) for row in rows for prompt in row["prompts"]]
    scores = iter(load_once(model).score(items, window=WINDOW))
    return [{"scores": [asdict(next(scores)) for _ in row["prompts"]]} for row in rows]


@functools.cache
def load_once(model: ModelFiles) -> RewardModel:
    return RewardModel.load(model.folder, template=model.template, step=model.step, dtype=model.dtype)


def state_folder(out: Path, items: Sequence[tuple[Path, str]], model: ModelFiles, chunk: int) -> Path:
    """Folder beside the table `out` for the chunks of exactly this work: same model, code that decodes and scores, kind of
    device, prompts, chunk, and files by their bytes, each read once more for it."""
    paths = list(dict.fromkeys(path for path, _ in items))
    with ThreadPoolExecutor(2) as pool:  # hashing leaves Python's lock
        files = dict(zip(paths, pool.map(lambda path: file_digest(path) if path.is_file() else None, paths), strict=True))
    code = [code_digest(SCORING), chunk, WINDOW, "cuda" if torch.cuda.is_available() else "cpu"]
    work = [model.version(), *code, [(str(path), prompt, files[path]) for path, prompt in items]]
    folder = partial_folder(out) / hashlib.sha256(json.dumps(work).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_scores(out: Path, items: Sequence[tuple[str | Path, str]], scores: list) -> None:
    """The table of components/reward/score.py, whole or not at all. What a killed run goes on from is the caller's to
    remove."""
    dimensions = next((list(score.raw) for score in scores if hasattr(score, "raw")), [])
    paths, prompts = zip(*items, strict=True)
    table = as_table(paths, prompts, scores, dimensions)
    with whole_file(out) as partial:
        table.to_csv(partial, index=False) if out.suffix == ".csv" else table.to_parquet(partial, index=False)
