"""Stage `pretrain_generator` (frozen): a small generator for the shapes world, from scratch.

The paper starts from a pretrained text-to-video model, and so does the demo. Like such models, it is trained on a large and
noisy collection: rendered clips of training prompts, a share of them with defects (blurred, ghosting, flickering, jerky,
still) and a share with a wrong caption. It draws good and bad clips, so that alignment has preferences to learn. It sees no
preference label and no validation or test prompt.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from components.config.params import TrainingParams
from components.config.pretrain import CollectionParams, PretrainGeneratorParams, load_pretrain_params
from components.generator.families.wan_card import write_card
from components.generator.families.wan_small import (
    SmallGenerator,
    freeze_encoder,
    parts_of,
    save_early,
    save_generator,
    set_statistics,
    small_generator,
    text_of,
)
from components.generator.pixels import pixels
from components.pipeline.stage import Stage, stage_main, write_json
from components.runtime.training import fit
from components.simulation.render import concrete, spoiled
from components.simulation.scenes import training_scenes
from components.simulation.world import Scene, prompt_of

FAULTS = ("blur", "ghost", "flicker", "jitter", "frozen")
LATENT_NOISE = 0.05
PULL = 1e-4
OBJECT_WEIGHT = 8
LOGIT_T = (-0.2, 1.2)  # of noise_levels
VAE_POOL = 64  # clips per batch of the encoder


def pretrain_generator(stage: Stage) -> None:
    """Reads pretrained/params.yaml. Writes pretrained/generator: a pipeline folder with its card and pretraining.json.

    Fails with NonFinite where a loss diverges. Resumes each phase (VAE, flow, refine) from its checkpoint.
    """
    params = stage.params
    settings = load_pretrain_params().generator
    torch.manual_seed(stage.seed("weights"))
    scenes = training_scenes(params)
    words = sorted({word for scene in scenes for word in prompt_of(scene).split()})
    generator = small_generator(settings.shape, words)
    clips, captions = collection(stage, scenes, settings.clips, settings.careless)
    stage.say(f"{len(clips)} clips of {len(scenes)} prompts")

    train_vae(stage, generator, clips, settings)
    latents = encode_all(stage, generator, clips)
    folder = stage.output("pretrained/generator")
    train_flow(stage, generator, latents, captions, settings, folder)
    # Then a smaller share of defects, as real generators are finished on curated data.
    clips, captions = collection(stage, scenes, settings.clips, settings.chosen)
    latents = encode_all(stage, generator, clips)
    rows = fit_flow(stage, generator, latents, captions, settings.refine, settings.prompt_dropout, "refine")
    save_generator(generator, folder, params.sampling.shift or 1.0)
    write_card(folder, settings.shape.text_tokens, params.sampling)
    record = {
        "clips": len(clips),
        "prompts": len(scenes),
        "flow_steps": settings.flow.steps + settings.refine.steps,
        "flow_loss": rows[-1]["loss"],
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts_of(generator).items()},
    }
    write_json(folder / "pretraining.json", record)


def collection(stage: Stage, scenes: list[Scene], count: int, faults: CollectionParams) -> tuple[np.ndarray, list[str]]:
    """Rendered clips uint8 [N, T, H, W, 3] with captions, a share with defects and a share with a wrong caption."""
    rng = stage.rng("collection", faults.spoiled_share)
    size, frames = stage.params.world.size, stage.params.world.frames
    clips = np.empty((count, frames, size, size, 3), np.uint8)
    captions = []
    for index in range(count):
        scene = scenes[rng.integers(len(scenes))]
        defects = {}
        if rng.random() < faults.spoiled_share:
            for kind in rng.choice(FAULTS, size=rng.integers(1, 3), replace=False):
                defects[str(kind)] = rng.uniform(0.15, 0.7)
        clips[index] = spoiled(concrete(scene, rng, size, frames), defects, rng, size, frames)
        told = scenes[rng.integers(len(scenes))] if rng.random() < faults.wrong_caption_share else scene
        captions.append(prompt_of(told))
    return clips, captions


def train_vae(stage: Stage, generator: SmallGenerator, clips: np.ndarray, settings: PretrainGeneratorParams) -> None:
    """Train reconstruction of single frames (a fifth of the cost of a clip), then of clips, then with the decoder alone;
    write the latents' statistics to the VAE's config."""
    vae = generator.vae

    def loss_fn(model: Any, x: torch.Tensor, draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        mean = model.encode(x).latent_dist.mean
        # A little noise and a small L2 penalty keep the latents smooth. A full KL term suppresses colours for thousands of
        # steps, because coloured pixels are few.
        rebuilt = model.decode(mean + LATENT_NOISE * torch.randn(mean.shape, generator=draw)).sample
        return rebuilding_error(rebuilt, x) + PULL * (mean**2).mean(), {"mse": F.mse_loss(rebuilt, x).detach()}

    def images(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        frames = torch.randint(clips.shape[1], (len(indices),), generator=draw).numpy()
        return loss_fn(model, pixels(clips[indices, frames][:, None]), draw)

    def videos(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        return loss_fn(model, pixels(clips[indices]), draw)

    fit(stage, vae, images, len(clips), settings.vae_images, name="vae images")
    fit(stage, vae, videos, len(clips), settings.vae_videos, name="vae videos")
    # The latents are fixed from here on; only the decoder trains further.
    freeze_encoder(generator)
    fit(stage, vae, videos, len(clips), settings.vae_decoder, name="vae decoder")
    vae.requires_grad_(False)
    with torch.no_grad():
        sample = torch.cat([vae.encode(pixels(part)).latent_dist.mode() for part in np.array_split(clips[:1024], 16)])
    set_statistics(generator, sample)


def rebuilding_error(rebuilt: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Mean error of pixels [B, 3, T, H, W]. The object is a tenth of the picture and carries all that a prompt describes."""
    object_there = (x - x.median(-1, keepdim=True)[0]).abs().amax(1, keepdim=True) > 0.15
    weight = 1 + OBJECT_WEIGHT * object_there
    return (weight * ((rebuilt - x) ** 2 + 0.1 * (rebuilt - x).abs())).mean()


