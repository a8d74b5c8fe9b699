"""Stage `sample@{base,sft,rwr,dpo,nrg,best_of_n}`: clips of evaluation prompts; the same prompts and seeds for all."""

import sys
from functools import partial
from pathlib import Path

import pyarrow as pa

from components.alignment.candidates import chosen_prompts
from components.alignment.lora import check_base
from components.generator.sampler import Job, Solver, draw, solve
from components.generator.wan import Generator, load_generator
from components.guidance.solvers import best_solver, guided_solver
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
BASE = Path("models/base_generator")


def sample(method: str, stage: Stage) -> None:
    lora = f"models/aligned/{method}" if method in ("sft", "rwr", "dpo") else None
    if lora:
        check_base(Path(lora), folder_digest(BASE))
    generator = load_generator(BASE, lora, stage.params.base_generator.dtype)
    solver = solve
    if method == "nrg":
        solver = guided_solver(generator, BASE, Path("models/latent_reward"), stage.params.nrg)
    elif method == "best_of_n":
        best = stage.params.best_of_n
        solver = best_solver(generator, BASE, Path("models") / best.judge, best)
    draw_samples(stage, generator, stage.output(f"data/samples/{method}"), solver)


def draw_samples(stage: Stage, generator: Generator, folder: Path, solver: Solver = solve) -> None:
    """Write the clips of the evaluation prompts and samples.parquet to `folder`."""
    params = stage.params.sample
    rows, jobs = [], []
    for prompt_id, prompt in chosen_prompts(stage, "test", params.prompts):
        for seed in range(params.seeds_per_prompt):
            clip = f"{prompt_id}_{seed}"
            # The noise depends on prompt and seed, never on the method: win rates compare like with like.
            jobs.append(Job(clip, prompt, stage.shared_seed("sample", prompt_id, seed)))
            rows.append({"prompt_id": prompt_id, "prompt": prompt, "seed": seed, "path": f"videos/{clip}.mp4"})
    draw(stage, generator, jobs, stage.params.sampling, folder / "videos", solver, what="samples")
    write_table(folder / "samples.parquet", rows, SCHEMA)
    stage.say(f"{len(rows)} clips of evaluation prompts")


if __name__ == "__main__":
    run_stage(f"sample@{sys.argv[1]}", partial(sample, sys.argv[1]))
