"""LTX-Video: an LTXPipeline folder of diffusers.

The transformer's output is the velocity, its timestep is 1000 t. It reads latents as tokens [B, T' H' W', C], and positions
in seconds and pixels, so the conditioning has the clip's `fps` and the VAE's `scale` (frames and pixels a latent) beside
`text` [B, 128, D] of T5 and its `mask`. Latents are normalised by buffers of the VAE.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLLTXVideo, LTXPipeline, LTXVideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from torch import nn
from transformers import T5Config, T5EncoderModel

from components.config.types import Decoding, Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.families.shared import (
    EULER,
    TIMESTEPS,
    Coder,
    FolderGenerator,
    Part,
    T5Text,
    check_effect,
    check_parts,
    drawn,
    generator_of,
    load_blocks,
    no_original_name,
    same,
    tile_by_stride,
)
from components.generator.family import Layout, Network
from components.runtime.weights import load_tokenizer

PARTS = {
    "transformer": Part(LTXVideoTransformer3DModel),
    "text_encoder": Part(T5EncoderModel, T5Config),
    "vae": Part(AutoencoderKLLTXVideo),
}
WORDS = 128  # tokens of a prompt
SIDE = 32  # the pipeline refuses other sizes, whatever the VAE
FPS = 25.0  # the pipeline's default


def coder(vae: Network) -> Coder:
    time, space = vae.temporal_compression_ratio, vae.spatial_compression_ratio
    std = vae.latents_std / vae.config.scaling_factor
    # Some versions of the VAE take a noise level for each clip while decoding; 0 is the pipeline's default.
    noisy = bool(vae.config.timestep_conditioning)
    given = {"temb": torch.zeros(1, device=vae.device)} if noisy else {}
    channels, side = vae.config.latent_channels, max(SIDE, space)
    return Coder(vae, channels, time, space, side, vae.latents_mean, std, tile_by_stride, given, alone=noisy)


def packed(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, T', H', W'] as tokens [B, T' H' W', C]."""
    return latents.flatten(2).transpose(1, 2)


def unpacked(tokens: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Tokens as latents of this shape but for the channels."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *shape[2:])


def positions(conditioning: Conditioning) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Seconds and pixels a latent, twice, by row: the transformer's rope_interpolation_scale."""
    time, space = conditioning.tensors["scale"].unbind(1)
    seconds, side = (value.view(-1, 1, 1, 1, 1) for value in (time / conditioning.tensors["fps"], space))
    return seconds, side, side


def scale_of(config: dict[str, Any]) -> tuple[float, float]:
    """Frames and pixels a latent, by the VAE's configuration."""
    with torch.device("meta"):
        vae: Network = PARTS["vae"].new(config)
    return float(vae.temporal_compression_ratio), float(vae.spatial_compression_ratio)


def ltx_timesteps(scheduler: Any, steps: int, shape: tuple[int, ...]) -> None:
    """The pipeline's steps: a shift by the number of tokens where the scheduler has one, and then its last step."""
    if type(scheduler).__name__ != EULER:
        scheduler.set_timesteps(steps)
        return
    config = scheduler.config
    if steps == 1 and config.shift_terminal:
        why = "one step cannot end at the scheduler's shift_terminal; two can"
        raise BadInput("params.yaml", why, key="sampling.steps")
    tokens = shape[1] * shape[2] * shape[3]
    ends = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    shift = calculate_shift(tokens, *ends, config.get("base_shift", 0.5), config.get("max_shift", 1.15))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)