def noise_levels(count: int, draw: torch.Generator) -> torch.Tensor:
    """t [count], logit-normal: most are at middle noise levels, where shapes form."""
    return torch.sigmoid(LOGIT_T[0] + LOGIT_T[1] * torch.randn(count, generator=draw))


@torch.no_grad()
def encode_all(stage: Stage, generator: SmallGenerator, clips: np.ndarray) -> torch.Tensor:
    """Latents [N, C, T', H', W'] of clips uint8 [N, T, H, W, 3]."""
    parts = np.array_split(clips, max(1, len(clips) // VAE_POOL))
    return torch.cat([generator.encode_video(part) for part in stage.progress(parts, "encode")])


def train_flow(
    stage: Stage,
    generator: SmallGenerator,
    latents: torch.Tensor,
    captions: list[str],
    settings: PretrainGeneratorParams,
    folder: Path,
) -> None:
    """Flow matching on the noisy collection; keeps one early checkpoint for the zoo."""
    early = settings.flow.model_copy(update={"steps": settings.early_step})
    fit_flow(stage, generator, latents, captions, early, settings.prompt_dropout, "early")
    save_early(generator, folder)
    fit_flow(stage, generator, latents, captions, settings.flow, settings.prompt_dropout, "flow")


def fit_flow(
    stage: Stage,
    generator: SmallGenerator,
    latents: torch.Tensor,
    captions: list[str],
    training: TrainingParams,
    prompt_dropout: float,
    name: str,
) -> list[dict[str, float]]:
    """Flow matching on cached latents [N, C, T', H', W']; the text encoder trains with the transformer."""
    parts = torch.nn.ModuleDict({"transformer": generator.model, "text_encoder": text_of(generator).model})

    def loss_fn(model: Any, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        x0 = latents[indices]
        dropped = torch.rand(len(indices), generator=draw) < prompt_dropout
        text = generator.encode_text(["" if d else captions[i] for d, i in zip(dropped, indices, strict=True)])
        t = noise_levels(len(indices), draw)
        x1 = torch.randn(x0.shape, generator=draw)
        shape = (-1, 1, 1, 1, 1)
        xt = (1 - t.view(shape)) * x0 + t.view(shape) * x1
        return F.mse_loss(model["transformer"](xt, t, text), x1 - x0), {}

    return fit(stage, parts, loss_fn, len(latents), training, name=name)


if __name__ == "__main__":
    stage_main("pretrain_generator", pretrain_generator)
