"""A small LTX-Video generator for the demo, with the latents, text and transformer of a small Wan generator.

A Wan latent of 2x2 places is one LTX latent, of four times as many channels. The transformer begins with Wan's weights where
both have the same layer. LayerNorm of Wan and RMSNorm here agree on a mean of zero, so layers that add to the tokens lose
their mean. Positions are encoded otherwise, and masked text is not read, so it has to be trained further.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_ltx import LTXVideoResnetBlock3d
from torch import nn
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel

from components.config.params import WorldParams
from components.config.pretrain import LtxShape
from components.generator.families.ltx import LTX
from components.generator.families.wan_generator import WanGenerator
from components.generator.families.wan_small import text_of
from components.generator.family import Network, VelocityModel

AXES = 3  # frames, rows and columns: each has as many rotations
TIME_FREQUENCIES = 256  # of LTX's transformer
PATCH = 2  # Wan latents a side of a token


CARD = """---
library_name: diffusers
pipeline_tag: text-to-video
---

# A small LTX-Video generator

It draws clips of {size} x {size} pixels and {frames} frames in the shapes world of Reelign. It was distilled from the Wan
generator beside it, by `python -m components.simulation.pretrain_ltx`. Transformer, VAE and text encoder are diffusers' and
transformers' own classes.

```python
from diffusers import LTXPipeline

pipeline = LTXPipeline.from_pretrained("models/base_generator")
size = {{"height": {size}, "width": {size}, "num_frames": {frames}, "frame_rate": {fps}}}
clip = pipeline("a red circle moving up", **size, num_inference_steps=8, guidance_scale=2.0).frames[0]
```
"""


@dataclass(frozen=True)
class SmallLTX:
    """The parts of a small LTXPipeline."""

    model: VelocityModel
    vae: Network
    text_encoder: Network
    tokenizer: PreTrainedTokenizerBase


def small_ltx(wan: WanGenerator, shape: LtxShape, spreads: list[float]) -> SmallLTX:
    """A generator of the real classes. Its VAE is untrained, initialised from torch's global seed.

    spreads: standard deviation of Wan's tokens before the cross-attention of each block (`token_spreads`).
    """
    teacher = wan.model.transformer
    heads, width = teacher.config.num_attention_heads, teacher.config.attention_head_dim
    channels = teacher.config.in_channels * PATCH**2
    transformer = LTXVideoTransformer3DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=heads,
        attention_head_dim=width,
        cross_attention_dim=heads * width,
        num_layers=teacher.config.num_layers,
        caption_channels=teacher.config.text_dim,
    )
    transformer.load_state_dict(ltx_weights(teacher.state_dict(), heads, width, spreads))
    return SmallLTX(VelocityModel(LTX(), transformer), small_vae(shape, channels), t5_of(wan), text_of(wan).tokenizer)


def small_vae(shape: LtxShape, channels: int) -> AutoencoderKLLTXVideo:
    """A VAE of 8x8 pixels and two frames a latent. Residual branches start at zero, so it trains faster."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=channels,
        block_out_channels=(shape.encoder,),
        down_block_types=("LTXVideoDownBlock3D",),
        decoder_block_out_channels=(shape.decoder,),
        layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("conv",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=4,
    )
    for module in vae.modules():
        if isinstance(module, LTXVideoResnetBlock3d):
            for weight in module.conv2.parameters():
                nn.init.zeros_(weight)
    return vae


def t5_of(wan: WanGenerator) -> T5EncoderModel:
    """Wan's text encoder as T5: UMT5 of one layer has the same weights."""
    own = text_of(wan).model
    kept = "vocab_size", "d_model", "d_kv", "num_heads", "d_ff", "num_layers", "dropout_rate", "pad_token_id", "eos_token_id"
    assert own.config.num_layers == 1, "T5 has one table of positions, UMT5 one a layer"
    settings: dict[str, Any] = {key: getattr(own.config, key) for key in kept}
    encoder = T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **settings))
    encoder.load_state_dict(own.state_dict())
    return encoder


def folded(latents: torch.Tensor) -> torch.Tensor:
    """Wan's latents [B, C, T', H', W'] as [B, 4 C, T', H' / 2, W' / 2]."""
    return F.pixel_unshuffle(latents.transpose(1, 2), PATCH).transpose(1, 2)


@torch.no_grad()
def token_spreads(wan: WanGenerator, latents: torch.Tensor, t: torch.Tensor, text: Any) -> list[float]:
    """Standard deviation over channels of Wan's tokens before the cross-attention of each block, the mean over these."""
    found: list[float] = []
    norms = [block.norm2 for block in wan.model.transformer.blocks]
    hooks = [norm.register_forward_pre_hook(lambda _, given: found.append(float(given[0].std(-1).mean()))) for norm in norms]
    wan.model(latents, t, text)
    for hook in hooks:
        hook.remove()
    return found


