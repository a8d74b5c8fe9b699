"""A champion's clips, drawn and judged once more: with the settings of a challenger's, where its own are of others."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from components.alignment.lora import check_base
from components.config.params import Params
from components.contracts import BASE_GENERATOR, VIDEO_REWARD
from components.errors import BadInput
from components.evaluation.judging import STATE, Panel, columns_of, judged_with, ordered
from components.evaluation.settings import Settings, difference, digest_of, drawn_with
from components.files.tables import read_table
from components.generator.prompts import TEXT, encode_ahead
from components.generator.sampler import Job, draw_batch, prompts_of
from components.generator.spec import SamplerSpec
from components.judges.judges import load_judges
from components.judges.protocol import REASON, Context, Judge, JudgedClip, PointwiseJudge
from components.pipeline.code_digest import DRAWING, code_digest
from components.pipeline.stage import folder_digest, seed_of
from components.registry.gate import Progress
from components.registry.versions import FILES, Version
from components.runtime.engine import map_chunks
from components.video.limits import Limits


def remeasure(
    champion: Version, clips: pd.DataFrame, samples: Path, settings: Settings, params: Params, progress: Progress
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The champion's clips for the prompts and numbers of `clips`, the challenger's, in their order: rows of prompt_id,
    prompt, seed and JUDGE_<dimension>; and `clips` with the points of judges of pairs against the champion's. samples: the
    folder with the challenger's files.

    A killed run goes on. BadInput where the work tree does not have `settings` any more, those that `clips` were drawn and
    judged with, where the champion was trained on another base generator, and for a clip without a verdict.
    """
    context = Context(Limits.of(params.limits), Path(VIDEO_REWARD), STATE, progress)
    judges = ordered(load_judges(params.evaluate.judges, context), params.evaluate.decides)
    here = drawn_with(params, folder_digest(BASE_GENERATOR))
    here |= judged_with(Panel({key: judge.facts for key, judge in judges.items()}, frozenset()))
    if differs := difference(here, settings, "the challenger's clips"):
        raise BadInput("params.yaml", f"{differs}; the stage that made {samples} draws them anew")
    check_base(champion.folder, settings["base generator"])
    shown: Iterable[Any] = clips.itertuples()
    jobs = [
        Job(
            f"{row.prompt_id}_{row.seed}",
            row.prompt,
            seed_of(params.seed, "sample", row.prompt_id, int(row.seed)),
            image=getattr(row, "image", None),
        )
        for row in shown
    ]
    rows = [asdict(job) for job in jobs]
    # Clips of before outlive an upgrade of torch, those of the challenger are drawn anew: both are of the same libraries.
    code = code_digest(DRAWING)
    identity = json.dumps([champion.digest, digest_of(settings), code, params.sampling.batch_size, rows])
    state = FILES / "clips" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    state.mkdir(parents=True, exist_ok=True)
    load = SamplerSpec(BASE_GENERATOR, str(champion.folder), params.base_generator.dtype)
    encode_ahead(state / TEXT, load, prompts_of(jobs, params.sampling))
    op = partial(draw_batch, load=load, sampling=params.sampling, state=state, threads=torch.get_num_threads())
    map_chunks(op, rows, 1, params.sampling.batch_size, state, progress, f"clips of {champion}")
    drawn = [JudgedClip(str(state / f"{job.clip}.mp4"), job.prompt) for job in jobs]
    return judge_anew(clips, samples, drawn, judges, champion)


def judge_anew(
    clips: pd.DataFrame, samples: Path, drawn: list[JudgedClip], judges: dict[str, Judge], champion: Version
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As remeasure, of drawn clips."""
    theirs, ours = clips.loc[:, ["prompt_id", "prompt", "seed"]].copy(), clips.copy()
    for judge in judges.values():
        if isinstance(judge, PointwiseJudge):
            if judge.facts.on_record:
                continue  # it has no verdict on what was drawn just now
            table, side = judge.score(drawn), theirs
        else:
            table, side = judge.compare(list(zip(challengers(clips, samples), drawn, strict=True))), ours
        for place, reason in enumerate(table[REASON]):
            if isinstance(reason, str) and not judge.facts.sampled:
                raise BadInput(str(champion), f"{judge.facts.name} has no verdict: {reason}", key=drawn[place].video)
        for dimension, column in columns_of(judge.facts).items():
            side[column] = table[dimension].to_numpy(np.float64)
    return theirs, ours


def challengers(clips: pd.DataFrame, folder: Path) -> list[JudgedClip]:
    """The challenger's clips in their files."""
    paths = {(row["prompt_id"], row["seed"]): row["path"] for row in read_table(folder / "samples.parquet")}
    keys = zip(clips["prompt_id"], clips["seed"], clips["prompt"], strict=True)
    return [JudgedClip(str(folder / paths[prompt_id, seed]), prompt) for prompt_id, seed, prompt in keys]
