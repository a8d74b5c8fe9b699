"""Mochi 1: a MochiPipeline folder of diffusers.

It counts the other way round: the transformer's output is clip minus noise, and its timestep is 1000 (1 - t). Latents are
normalised by lists in the VAE's configuration. The conditioning is `text` [B, 256, D] of T5 and its `mask`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLMochi, MochiPipeline, MochiTransformer3DModel
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from torch import nn
from transformers import T5Config, T5EncoderModel

from components.config.types import Decoding, Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.families.shared import (
    TIMESTEPS,
    Catch,
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
    shapes_alone,
    tile_by_stride,
    tokens_of,
)
from components.generator.family import Network, own_layout
from components.generator.parts import INDEX
from components.runtime.weights import load_tokenizer

PARTS = {
    "transformer": Part(MochiTransformer3DModel),
    "text_encoder": Part(T5EncoderModel, T5Config),
    "vae": Part(AutoencoderKLMochi),
}
WORDS = 256  # tokens of a prompt
ZEROS = "force_zeros_for_empty_prompt"  # of model_index.json
THRESHOLD = 0.025  # the pipeline's: noise that the first, linear half of the steps removes


def coder(vae: Network) -> Coder:
    config, time, space = vae.config, vae.temporal_compression_ratio, vae.spatial_compression_ratio
    mean, std = torch.tensor(config.latents_mean), torch.tensor(config.latents_std) / config.scaling_factor
    return Coder(vae, config.latent_channels, time, space, 2 * space, mean, std, tile_by_stride)  # patches of 2 latents


class Mochi:
    """Family of components/generator/family.py."""

    parts: Mapping[str, str] = MappingProxyType({"transformer": "transformer", "text_encoder": "text encoder", "vae": "VAE"})
    float32_parts = frozenset({"vae"})
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    reads: tuple[str, ...] = ()
    original_name = staticmethod(no_original_name)
    pipeline_layout = staticmethod(own_layout)

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        configs = check_parts(folder, PARTS, ("tokenizer",), reverse=True)
        same(folder, configs, ("transformer", "in_channels"), ("vae", "latent_channels"))
        same(folder, configs, ("transformer", "text_embed_dim"), ("text_encoder", "d_model"))

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> FolderGenerator:
        return generator_of(self, folder, coder, PARTS["vae"], lora, dtype)

    def load_text(self, folder: Path, dtype: Dtype) -> T5Text:
        model = PARTS["text_encoder"].on_device(folder / "text_encoder", dtype)
        tokenizer, zeros = load_tokenizer(folder / "tokenizer"), read_json(folder / INDEX).get(ZEROS, False)
        text = T5Text(model, tokenizer, WORDS, masked=True, empty_is_zero=bool(zeros))
        check_effect(text, folder, {"text_encoder": (tokenizer, model)})
        return text

    def load_transformer(self, folder: Path, dtype: Dtype) -> Network:
        return PARTS["transformer"].load(folder / "transformer", dtype)

    def load_trunk(self, folder: Path, blocks: int, dtype: Dtype) -> Network:
        # One block more, as the last block of a transformer is of another shape.
        trunk = load_blocks(PARTS["transformer"], folder, blocks, dtype, more=1)
        self.cut(trunk, blocks)
        return trunk

    def velocity(
        self, transformer: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        told, dtype = conditioning.tensors, transformer.patch_embed.proj.weight.dtype
        with shapes_alone(latents):
            output = transformer(
                hidden_states=latents.to(dtype),
                encoder_hidden_states=told["text"].to(dtype),
                timestep=TIMESTEPS * (1 - t),
                encoder_attention_mask=told["mask"],
                return_dict=False,
            )[0]
        return -output.to(latents.dtype)

    def blocks(self, transformer: Network) -> nn.ModuleList:
        return transformer.transformer_blocks

    def cut(self, trunk: Network, blocks: int) -> None:
        trunk.transformer_blocks = trunk.transformer_blocks[:blocks]
        trunk.norm_out, trunk.proj_out = Catch(), nn.Identity()

    def tokens(self, trunk: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return tokens_of(lambda: self.velocity(trunk, latents, t, conditioning))

    def attention(self, transformer: Network) -> tuple[int, int]:
        return transformer.config.num_attention_heads, transformer.config.attention_head_dim

    def save_lora(self, folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        MochiPipeline.save_lora_weights(
            folder, transformer_lora_layers={**weights}, transformer_lora_adapter_metadata=config
        )

    def read_configs(self, folder: Path) -> dict[str, Any]:
        return {part: read_json(folder / part / "config.json") for part in self.parts}

    def untrained(self, part: str, configs: dict[str, Any]) -> nn.Module:
        return PARTS[part].new(configs[part])

    def example(
        self, configs: dict[str, Any], models: dict[str, Network], size: tuple[int, int, int]
    ) -> tuple[torch.Tensor, Conditioning]:
        new: dict[str, Any] = {"device": "meta", "dtype": models["transformer"].dtype}
        text = torch.empty(1, WORDS, models["text_encoder"].config.d_model, **new)
        told = {"text": text, "mask": torch.ones(1, WORDS, dtype=torch.bool, device="meta")}
        return torch.empty(1, *coder(models["vae"]).shape(*size), **new), Conditioning(told)

    def passes(
        self, configs: dict[str, Any], models: dict[str, Network], clip: torch.Tensor, decoding: Decoding
    ) -> dict[str, Callable[[], object]]:
        tokens = torch.ones(1, WORDS, dtype=torch.long, device="meta")
        return {
            "text_encoder": lambda: models["text_encoder"](tokens),
            "vae": drawn(coder(models["vae"]), clip, decoding),
        }

    def load_pipeline(self, folder: Path, **settings: Any) -> MochiPipeline:
        return MochiPipeline.from_pretrained(folder, **settings)

    def pipeline_conditioning(
        self,
        pipeline: MochiPipeline,
        prompt: str | list[str],
        clips: int,
        max_sequence_length: int = WORDS,
        **_: Any,
    ) -> Conditioning:
        found: Any = pipeline.encode_prompt(
            prompt, None, False, clips, max_sequence_length=max_sequence_length, device=pipeline._execution_device
        )
        text, mask, _, _ = found
        return Conditioning({"text": text, "mask": mask})

    def set_timesteps(self, scheduler: Any, steps: int, shape: tuple[int, ...]) -> None:
        if steps == 1:
            raise BadInput("params.yaml", "the pipeline takes two steps at least", key="sampling.steps")
        scheduler.set_timesteps(sigmas=np.array(linear_quadratic_schedule(steps, THRESHOLD)))

    def pipeline_velocity(self, output: torch.Tensor) -> torch.Tensor:
        return -output

    def pipeline_time(self, timestep: torch.Tensor) -> float:
        return 1 - float(timestep) / TIMESTEPS
