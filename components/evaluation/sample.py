"""Stages `sample@{base,sft,rwr,dpo}`: clips of evaluation prompts; the same prompts and seeds for every method.

Methods that guide sampling have programs of their own (sample_nrg.py, sample_best_of_n.py), so that the clips of the others
do not depend on the code of guidance.
"""

import sys
from functools import partial
from pathlib import Path

from components.alignment.lora import check_base
from components.contracts import BASE_GENERATOR, SAMPLES
from components.errors import BadInput
from components.evaluation.prompt_sets import evaluation_images, evaluation_prompts
from components.evaluation.settings import drawn_with, write_settings
from components.files.tables import write_table
from components.generator.sampler import Job, Loader, draw
from components.generator.spec import SamplerSpec
from components.methods import METHODS
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.runtime.processes import launched_together
from components.schemas import IMAGE_FIELD, SAMPLES_SCHEMA


def sample(method: str, stage: Stage) -> None:
    """Draw the clips of a method without guidance.

    Reads: the base generator, the method's LoRA, the prompts. Writes: data/samples/<method>. Fails with BadInput where the
    LoRA is of another generator. Resumes from the last finished batch.
    """
    sample_with(stage, method, sampler_of(method, stage))


def sampler_of(method: str, stage: Stage) -> SamplerSpec:
    """The base generator with the method's LoRA; BadInput where that was trained on another generator."""
    lora = METHODS[method].lora
    if lora:
        check_base(Path(lora), folder_digest(BASE_GENERATOR))
    return SamplerSpec(BASE_GENERATOR, lora, stage.params.base_generator.dtype)


def sample_with(stage: Stage, method: str, spec: Loader) -> None:
    """Write data/samples/<method>: the clips that `spec` draws, their table and their settings."""
    folder = stage.output(SAMPLES / method)
    draw_samples(stage, spec, folder)
    write_settings(folder, drawn_with(stage.params, folder_digest(BASE_GENERATOR)))


def draw_samples(stage: Stage, spec: Loader, folder: Path) -> None:
    """Write the clips of the evaluation prompts and samples.parquet to `folder`."""
    params, launched = stage.params.sample, launched_together().num_processes
    if launched > 1 and (params.engine, params.workers) != ("local", 1):
        why = f"{launched} launched processes share the clips; each needs engine local and 1 worker"
        raise BadInput("params.yaml", why, key="sample.workers")
    rows, jobs, frames = [], [], evaluation_images(stage)
    for prompt_id, prompt in evaluation_prompts(stage):
        for seed in range(params.seeds_per_prompt):
            clip = f"{prompt_id}_{seed}"
            # The noise depends on prompt and seed, never on the method: win rates compare like with like.
            image = frames[prompt].path if prompt in frames else None
            jobs.append(Job(clip, prompt, stage.shared_seed("sample", prompt_id, seed), image=image))
            row = {"prompt_id": prompt_id, "prompt": prompt, "seed": seed, "path": f"videos/{clip}.mp4"}
            rows.append(row | ({"image": image} if frames else {}))
    draw(stage, spec, jobs, stage.params.sampling, folder / "videos", "samples", params.engine, params.workers)
    write_table(folder / "samples.parquet", rows, SAMPLES_SCHEMA.append(IMAGE_FIELD) if frames else SAMPLES_SCHEMA)
    stage.say(f"{len(rows)} clips of evaluation prompts")


if __name__ == "__main__":
    stage_main(f"sample@{sys.argv[1]}", partial(sample, sys.argv[1]))
