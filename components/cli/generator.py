"""`reelign generate`: clips of a generator, with a LoRA, reward guidance or the best of several."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from components.contracts import BASE_GENERATOR, LATENT_REWARD, VIDEO_REWARD
from components.errors import BadInput
from components.files.locks import sole_writer


def generate(
    context: typer.Context,
    prompt: Annotated[list[str], typer.Option(help="What to draw; repeat the option for several clips.")],
    generator: Annotated[Path, typer.Option(help="A diffusers pipeline folder.")] = Path(BASE_GENERATOR),
    lora: Annotated[Path | None, typer.Option(help="A LoRA: a folder, e.g. models/aligned/dpo, or a file.")] = None,
    guide: Annotated[
        list[str] | None,
        typer.Option(help="Flow-NRG weights, e.g. VQ=0.2,MQ=0.2,TA=0.6; once for all clips, or once for each --prompt."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Strength of the guidance.", show_default="params.yaml, nrg.scale", min=1e-6)
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(min=1, help="Draw this many for each clip and keep the best, as params.yaml, best_of_n.judge ranks."),
    ] = 1,
    latent_reward: Annotated[Path, typer.Option(help="Model that guides, or ranks early.")] = Path(LATENT_REWARD),
    video_reward: Annotated[Path, typer.Option(help="Model that ranks finished clips.")] = Path(VIDEO_REWARD),
    image: Annotated[
        list[Path] | None,
        typer.Option(help="First frame, for image-to-video; once for all clips, or once for each --prompt."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first clip; the next ones count up.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Clips a prompt.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the clips.")] = Path("generated"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace clips of the same names.")] = False,
) -> None:
    """Draw clips with a generator, a LoRA, reward guidance while sampling, or as the best of several.

    Sizes, steps and dtype are those of params.yaml. A JSON file beside each clip has its prompt, seed, settings and the
    digests of its models.
    """
    from dataclasses import asdict

    from components.config.params import load_params
    from components.generator.prompts import encode_ahead
    from components.generator.sampler import Job, prompts_of
    from components.generator.spec import SamplerSpec
    from components.guidance.best_of_n import BestOfNSpec
    from components.guidance.flow_nrg import NrgSpec
    from components.pipeline.stage import folder_digest, write_json
    from components.video.encode import write_video

    params = load_params()
    if blank := [text for text in prompt if not text.strip()]:
        raise BadInput("--prompt", f"{blank[0]!r} is empty")
    if scale is not None and not guide:
        raise BadInput("--scale", "needs --guide, whose strength it sets")
    if guide and best_of > 1:
        raise BadInput("--best-of", "and --guide exclude each other")
    if guide and len(guide) not in (1, len(prompt)):
        raise BadInput("--guide", f"is given {len(guide)} times, --prompt {len(prompt)} times")
    if image and len(image) not in (1, len(prompt)):
        raise BadInput("--image", f"is given {len(image)} times, --prompt {len(prompt)} times")
    frames = [str(path) for path in image or []]
    of_prompt = frames if len(frames) == len(prompt) else (frames or [None]) * len(prompt)
    weights = [parse_weights(text) for text in guide or []]
    spec = plain = SamplerSpec(str(generator), lora and str(lora), params.base_generator.dtype)
    guidance, reward = None, None
    if guide:
        check_dimensions(weights, latent_reward)
        guidance, reward = params.nrg.model_copy(update={} if scale is None else {"scale": scale}), latent_reward
        spec = NrgSpec(plain, guidance, str(reward))
    elif best_of > 1:
        guidance = params.best_of_n.model_copy(update={"n": best_of})
        reward = video_reward if guidance.judge == "video_reward" else latent_reward
        spec = BestOfNSpec(plain, guidance, str(reward))
    each = weights if len(weights) == len(prompt) else (weights or [None]) * len(prompt)
    jobs = [
        Job(f"{i:03d}_{seed + k}", text, seed + k, each[i], of_prompt[i])
        for i, text in enumerate(prompt)
        for k in range(count)
    ]
    context.with_resource(sole_writer(out))
    there = [file for job in jobs if (file := out / f"{job.clip}.mp4").exists()]
    if there and not overwrite:
        raise BadInput(there[0], "exists already; --overwrite replaces it, --seed and --out give other names")
    encoded = encode_ahead(context.with_resource(scratch()) / "text", spec, prompts_of(jobs, params.sampling))
    loaded, solver = spec()
    parts = loaded.with_text(encoded)

    models = {name: folder for name, folder in {"generator": generator, "lora": lora, "reward": reward}.items() if folder}
    made = {name: {"path": str(path), "digest": folder_digest(path)} for name, path in models.items()}
    made |= {"dtype": params.base_generator.dtype, "sampling": params.sampling.model_dump()}
    made |= {"guidance": guidance and guidance.model_dump(exclude={"weights"} if guide else None)}  # --guide has its own
    for start in range(0, len(jobs), params.sampling.batch_size):
        batch = jobs[start : start + params.sampling.batch_size]
        clips = parts.decode(solver(parts, batch, params.sampling), params.sampling.decoding)
        for job, clip in zip(batch, clips, strict=True):
            write_video(out / f"{job.clip}.mp4", clip, params.sampling.fps)
            write_json(out / f"{job.clip}.json", made | asdict(job))
            print(f"{out / job.clip}.mp4  {job.prompt}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def parse_weights(text: str) -> dict[str, float]:
    """ "VQ=0.2,TA=0.8" -> {"VQ": 0.2, "TA": 0.8}."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        try:
            weight = float(value) if name and equals else math.nan
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise BadInput("--guide", f"'{part}' is not DIMENSION=WEIGHT")
        if name in weights:
            raise BadInput("--guide", f"has {name} twice")
        weights[name] = weight
    return weights


def check_dimensions(weights: list[dict[str, float]], latent_reward: Path) -> None:
    """BadInput where --guide has a dimension that the latent reward model does not score."""
    from components.guidance.facts import read_facts

    known = read_facts(latent_reward).dimensions
    for name in (name for own in weights for name in own if name not in known):
        raise BadInput("--guide", f"{latent_reward} scores {', '.join(known)}", key=name)
