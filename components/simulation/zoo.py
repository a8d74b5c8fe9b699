"""The zoo: generators of different quality, their clips of the same prompts, and the labels of three annotators on pairs.

The paper compares clips of twelve models. The zoo has the pretrained generator at five settings (default, too few steps, no
guidance, too much guidance, an early checkpoint) and the renderer with five sets of defects. Clips are written as H.264
files, and the gold judge scores the decoded file, as a viewer would see it.
"""

import shutil
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from components.config.params import ShapesSource
from components.contracts import DIMENSIONS, LABELS, SOURCE_ANNOTATIONS, SOURCE_METRICS, SOURCE_PROMPTS, SOURCE_VIDEOS
from components.files.digests import file_digest
from components.pipeline.stage import Stage, rounded, write_json
from components.preferences.schema import Annotation, write_annotations, write_prompts
from components.runtime.engine import map_rows
from components.simulation.annotators import Ratings, label_pair, panel, realism
from components.simulation.judge import judge
from components.simulation.render import concrete, spoiled
from components.simulation.world import all_scenes, prompt_of, scene_of
from components.video.decode import read_frames
from components.video.encode import write_video

GENERATORS = ("wan", "wan-few-steps", "wan-unguided", "wan-overguided", "wan-early")
# Defects of each renderer, one or two per clip. Strengths are sampled for each clip, so that a zoo has every grade. Most
# renderers sometimes get the subject wrong; otherwise text alignment would be a tie in most pairs.
RENDERERS: dict[str, tuple[str, ...]] = {
    "render-clean": (),
    "render-picture": ("blur", "noise", "ghost", "wrong_shape"),
    "render-motion": ("jitter", "flicker", "frozen", "wrong_direction"),
    "render-subject": ("wrong_colour", "wrong_shape", "wrong_direction"),
    "render-mixed": ("blur", "noise", "jitter", "flicker", "frozen", "wrong_colour", "wrong_shape", "wrong_direction"),
}
MODELS = (*GENERATORS, *RENDERERS)


