"""Wan 2.1, and Wan 2.2 with one transformer: a WanPipeline folder of diffusers.

The transformer's output is the velocity, its timestep is 1000 t. Latents are the VAE's, normalised by its latents_mean and
latents_std. The conditioning is `text` [B, L, D]: UMT5's embeddings, zero-padded, without a mask.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils import logging
from torch import nn
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from components.config.types import WHOLE, Decoding, Dtype
from components.errors import BadInput, NonFinite
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.families.wan_folder import check_text_encoder, check_wan_folder
from components.generator.families.wan_lora import wan_name
from components.generator.families.wan_pipeline import ShortTextWanPipeline
from components.generator.family import (
    Network,
    TextEncoder,
    VelocityModel,
    check_blocks,
    own_layout,
    plain_timesteps,
)
from components.generator.lora import apply_lora
from components.generator.parts import read_scheduler
from components.generator.pixels import clips_of, pixels
from components.runtime.microbatches import in_microbatches
from components.runtime.weights import load_pretrained, load_tokenizer

TIMESTEPS = 1000  # the transformer's timestep is 1000 t
LONGEST_TEXT = 512  # tokens; what Wan 2.1 pads to
CLIPS = 16  # per VAE call on a core: smaller convolutions are slower and round differently


@dataclass(frozen=True)
class WanText:
    """TextEncoder of a WanPipeline: embeddings [B, L, D], of prompts that are cleaned and zero-padded as it does."""

    model: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, prompts: list[str]) -> Conditioning:
        length = min(self.tokenizer.model_max_length, LONGEST_TEXT)
        return Conditioning({"text": torch.stack([self._embedding(prompt, length) for prompt in prompts])})

    def _embedding(self, prompt: str, length: int) -> torch.Tensor:
        """[length, D]. Padding has no part in the encoder's attention, so zeros follow the prompt's own tokens; each prompt
        goes alone, so that others do not change its rounding."""
        tokens = self.tokenizer(prompt_clean(prompt), max_length=length, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        [hidden] = self.model(tokens.input_ids, tokens.attention_mask).last_hidden_state
        if not torch.isfinite(hidden).all():
            raise NonFinite(f"the text embedding of {prompt!r}")
        return pad(hidden, (0, 0, 0, length - len(hidden)))


@dataclass(frozen=True)
class WanGenerator:
    """The parts of a WanPipeline. text: None where no prompt is to be encoded."""

    model: VelocityModel
    vae: Network  # an AutoencoderKLWan
    text: TextEncoder | None = None
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[C, T', H', W'] of a clip; BadInput for a size the VAE or the patches cannot divide."""
        transformer = self.model.transformer
        time, space = self.vae.config.scale_factor_temporal, self.vae.config.scale_factor_spatial
        patch = transformer.config.patch_size[1] * space
        if (frames - 1) % time or height % patch or width % patch:
            why = f"{frames} frames of {height}x{width}: frames must be {time}k+1, sides multiples of {patch}"
            raise BadInput("params.yaml", why, key="sampling")
        return transformer.config.in_channels, (frames - 1) // time + 1, height // space, width // space

    def encode_text(self, prompts: list[str]) -> Conditioning:
        assert self.text is not None, "a generator for sampling gets encoded prompts by with_text"
        return self.text(prompts)

    def with_text(self, encoder: TextEncoder) -> "WanGenerator":
        return replace(self, text=encoder)

    def encode_video(self, clips: np.ndarray) -> torch.Tensor:
        """uint8 [B, T, H, W, 3] to normalised latents (the mode of the posterior)."""
        raw = in_microbatches(self._encode, pixels(clips).to(self.vae.device), rows=CLIPS)
        mean, std = self._statistics(raw)
        return (raw - mean) / std

    def decode(self, latents: torch.Tensor, decoding: Decoding = WHOLE) -> np.ndarray:
        """Normalised latents to uint8 [B, T, H, W, 3]; NonFinite where a decoded pixel is not finite."""
        mean, std = self._statistics(latents)
        raw = latents * std + mean
        if decoding.decode == "whole":
            return clips_of(in_microbatches(self._decode, raw, rows=CLIPS))
        return np.concatenate([clips_of(self._decode(one, decoding)) for one in raw.split(1)])

    # The VAE caches the state of causal convolutions in attributes: each call uses a shallow copy with the same weights.
    def _encode(self, clips: torch.Tensor) -> torch.Tensor:
        return copy.copy(self.vae).encode(clips).latent_dist.mode()

    def _decode(self, latents: torch.Tensor, decoding: Decoding = WHOLE) -> torch.Tensor:
        return with_decoding(self.vae, decoding).decode(latents).sample

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.vae.config
        mean, std = (like.new_tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return mean, std


def tile_side(vae: Network, most: int) -> int:
    """Pixels of a tile's side, a multiple of 4 latents, so that three quarters of a tile are whole latents."""
    step = 4 * vae.config.scale_factor_spatial
    return max(1, most // step) * step


def with_decoding(vae: Network, decoding: Decoding) -> Network:
    """A shallow copy that decodes in tiles where `decoding` has them."""
    part = copy.copy(vae)
    if decoding.decode == "tiled":
        side = tile_side(vae, decoding.tile)
        part.enable_tiling(side, side, side * 3 // 4, side * 3 // 4)
    return part


class Wan:
    """Family of components/generator/family.py."""

    parts: Mapping[str, str] = MappingProxyType({"transformer": "transformer", "text_encoder": "text encoder", "vae": "VAE"})
    float32_parts = frozenset({"vae"})
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    reads: tuple[str, ...] = ()
    set_timesteps = staticmethod(plain_timesteps)
    pipeline_layout = staticmethod(own_layout)

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        check_wan_folder(folder, index, key)

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> WanGenerator:
        transformer = self.load_transformer(folder, dtype)
        if lora is not None:
            apply_lora(transformer, lora, dtype == "float32", self.original_name)
        vae = load_pretrained(AutoencoderKLWan, folder / "vae")
        for module in (transformer, vae):
            module.requires_grad_(False).eval().to(PartialState().device)
        return WanGenerator(VelocityModel(self, transformer).eval(), vae, scheduler=read_scheduler(folder))

    def load_text(self, folder: Path, dtype: Dtype) -> WanText:
        model = load_pretrained(UMT5EncoderModel, folder / "text_encoder", getattr(torch, dtype))
        tokenizer = load_tokenizer(folder / "tokenizer")
        model.requires_grad_(False).eval().to(PartialState().device)
        check_text_encoder(model, tokenizer, folder)
        return WanText(model, tokenizer)

    def load_transformer(self, folder: Path, dtype: Dtype) -> Network:
        return self._read_transformer(folder, dtype)

    def load_trunk(self, folder: Path, blocks: int, dtype: Dtype) -> Network:
        check_blocks(blocks, read_json(folder / "transformer/config.json", "num_layers")["num_layers"])
        later = rf"blocks\.(?!({'|'.join(map(str, range(blocks)))})\.)"
        trunk = self._read_transformer(folder, dtype, unread=later, num_layers=blocks)
        self.cut(trunk, blocks)
        return trunk

    def _read_transformer(self, folder: Path, dtype: Dtype, unread: str | None = None, **config: Any) -> Network:
        logging.set_verbosity(logging.CRITICAL)  # load_pretrained reports wrong tensors in one line
        kind = getattr(torch, dtype)
        transformer = load_pretrained(WanTransformer3DModel, folder / "transformer", kind, unread, **config)
        return transformer.requires_grad_(False).eval()

    def velocity(
        self, transformer: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        dtype, text = input_dtype(transformer), conditioning.tensors["text"]
        output = transformer(latents.to(dtype), t * TIMESTEPS, text.to(dtype), return_dict=False)[0]
        return output.to(latents.dtype)

    def blocks(self, transformer: Network) -> nn.ModuleList:
        return transformer.blocks

    def cut(self, trunk: Network, blocks: int) -> None:
        trunk.blocks = trunk.blocks[:blocks]
        del trunk.norm_out, trunk.proj_out
        trunk.scale_shift_table = None  # of the output layer

    def tokens(self, trunk: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The transformer's forward without its output layer."""
        latents, text = latents.to(input_dtype(trunk)), conditioning.tensors["text"].to(input_dtype(trunk))
        rotary = trunk.rope(latents)
        tokens = trunk.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
        _, modulation, context, _ = trunk.condition_embedder(t * TIMESTEPS, text, None)
        modulation = modulation.unflatten(1, (6, -1))
        for block in trunk.blocks:
            if torch.is_grad_enabled() and trunk.gradient_checkpointing:
                tokens = trunk._gradient_checkpointing_func(block, tokens, context, modulation, rotary)
            else:
                tokens = block(tokens, context, modulation, rotary)
        return tokens

    def attention(self, transformer: Network) -> tuple[int, int]:
        return transformer.config.num_attention_heads, transformer.config.attention_head_dim

    def original_name(self, layer: str) -> str | None:
        return wan_name(layer)

    def save_lora(self, folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        WanPipeline.save_lora_weights(folder, transformer_lora_layers={**weights}, transformer_lora_adapter_metadata=config)

    def read_configs(self, folder: Path) -> dict[str, Any]:
        """Those of the parts, and `words`, the length of a prompt in tokens."""
        words = read_json(folder / "tokenizer/tokenizer_config.json", "model_max_length")["model_max_length"]
        return {part: read_json(folder / part / "config.json") for part in self.parts} | {"words": min(words, LONGEST_TEXT)}

    def untrained(self, part: str, configs: dict[str, Any]) -> nn.Module:
        make: dict[str, Callable[[dict[str, Any]], Any]] = {
            "transformer": WanTransformer3DModel.from_config,
            "vae": AutoencoderKLWan.from_config,
            "text_encoder": lambda config: UMT5EncoderModel(UMT5Config(**config)),
        }
        return make[part](configs[part])

    def example(
        self, configs: dict[str, Any], models: dict[str, Network], size: tuple[int, int, int]
    ) -> tuple[torch.Tensor, Conditioning]:
        transformer, vae, (frames, height, width) = models["transformer"], models["vae"].config, size
        time, space = vae.scale_factor_temporal, vae.scale_factor_spatial
        new: dict[str, Any] = {"device": "meta", "dtype": transformer.dtype}
        shape = ((frames - 1) // time + 1, height // space, width // space)
        words = configs.get("words", LONGEST_TEXT), models["text_encoder"].config.d_model
        latents = torch.empty(1, transformer.config.in_channels, *shape, **new)
        return latents, Conditioning({"text": torch.empty(1, *words, **new)})

    def passes(
        self, configs: dict[str, Any], models: dict[str, Network], clip: torch.Tensor, decoding: Decoding
    ) -> dict[str, Callable[[], object]]:
        tokens = torch.ones(1, configs.get("words", LONGEST_TEXT), dtype=torch.long, device="meta")
        text, vae, part = models["text_encoder"], models["vae"], clip.float()
        if decoding.decode == "tiled":  # one tile, beside those decoded before, which overlap
            side = tile_side(vae, decoding.tile) // vae.config.scale_factor_spatial
            part = part[..., :side, :side]
        tiles = list(clip.shape[2:]) if decoding.decode == "tiled" else [0, 0, 0]
        pixels_of = vae.config.scale_factor_temporal * vae.config.scale_factor_spatial**2

        def decode() -> object:
            before = part.new_empty(math.prod(tiles) * pixels_of * 3 * 16 // 9)
            return vae.decode(part), before

        return {"text_encoder": lambda: text(tokens), "vae": decode}

    def load_pipeline(self, folder: Path, **settings: Any) -> ShortTextWanPipeline:
        return ShortTextWanPipeline.from_pretrained(folder, **settings)

    def pipeline_conditioning(
        self, pipeline: WanPipeline, prompt: str | list[str], clips: int, max_sequence_length: int = LONGEST_TEXT, **_: Any
    ) -> Conditioning:
        text: torch.Tensor = pipeline.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            num_videos_per_prompt=clips,
            max_sequence_length=max_sequence_length,
            device=pipeline._execution_device,
        )[0]
        return Conditioning({"text": text.to(pipeline.transformer.dtype)})  # as the pipeline does

    def pipeline_velocity(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def pipeline_time(self, timestep: torch.Tensor) -> float:
        return float(timestep) / TIMESTEPS


def input_dtype(transformer: Network) -> torch.dtype:
    """The dtype of the latents and text that a transformer takes."""
    return transformer.patch_embedding.weight.dtype  # some small parts of a half-precision transformer stay in float32
