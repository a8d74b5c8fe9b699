"""Stage `base_generator`: pins the generator that all later stages start from, and measures it.

The folder is any WanPipeline folder; its digest is recorded and, where params give one, must match. It is copied unchanged,
scheduler included; sampling always uses components/generator/sampler.py. In the shapes world the gold judge measures how
often the generator gets a training prompt wholly right: a perfect or a hopeless generator is not worth aligning.
"""

import shutil
from pathlib import Path

import numpy as np

from components.errors import BadInput
from components.generator.folder import check_folder, scheduler_of
from components.generator.wan import Generator, load_generator
from components.stage import Stage, folder_digest, rounded, run_stage, write_json


def base_generator(stage: Stage) -> None:
    params = stage.params.base_generator
    source = Path(params.folder)
    check_folder(source, key="base_generator.folder")
    digest = folder_digest(source)
    if params.digest not in (None, digest):
        why = f"its digest is {digest}, params.yaml has {params.digest}"
        raise BadInput(source, why, key="base_generator.digest")
    generator = load_generator(source, dtype=params.dtype)  # a generator that does not load is not pinned
    folder = stage.output("models/base_generator")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("early"))
    shift = stage.params.sampling.shift
    stage.say(
        f"clips are sampled by Euler steps with shift {shift}: FlowMapEulerDiscreteScheduler(shift={shift}) of diffusers"
    )
    stage.say(f"the folder keeps its own scheduler, {scheduler_of(folder)}")
    record = {"folder": params.folder, "digest": digest}
    if params.probe_prompts:
        record |= probe(stage, generator)
    write_json(stage.output("metrics/base_generator.json"), rounded(record))


def probe(stage: Stage, generator: Generator) -> dict[str, float]:
    """Mean gold scores of clips of training prompts (the evaluation prompts stay unseen)."""
    from components.generator.pretrain import training_scenes
    from components.generator.sampler import Job, draw, loaded
    from components.simulation.judge import judge
    from components.simulation.world import prompt_of
    from components.video.decode import read_frames

    scenes = training_scenes(stage.params)
    chosen = stage.rng("probe").choice(len(scenes), stage.params.base_generator.probe_prompts, replace=False)
    jobs = [Job(f"{i:05d}", prompt_of(scenes[i]), stage.seed("probe", int(i))) for i in chosen]
    videos = stage.state() / "probe"
    draw(stage, loaded(generator), jobs, stage.params.sampling, videos, what="drawn")
    verdicts = [judge(read_frames(videos / f"{job.clip}.mp4"), job.prompt) for job in jobs]
    result = {name: float(np.mean([getattr(v, name) for v in verdicts])) for name in ("VQ", "MQ", "TA", "prompt_right")}
    stage.say(f"{len(jobs)} clips of training prompts: prompt wholly right in {result['prompt_right']:.0%}")
    return {**result, "clips": len(jobs)}


if __name__ == "__main__":
    run_stage("base_generator", base_generator)