def ltx_weights(wan: dict[str, torch.Tensor], heads: int, width: int, spreads: list[float]) -> dict[str, torch.Tensor]:
    """Weights of an LTX transformer from those of a Wan transformer with `heads` of `width`."""
    dim = heads * width
    out = wan["proj_out.weight"].shape[0]
    order = torch.arange(out).view(PATCH**2, -1).T.flatten()  # Wan's output has the channel last, LTX's latents first
    time = torch.zeros(dim, TIME_FREQUENCIES)
    first = wan["condition_embedder.time_embedder.linear_1.weight"]
    time[:, :: TIME_FREQUENCIES // first.shape[1]] = first  # every fourth of LTX's frequencies is one of Wan's
    found = {
        "proj_in.weight": centred(wan["patch_embedding.weight"].flatten(1)),
        "proj_in.bias": centred(wan["patch_embedding.bias"]),
        "proj_out.weight": wan["proj_out.weight"][order],
        "proj_out.bias": wan["proj_out.bias"][order],
        "scale_shift_table": wan["scale_shift_table"][0],
        "time_embed.emb.timestep_embedder.linear_1.weight": time,
    }
    text, clock = "condition_embedder.text_embedder", "condition_embedder.time_embedder"
    for theirs, ours in {
        f"{text}.linear_1": "caption_projection.linear_1",
        f"{text}.linear_2": "caption_projection.linear_2",
        f"{clock}.linear_1": "time_embed.emb.timestep_embedder.linear_1",
        f"{clock}.linear_2": "time_embed.emb.timestep_embedder.linear_2",
        "condition_embedder.time_proj": "time_embed.linear",
    }.items():
        for kind in ("weight", "bias"):
            found.setdefault(f"{ours}.{kind}", wan[f"{theirs}.{kind}"])
    turns = rotations(heads, width)
    for number, spread in enumerate(spreads):
        block = {key.split(".", 2)[2]: value for key, value in wan.items() if key.startswith(f"blocks.{number}.")}
        found |= {f"transformer_blocks.{number}.{key}": value for key, value in block_weights(block, turns, spread).items()}
    return found


def block_weights(wan: dict[str, torch.Tensor], turns: torch.Tensor, spread: float) -> dict[str, torch.Tensor]:
    """Weights of one block. Wan scales tokens before the cross-attention's query, LTX only the query."""
    found = {key: value for key, value in wan.items() if key.startswith("attn")}
    for part in ("attn1.to_q", "attn1.to_k", "attn1.norm_q", "attn1.norm_k"):
        found |= {key: value[turns] for key, value in wan.items() if key.startswith(f"{part}.")}
    scale, shift = wan["norm2.weight"], wan["norm2.bias"]
    query, bias = wan["attn2.to_q.weight"], wan["attn2.to_q.bias"]
    found |= {"attn2.to_q.weight": query * scale, "attn2.to_q.bias": (bias + query @ shift) * spread}
    for part in ("attn1.to_out.0", "attn2.to_out.0"):
        found |= {f"{part}.{kind}": centred(wan[f"{part}.{kind}"]) for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        found[f"ff.net.0.proj.{kind}"] = wan[f"ffn.net.0.proj.{kind}"]
        found[f"ff.net.2.{kind}"] = centred(wan[f"ffn.net.2.{kind}"])
    return found | {"scale_shift_table": wan["scale_shift_table"][0]}


def centred(values: torch.Tensor) -> torch.Tensor:
    """Without the mean over the first axis, a layer's outputs."""
    return values - values.mean(0)


def rotations(heads: int, width: int) -> torch.Tensor:
    """Wan's channel for each of LTX's channels of query and key. A head of Wan has the pairs that turn with the frame, then
    those of rows and columns, the fastest first; LTX has all three axes in turns, the fastest last."""
    each = width // 2 // AXES
    pairs = torch.arange(AXES * each).view(AXES, each).flip(1).T.flatten()
    head = torch.stack([2 * pairs, 2 * pairs + 1], 1).flatten()
    return (torch.arange(heads)[:, None] * width + head).flatten()


def save_ltx(generator: SmallLTX, folder: Path, shift: float, world: WorldParams) -> None:
    """Write a folder with its card that LTXPipeline.from_pretrained loads, weights in half precision."""
    LTXPipeline(
        transformer=copy.deepcopy(generator.model.transformer).half(),
        vae=copy.deepcopy(generator.vae).half(),
        text_encoder=copy.deepcopy(generator.text_encoder).half(),
        tokenizer=generator.tokenizer,  # pyright: ignore[reportArgumentType]
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
    ).save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(**world.model_dump()))
