"""A champion's clips, drawn and judged once more: with the settings of a challenger's, where its own are of others."""

import hashlib
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from components.alignment.lora import check_base
from components.engine import map_chunks
from components.errors import BadInput
from components.evaluation.sample import BASE
from components.evaluation.settings import Settings, difference, digest_of, drawn_with, judged_with
from components.evaluation.win_rates import DIMENSIONS
from components.generator.sampler import Job, draw_batch
from components.guidance.solvers import Drawer
from components.params import Params
from components.registry.gate import Progress
from components.registry.versions import FILES, Version
from components.simulation.judge import judge
from components.stage import folder_digest, seed_of
from components.video.decode import read_frames


def remeasure(
    champion: Version, clips: pd.DataFrame, settings: Settings, params: Params, progress: Progress
) -> pd.DataFrame:
    """Rows of prompt_id, prompt, seed and gold_<dimension> for the prompts and numbers of `clips`, in their order.

    A killed run goes on. BadInput where the work tree does not have `settings` any more, those that `clips` were drawn and
    judged with, or where the champion was trained on another base generator.
    """
    here = drawn_with(params, folder_digest(BASE)) | judged_with(params.evaluate.judge)
    if differs := difference(here, settings, "the challenger's clips"):
        raise BadInput("params.yaml", f"{differs}; `dvc repro evaluate` draws them anew")
    check_base(champion.folder, settings["base generator"])
    jobs = [
        Job(f"{row.prompt_id}_{row.seed}", row.prompt, seed_of(params.seed, "sample", row.prompt_id, int(row.seed)))
        for row in clips.itertuples()
    ]
    rows = [asdict(job) for job in jobs]
    identity = json.dumps([champion.digest, digest_of(settings), params.sampling.batch_size, rows])
    state = FILES / "clips" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    state.mkdir(parents=True, exist_ok=True)
    load = Drawer(BASE, str(champion.folder), params.base_generator.dtype)
    op = partial(draw_batch, load=load, sampling=params.sampling, state=state, threads=torch.get_num_threads())
    map_chunks(op, rows, 1, params.sampling.batch_size, state, progress, f"clips of {champion}")
    return clips[["prompt_id", "prompt", "seed"]].join(pd.DataFrame([gold(state, job) for job in jobs], index=clips.index))


def gold(folder: Path, job: Job) -> dict[str, float]:
    """The held-out judge's scores of a job's clip."""
    verdict = judge(read_frames(folder / f"{job.clip}.mp4"), job.prompt)
    return {f"gold_{dimension}": getattr(verdict, dimension) for dimension in DIMENSIONS}
