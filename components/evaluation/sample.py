"""Stage `sample@{base,sft,rwr,dpo,nrg,best_of_n}`: clips of evaluation prompts; the same prompts and seeds for all."""

import sys
from functools import partial
from pathlib import Path

import pyarrow as pa

from components.alignment.lora import check_base
from components.errors import BadInput
from components.evaluation.prompt_sets import evaluation_prompts
from components.evaluation.settings import drawn_with, write_settings
from components.generator.sampler import Job, draw
from components.guidance.solvers import Drawer
from components.processes import launched_together
from components.stage import Stage, folder_digest, run_stage
from components.tables import write_table

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("path", pa.string()),  # below data/samples/<method>
    ]
)
BASE = "models/base_generator"


def sample(method: str, stage: Stage) -> None:
    params = stage.params
    lora = f"models/aligned/{method}" if method in ("sft", "rwr", "dpo") else None
    if lora:
        check_base(Path(lora), folder_digest(BASE))
    guidance, reward = None, None
    if method == "nrg":
        guidance, reward = params.nrg, "models/latent_reward"
    elif method == "best_of_n":
        guidance, reward = params.best_of_n, f"models/{params.best_of_n.judge}"
    drawer = Drawer(BASE, lora, params.base_generator.dtype, guidance, reward)
    folder = stage.output(f"data/samples/{method}")
    draw_samples(stage, drawer, folder)
    write_settings(folder, drawn_with(params, folder_digest(BASE)))


def draw_samples(stage: Stage, drawer: Drawer, folder: Path) -> None:
    """Write the clips of the evaluation prompts and samples.parquet to `folder`."""
    params, launched = stage.params.sample, launched_together().num_processes
    if launched > 1 and (params.engine, params.workers) != ("local", 1):
        why = f"{launched} launched processes share the clips; each needs engine local and 1 worker"
        raise BadInput("params.yaml", why, key="sample.workers")
    rows, jobs = [], []
    for prompt_id, prompt in evaluation_prompts(stage):
        for seed in range(params.seeds_per_prompt):
            clip = f"{prompt_id}_{seed}"
            # The noise depends on prompt and seed, never on the method: win rates compare like with like.
            jobs.append(Job(clip, prompt, stage.shared_seed("sample", prompt_id, seed)))
            rows.append({"prompt_id": prompt_id, "prompt": prompt, "seed": seed, "path": f"videos/{clip}.mp4"})
    draw(stage, drawer, jobs, stage.params.sampling, folder / "videos", "samples", params.engine, params.workers)
    write_table(folder / "samples.parquet", rows, SCHEMA)
    stage.say(f"{len(rows)} clips of evaluation prompts")


if __name__ == "__main__":
    run_stage(f"sample@{sys.argv[1]}", partial(sample, sys.argv[1]))