class LTX:
    """Family of components/generator/family.py."""

    parts: Mapping[str, str] = MappingProxyType({"transformer": "transformer", "text_encoder": "text encoder", "vae": "VAE"})
    float32_parts = frozenset({"vae"})
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    reads: tuple[str, ...] = ("fps",)
    original_name = staticmethod(no_original_name)
    set_timesteps = staticmethod(ltx_timesteps)

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        configs = check_parts(folder, PARTS, ("tokenizer",))
        same(folder, configs, ("transformer", "in_channels"), ("vae", "latent_channels"))
        same(folder, configs, ("transformer", "caption_channels"), ("text_encoder", "d_model"))
        for name in ("patch_size", "patch_size_t"):
            if configs["transformer"].get(name, 1) != 1:
                raise BadInput(folder / "transformer/config.json", "one latent a token is read", key=name)

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> FolderGenerator:
        return generator_of(self, folder, coder, PARTS["vae"], lora, dtype)

    def load_text(self, folder: Path, dtype: Dtype) -> T5Text:
        model = PARTS["text_encoder"].on_device(folder / "text_encoder", dtype)
        tokenizer = load_tokenizer(folder / "tokenizer")
        scale = scale_of(read_json(folder / "vae/config.json"))
        text = T5Text(model, tokenizer, WORDS, masked=False, given={"scale": scale})
        check_effect(text, folder, {"text_encoder": (tokenizer, model)})
        return text

    def load_transformer(self, folder: Path, dtype: Dtype) -> Network:
        return PARTS["transformer"].load(folder / "transformer", dtype)

    def load_trunk(self, folder: Path, blocks: int, dtype: Dtype) -> Network:
        trunk = load_blocks(PARTS["transformer"], folder, blocks, dtype)
        self.cut(trunk, blocks)
        return trunk

    def velocity(
        self, transformer: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        told, dtype, (frames, height, width) = conditioning.tensors, transformer.proj_in.weight.dtype, latents.shape[2:]
        output = transformer(
            hidden_states=packed(latents).to(dtype),
            encoder_hidden_states=told["text"].to(dtype),
            timestep=t * TIMESTEPS,
            encoder_attention_mask=told["mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=positions(conditioning),
            return_dict=False,
        )[0]
        return unpacked(output, latents.shape).to(latents.dtype)

    def blocks(self, transformer: Network) -> nn.ModuleList:
        return transformer.transformer_blocks

    def cut(self, trunk: Network, blocks: int) -> None:
        trunk.transformer_blocks = trunk.transformer_blocks[:blocks]
        del trunk.norm_out, trunk.proj_out
        trunk.scale_shift_table = None  # of the output layer

    def tokens(self, trunk: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The transformer's forward without its output layer."""
        told, dtype, rows = conditioning.tensors, trunk.proj_in.weight.dtype, len(latents)
        tokens = trunk.proj_in(packed(latents).to(dtype))
        rotary = trunk.rope(tokens, *latents.shape[2:], positions(conditioning))
        mask = ((1 - told["mask"].to(dtype)) * -10000.0)[:, None]  # as the transformer adds it to attention
        modulation, _ = trunk.time_embed(t * TIMESTEPS, batch_size=rows, hidden_dtype=dtype)
        context = trunk.caption_projection(told["text"].to(dtype)).view(rows, -1, tokens.shape[-1])
        for block in trunk.transformer_blocks:
            given = tokens, context, modulation.view(rows, 1, -1), rotary, mask
            if torch.is_grad_enabled() and trunk.gradient_checkpointing:
                tokens = trunk._gradient_checkpointing_func(block, *given)
            else:
                tokens = block(*given)
        return tokens

    def attention(self, transformer: Network) -> tuple[int, int]:
        return transformer.config.num_attention_heads, transformer.config.attention_head_dim

    def save_lora(self, folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        LTXPipeline.save_lora_weights(folder, transformer_lora_layers={**weights}, transformer_lora_adapter_metadata=config)

    def read_configs(self, folder: Path) -> dict[str, Any]:
        return {part: read_json(folder / part / "config.json") for part in self.parts}

    def untrained(self, part: str, configs: dict[str, Any]) -> nn.Module:
        return PARTS[part].new(configs[part])

    def example(
        self, configs: dict[str, Any], models: dict[str, Network], size: tuple[int, int, int]
    ) -> tuple[torch.Tensor, Conditioning]:
        new: dict[str, Any] = {"device": "meta", "dtype": models["transformer"].dtype}
        text = torch.empty(1, WORDS, models["text_encoder"].config.d_model, **new)
        mask = torch.ones(1, WORDS, dtype=torch.bool, device="meta")
        told = {"text": text, "mask": mask, "scale": torch.ones(1, 2, device="meta"), "fps": torch.ones(1, device="meta")}
        return torch.empty(1, *coder(models["vae"]).shape(*size), **new), Conditioning(told)

    def passes(
        self, configs: dict[str, Any], models: dict[str, Network], clip: torch.Tensor, decoding: Decoding
    ) -> dict[str, Callable[[], object]]:
        tokens = torch.ones(1, WORDS, dtype=torch.long, device="meta")
        return {
            "text_encoder": lambda: models["text_encoder"](tokens),
            "vae": drawn(coder(models["vae"]), clip, decoding),
        }

    def load_pipeline(self, folder: Path, **settings: Any) -> LTXPipeline:
        return LTXPipeline.from_pretrained(folder, **settings)

    def pipeline_conditioning(
        self,
        pipeline: LTXPipeline,
        prompt: str | list[str],
        clips: int,
        max_sequence_length: int = WORDS,
        frame_rate: float = FPS,
        **_: Any,
    ) -> Conditioning:
        found: Any = pipeline.encode_prompt(
            prompt, None, False, clips, max_sequence_length=max_sequence_length, device=pipeline._execution_device
        )
        text, mask, _, _ = found
        scale = text.new_tensor([pipeline.vae_temporal_compression_ratio, pipeline.vae_spatial_compression_ratio])
        fps = torch.full((len(text),), float(frame_rate), device=text.device)
        return Conditioning({"text": text, "mask": mask, "scale": scale.float().expand(len(text), 2), "fps": fps})

    def pipeline_layout(
        self, pipeline: LTXPipeline, height: int = 512, width: int = 704, num_frames: int = 161, **_: Any
    ) -> tuple[Layout, Layout]:
        shape = torch.Size((1, *coder(pipeline.vae).shape(num_frames, height, width)))
        return packed, lambda tokens: unpacked(tokens, shape)

    def pipeline_velocity(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def pipeline_time(self, timestep: torch.Tensor) -> float:
        return float(timestep) / TIMESTEPS
