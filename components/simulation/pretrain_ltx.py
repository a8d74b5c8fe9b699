"""Stage `pretrain_ltx` (frozen): a small LTX-Video generator for the shapes world, distilled from the Wan one.

It has Wan's latents, folded 2x2 into channels: its encoder learns them, its decoder learns to draw from them. The
transformer begins with Wan's weights (components/generator/families/ltx_small.py) and learns Wan's velocity on noisy latents
of rendered clips. A teacher's velocity is a mean over clips, so it teaches with less noise than clips themselves. It sees
training prompts only, no preference label.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from components.config.pretrain import PretrainLtxParams, load_ltx_params
from components.generator.conditioning import Conditioning
from components.generator.families.ltx import WORDS
from components.generator.families.ltx_small import SmallLTX, folded, save_ltx, small_ltx, token_spreads
from components.generator.families.shared import padded
from components.generator.families.wan import Wan
from components.generator.families.wan_small import text_of
from components.generator.pixels import pixels
from components.pipeline.stage import Stage, stage_main, write_json
from components.runtime.training import fit
from components.simulation.pretrain_generator import (
    LATENT_NOISE,
    collection,
    encode_all,
    noise_levels,
    rebuilding_error,
)
from components.simulation.scenes import training_scenes

TEACHER = Path("pretrained/generator")
PROBES = 64  # clips that Wan's tokens are measured on


def pretrain_ltx(stage: Stage) -> None:
    """Reads pretrained/ltx.yaml and the Wan generator. Writes pretrained/ltx: a pipeline folder with pretraining.json.

    Fails with NonFinite where a loss diverges. Resumes each phase (encoder, decoder, flow) from its checkpoint.
    """
    settings = load_ltx_params()
    torch.manual_seed(stage.seed("weights"))
    wan = Wan().load(TEACHER, None, "float32").with_text(Wan().load_text(TEACHER, "float32"))
    clips, captions = collection(stage, training_scenes(stage.params), settings.clips, settings.chosen)
    latents = encode_all(stage, wan, clips)
    probes, noise = latents[:PROBES], torch.randn(latents[:PROBES].shape)
    t = torch.linspace(0.05, 0.95, PROBES)
    noisy = (1 - t.view(-1, 1, 1, 1, 1)) * probes + t.view(-1, 1, 1, 1, 1) * noise
    spreads = token_spreads(wan, noisy, t, wan.encode_text(captions[:PROBES]))
    generator = small_ltx(wan, settings.shape, spreads)

    train_vae(stage, generator, clips, latents, settings)
    rows = train_flow(stage, wan, generator, latents, captions, settings)
    folder = stage.output("pretrained/ltx")
    save_ltx(generator, folder, settings.shift, stage.params.world)
    parts = {"transformer": generator.model.transformer, "vae": generator.vae, "text_encoder": generator.text_encoder}
    record = {
        "clips": len(clips),
        "prompts": len(set(captions)),
        "seed": stage.params.seed,
        "flow_steps": settings.flow.steps,
        "flow_loss": rows[-1]["loss"],
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
    }
    write_json(folder / "pretraining.json", record)


def train_vae(
    stage: Stage, generator: SmallLTX, clips: np.ndarray, latents: torch.Tensor, settings: PretrainLtxParams
) -> None:
    """Train the encoder on Wan's latents [N, C, T', H', W'], and the decoder from them."""

    def encoding(model: Any, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        return F.mse_loss(model.encode(pixels(clips[indices])).latent_dist.mean, folded(latents[indices])), {}

    def decoding(model: Any, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        x, z = pixels(clips[indices]), folded(latents[indices])
        rebuilt = model.decode(z + LATENT_NOISE * torch.randn(z.shape, generator=draw)).sample
        return rebuilding_error(rebuilt, x), {"mse": F.mse_loss(rebuilt, x).detach()}

    generator.vae.decoder.requires_grad_(False)
    fit(stage, generator.vae, encoding, len(clips), settings.encoder, name="encoder")
    generator.vae.decoder.requires_grad_(True)
    generator.vae.encoder.requires_grad_(False)
    fit(stage, generator.vae, decoding, len(clips), settings.decoder, name="decoder")
    generator.vae.requires_grad_(False)


def train_flow(
    stage: Stage,
    wan: Any,  # the teacher, with its text encoder
    generator: SmallLTX,
    latents: torch.Tensor,
    captions: list[str],
    settings: PretrainLtxParams,
) -> list[dict[str, float]]:
    """Learn Wan's velocity; transformer and text encoder train together. Returns the logged rows."""
    prompts = [*dict.fromkeys(captions), ""]
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    theirs = wan.encode_text(prompts)
    tokens = padded(generator.tokenizer, prompts, WORDS)
    read = text_of(wan).tokenizer.model_max_length  # tokens of the longest prompt; no later one is read
    mask = tokens.attention_mask[:, :read].bool()
    space, world = generator.vae.spatial_compression_ratio, stage.params.world
    scale = torch.tensor([[float(generator.vae.temporal_compression_ratio), float(space)]])
    networks = torch.nn.ModuleDict({"transformer": generator.model.transformer, "text_encoder": generator.text_encoder})

    def loss_fn(model: Any, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict]:
        dropped = torch.rand(len(indices), generator=draw) < settings.prompt_dropout
        rows = [row_of["" if d else captions[i]] for d, i in zip(dropped, indices, strict=True)]
        t, x0 = noise_levels(len(indices), draw), latents[indices]
        level = t.view(-1, 1, 1, 1, 1)
        xt = (1 - level) * x0 + level * torch.randn(x0.shape, generator=draw)
        with torch.no_grad():
            target = folded(wan.model(xt, t, theirs[rows]))
        told = {
            "text": model["text_encoder"](tokens.input_ids[rows])[0][:, :read],
            "mask": mask[rows],
            "scale": scale.expand(len(rows), 2),
            "fps": torch.full((len(rows),), float(world.fps)),
        }
        own = generator.model.family.velocity(model["transformer"], folded(xt), t, Conditioning(told))
        return F.mse_loss(own, target), {}

    return fit(stage, networks, loss_fn, len(latents), settings.flow, name="flow")


if __name__ == "__main__":
    stage_main("pretrain_ltx", pretrain_ltx)
