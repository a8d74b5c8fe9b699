"""Stage `base_generator`: pins the generator that all later stages start from, and measures it.

The folder is one of a known family (components/generator/folder.py). Its digest is recorded and, where params give one, must
match. It is taken unchanged, scheduler included; large files are linked where the file system can. In the shapes world
the gold judge measures how often the generator gets a training prompt wholly right: a perfect or a hopeless generator is not
worth aligning.
"""

import shutil
from pathlib import Path

import numpy as np

from components.contracts import BASE_GENERATOR
from components.errors import BadInput
from components.files.links import share
from components.generator.folder import check_folder, scheduler_of
from components.generator.integration import in_words
from components.generator.prompts import TEXT, encode_ahead
from components.generator.sampler import Job, draw, prompts_of
from components.generator.spec import SamplerSpec
from components.pipeline.stage import Stage, folder_digest, rounded, stage_main, write_json

DRAWN = "drawn"  # state of the probe clips


def base_generator(stage: Stage) -> None:
    """Reads the folder `base_generator.folder`. Writes models/base_generator, the same files, and
    metrics/base_generator.json.

    Fails with BadInput for a folder of an unknown class or another digest, and one that does not load. Resumes from the
    batches of probe clips that are drawn.
    """
    params = stage.params.base_generator
    source = Path(params.folder)
    check_folder(source, key="base_generator.folder")
    digest = folder_digest(source)
    if params.digest not in (None, digest):
        why = f"its digest is {digest}, params.yaml has {params.digest}"
        raise BadInput(source, why, key="base_generator.digest")
    load, jobs = SamplerSpec(str(source), dtype=params.dtype), probes(stage)
    prompts = [*prompts_of(jobs, stage.params.sampling), ""]
    encode_ahead(stage.state() / DRAWN / TEXT, load, prompts)  # a generator that does not load is not pinned
    generator, _ = load()
    folder = stage.output(BASE_GENERATOR)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("early"), copy_function=share)
    stage.say(f"clips are sampled by {in_words(generator.scheduler, stage.params.sampling)}")
    stage.say(f"the folder keeps its own scheduler, {scheduler_of(folder)}")
    record = {"folder": params.folder, "digest": digest}
    if params.probe_prompts:
        record |= probe(stage, load, jobs)
    write_json(stage.output("metrics/base_generator.json"), rounded(record))


def probes(stage: Stage) -> list[Job]:
    """Clips of training prompts of the shapes world; the evaluation prompts stay unseen."""
    from components.simulation.scenes import training_scenes
    from components.simulation.world import prompt_of

    count = stage.params.base_generator.probe_prompts
    if not count:
        return []
    scenes = training_scenes(stage.params)
    chosen = stage.rng("probe").choice(len(scenes), count, replace=False)
    return [Job(f"{i:05d}", prompt_of(scenes[i]), stage.seed("probe", int(i))) for i in chosen]


def probe(stage: Stage, load: SamplerSpec, jobs: list[Job]) -> dict[str, float]:
    """Mean gold scores of these clips."""
    from components.simulation.judge import judge
    from components.video.decode import read_frames
    from components.video.limits import Limits

    videos = stage.state() / "probe"
    draw(stage, load, jobs, stage.params.sampling, videos, what=DRAWN)
    limits = Limits.of(stage.params.limits)
    verdicts = [judge(read_frames(videos / f"{job.clip}.mp4", limits=limits), job.prompt) for job in jobs]
    result = {name: float(np.mean([getattr(v, name) for v in verdicts])) for name in ("VQ", "MQ", "TA", "prompt_right")}
    stage.say(f"{len(jobs)} clips of training prompts: prompt wholly right in {result['prompt_right']:.0%}")
    return {**result, "clips": len(jobs)}


if __name__ == "__main__":
    stage_main("base_generator", base_generator)