def make_zoo(stage: Stage, params: ShapesSource) -> None:
    """Write data/source (videos by model, prompts.csv, annotations.csv), and metrics/source.json with their realism."""
    clips = plan_clips(stage, params)
    videos = stage.output(SOURCE_VIDEOS)
    rendered = [clip for clip in clips if clip["model"] in RENDERERS]
    generated = [clip for clip in clips if clip["model"] in GENERATORS]
    stage.say(f"{len(clips)} clips by {len(MODELS)} models: {len(rendered)} rendered, {len(generated)} generated")
    world = stage.params.world
    draw_all(stage, params.folder, generated, videos)

    # What is rendered is kept with its scores: outputs that a killed run began are thrown away.
    state = stage.state() / "judged"
    state.mkdir(exist_ok=True)
    where = {"videos": str(videos), "rendered": str(state)}
    work = partial(make_and_judge, **where, size=world.size, frames=world.frames, fps=world.fps)
    judged = map_rows(work, clips, params.workers, 64, state, stage.progress, "judge")
    gold = [row["scores"] for row in judged]
    for clip in rendered:
        (videos / clip["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(state / clip["path"], videos / clip["path"])
    by_prompt: dict[str, list[dict]] = {}
    for clip, scores in zip(clips, gold, strict=True):
        by_prompt.setdefault(clip["prompt"], []).append({**clip, "gold": scores})

    annotations, answers, golds = [], [], []
    people = panel(params.noise, params.tie)
    for prompt, takes in by_prompt.items():
        for one, other in combinations(takes, 2):
            rng = stage.rng("annotate", one["path"], other["path"])
            a, b = (one, other) if rng.random() < 0.5 else (other, one)
            labels, ratings = label_pair(a["gold"], b["gold"], people, rng)
            answers.append(labels)
            golds.append((a["gold"], b["gold"]))
            annotations += [view_of(prompt, a, b, name, given, ratings.get(name, {})) for name, given in labels.items()]
    write_annotations(stage.output(SOURCE_ANNOTATIONS), annotations)
    write_prompts(stage.output(SOURCE_PROMPTS), [prompt_of(scene) for scene in all_scenes()])
    human = realism(answers, golds)
    report = {
        "kind": "shapes",
        "videos": len(clips),
        "prompts": len(by_prompt),
        "pairs": len(answers),
        "realism": human,
        "annotator_vs_gold": {name: figures["agreement"] for name, figures in human.items()},
        "gold_means": {
            model: {
                name: float(np.mean([g[name] for c, g in zip(clips, gold, strict=True) if c["model"] == model]))
                for name in ("VQ", "MQ", "TA", "Overall")
            }
            for model in MODELS
        },
    }
    write_json(stage.output(SOURCE_METRICS), rounded(report))
    for name, figures in human.items():
        stage.log({f"{name}/{key}": value for key, value in figures.items()})
        stage.say(f"{name}: " + ", ".join(f"{key} {value:.2f}" for key, value in figures.items()))


def plan_clips(stage: Stage, params: ShapesSource) -> list[dict[str, Any]]:
    """The clips to make for each of `prompts` scenes: `base_clips_per_prompt` of the generator that will be
    aligned, and one of each of `clips_per_prompt` other models."""
    rng = stage.rng("cast")
    scenes = all_scenes()
    chosen = sorted(rng.choice(len(scenes), min(params.prompts, len(scenes)), replace=False))
    clips = []
    for place in chosen:
        others = rng.choice(MODELS[1:], params.clips_per_prompt, replace=False)
        for take, model in enumerate([MODELS[0]] * params.base_clips_per_prompt + list(others)):
            seed = int(rng.integers(2**62))
            path = f"{model}/{place:05d}-{take}.mp4"
            clips.append({"path": path, "prompt": prompt_of(scenes[place]), "model": str(model), "seed": seed})
    return clips


def draw_all(stage: Stage, folder: str, clips: list[dict[str, Any]], videos: Path) -> None:
    """Sample the generators' clips, model by model, with the generator in `folder`."""
    from components.generator.families.wan_small import load_early
    from components.generator.folder import load_generator
    from components.generator.sampler import Job, Loaded, draw

    base: Any = load_generator(folder)  # of the family of load_early
    plain = stage.params.sampling
    settings = {
        "wan": (base, plain),
        "wan-few-steps": (base, plain.model_copy(update={"steps": 3})),
        "wan-unguided": (base, plain.model_copy(update={"guidance_scale": 1.0})),
        "wan-overguided": (base, plain.model_copy(update={"guidance_scale": 3 * plain.guidance_scale})),
        "wan-early": (load_early(base, folder), plain),
    }
    for model, (generator, sampling) in settings.items():
        jobs = [Job(Path(clip["path"]).stem, clip["prompt"], clip["seed"]) for clip in clips if clip["model"] == model]
        if jobs:
            draw(stage, Loaded(generator), jobs, sampling, videos / model, what=model)


def make_and_judge(
    clip: dict[str, Any], videos: str, rendered: str, size: int, frames: int, fps: int
) -> dict[str, dict[str, Any]]:
    """Render the clip into `rendered` where its model is a renderer; return the gold scores of the decoded file."""
    own = clip["model"] in RENDERERS
    path = Path(rendered if own else videos) / clip["path"]
    if own:
        rng = np.random.default_rng(clip["seed"])
        kinds = RENDERERS[clip["model"]]
        count = min(len(kinds), int(rng.integers(1, 3)))
        defects = (
            {str(kind): float(rng.uniform(0.1, 0.9)) for kind in rng.choice(kinds, count, replace=False)} if count else {}
        )
        write_video(path, spoiled(concrete(scene_of(clip["prompt"]), rng, size, frames), defects, rng, size, frames), fps)
    scores = {name: float(value) for name, value in judge(read_frames(path), clip["prompt"]).scores().items()}
    return {"scores": scores, "files": {clip["path"]: file_digest(path)} if own else {}}


def view_of(prompt: str, a: dict, b: dict, annotator: str, given: dict[str, str], ratings: Ratings) -> Annotation:
    """One annotator's row; a reviewer answers only disputed questions and rates nothing."""
    return Annotation(
        row=0,
        path_A=a["path"],
        path_B=b["path"],
        prompt=prompt,
        annotator=annotator,
        labels={name: LABELS[given[name]] if name in given else None for name in DIMENSIONS},
        model_A=a["model"],
        model_B=b["model"],
        ratings_A={name: ratings[name][0] if ratings else None for name in DIMENSIONS},
        ratings_B={name: ratings[name][1] if ratings else None for name in DIMENSIONS},
    )
