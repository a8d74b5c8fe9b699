"""HunyuanVideo 1.0: a HunyuanVideoPipeline folder of diffusers.

The transformer's output is the velocity, its timestep is 1000 t. It was distilled from classifier-free guidance and is given
the scale, so the conditioning has `guidance_scale` beside `text` [B, 256, D] of LLaMA, its `mask` and `pooled` of CLIP.

In bfloat16 the pipeline rounds timestep and scale (965.5 is given as 964). Here both stay in float32, in training too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLHunyuanVideo, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE as TEMPLATE
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel, PreTrainedTokenizerBase

from components.config.types import Decoding, Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.families.shared import (
    EULER,
    TIMESTEPS,
    Catch,
    Coder,
    FolderGenerator,
    Part,
    check_effect,
    check_finite,
    check_parts,
    drawn,
    generator_of,
    no_original_name,
    padded,
    same,
    tile_by_stride,
    tokens_of,
)
from components.generator.family import Network, check_blocks, own_layout
from components.runtime.weights import load_tokenizer

PARTS = {
    "transformer": Part(HunyuanVideoTransformer3DModel),
    "text_encoder": Part(LlamaModel, LlamaConfig),
    "text_encoder_2": Part(CLIPTextModel, CLIPTextConfig),
    "vae": Part(AutoencoderKLHunyuanVideo),
}
WORDS, POOLED_WORDS = 256, 77  # tokens of a prompt for LLaMA, after the template's, and for CLIP
LAYER = -3  # the hidden states that the pipeline reads
DOUBLE, SINGLE = "transformer_blocks", "single_transformer_blocks"  # of two streams and of one
GUIDANCE = 6.0  # the pipeline's default


def coder(vae: Network) -> Coder:
    config, time, space = vae.config, vae.temporal_compression_ratio, vae.spatial_compression_ratio
    mean, std = torch.zeros(1), torch.tensor([1 / config.scaling_factor])
    return Coder(vae, config.latent_channels, time, space, 2 * space, mean, std, tile_by_stride)  # patches of 2 latents


def hunyuan_timesteps(scheduler: Any, steps: int, shape: tuple[int, ...]) -> None:
    """Equal steps from 1, shifted once by the scheduler; by itself FlowMatchEulerDiscreteScheduler would shift twice."""
    if type(scheduler).__name__ == EULER:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, steps + 1)[:-1])
    else:
        scheduler.set_timesteps(steps)


@dataclass(frozen=True)
class HunyuanText:
    """TextEncoder: `text` [B, 256, D] of LLaMA in the pipeline's template, `mask` [B, 256], `pooled` [B, D'] of CLIP."""

    llama: Network
    tokenizer: PreTrainedTokenizerBase
    clip: Network
    tokenizer_2: PreTrainedTokenizerBase

    def __call__(self, prompts: list[str]) -> Conditioning:
        return Conditioning.cat([self._embedded(prompt) for prompt in prompts])

    def _embedded(self, prompt: str) -> Conditioning:
        """One row. Each prompt goes alone, so that others do not change its rounding."""
        start = TEMPLATE["crop_start"]
        tokens = padded(self.tokenizer, [TEMPLATE["template"].format(prompt)], WORDS + start).to(self.llama.device)
        hidden = self.llama(tokens.input_ids, tokens.attention_mask, output_hidden_states=True).hidden_states[LAYER]
        ids = padded(self.tokenizer_2, [prompt], POOLED_WORDS).input_ids.to(self.clip.device)
        text, mask, pooled = hidden[:, start:], tokens.attention_mask[:, start:].bool(), self.clip(ids).pooler_output
        for part in (text, pooled):
            check_finite(part, prompt)
        return Conditioning({"text": text, "mask": mask, "pooled": pooled})


class Hunyuan:
    """Family of components/generator/family.py."""

    parts: Mapping[str, str] = MappingProxyType(
        {"transformer": "transformer", "text_encoder": "text encoder", "text_encoder_2": "CLIP's text encoder", "vae": "VAE"}
    )
    float32_parts = frozenset({"vae"})
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    reads: tuple[str, ...] = ("guidance_scale",)
    original_name = staticmethod(no_original_name)
    pipeline_layout = staticmethod(own_layout)
    set_timesteps = staticmethod(hunyuan_timesteps)

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        configs = check_parts(folder, PARTS, ("tokenizer", "tokenizer_2"))
        same(folder, configs, ("transformer", "in_channels"), ("vae", "latent_channels"))
        same(folder, configs, ("transformer", "text_embed_dim"), ("text_encoder", "hidden_size"))
        same(folder, configs, ("transformer", "pooled_projection_dim"), ("text_encoder_2", "hidden_size"))
        own = configs["transformer"]
        if own.get("image_condition_type") is not None or not own.get("guidance_embeds", True):
            key = "image_condition_type" if own.get("image_condition_type") else "guidance_embeds"
            why = f"is {own[key]}: text-to-video with an embedded guidance scale is needed"
            raise BadInput(folder / "transformer/config.json", why, key=key)

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> FolderGenerator:
        return generator_of(self, folder, coder, PARTS["vae"], lora, dtype)

    def load_text(self, folder: Path, dtype: Dtype) -> HunyuanText:
        llama, clip = (PARTS[part].on_device(folder / part, dtype) for part in ("text_encoder", "text_encoder_2"))
        first, second = (load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
        text = HunyuanText(llama, first, clip, second)
        check_effect(text, folder, {"text_encoder": (first, llama), "text_encoder_2": (second, clip)})
        return text

    def load_transformer(self, folder: Path, dtype: Dtype) -> Network:
        return PARTS["transformer"].load(folder / "transformer", dtype)

    def load_trunk(self, folder: Path, blocks: int, dtype: Dtype) -> Network:
        config = read_json(folder / "transformer/config.json", "num_layers", "num_single_layers")
        check_blocks(blocks, config["num_layers"] + config["num_single_layers"])
        double = min(blocks, config["num_layers"])
        single = blocks - double
        first = "|".join(f"{name}.{n}" for name, count in ((DOUBLE, double), (SINGLE, single)) for n in range(count))
        unread = rf"(?!({first})\.)({DOUBLE}|{SINGLE})\."
        numbers = {"num_layers": double, "num_single_layers": single}
        trunk = PARTS["transformer"].load(folder / "transformer", dtype, unread, **numbers)
        self.cut(trunk, blocks)
        return trunk

    def velocity(
        self, transformer: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        told, dtype = conditioning.tensors, transformer.x_embedder.proj.weight.dtype
        output = transformer(
            hidden_states=latents.to(dtype),
            timestep=t * TIMESTEPS,
            encoder_hidden_states=told["text"].to(dtype),
            encoder_attention_mask=told["mask"].to(dtype),
            pooled_projections=told["pooled"].to(dtype),
            guidance=told["guidance_scale"] * 1000,
            return_dict=False,
        )[0]
        return output.to(latents.dtype)

    def blocks(self, transformer: Network) -> nn.ModuleList:
        """Those of two streams, and then those of one."""
        return nn.ModuleList([*transformer.transformer_blocks, *transformer.single_transformer_blocks])

    def cut(self, trunk: Network, blocks: int) -> None:
        double = len(trunk.transformer_blocks)
        trunk.transformer_blocks = trunk.transformer_blocks[:blocks]
        trunk.single_transformer_blocks = trunk.single_transformer_blocks[: max(0, blocks - double)]
        trunk.norm_out, trunk.proj_out = Catch(), nn.Identity()

    def tokens(self, trunk: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return tokens_of(lambda: self.velocity(trunk, latents, t, conditioning))

    def attention(self, transformer: Network) -> tuple[int, int]:
        return transformer.config.num_attention_heads, transformer.config.attention_head_dim

    def save_lora(self, folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        HunyuanVideoPipeline.save_lora_weights(
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
        told = {
            "text": torch.empty(1, WORDS, models["text_encoder"].config.hidden_size, **new),
            "mask": torch.ones(1, WORDS, dtype=torch.bool, device="meta"),
            "pooled": torch.empty(1, models["text_encoder_2"].config.hidden_size, **new),
            "guidance_scale": torch.ones(1, device="meta"),
        }
        return torch.empty(1, *coder(models["vae"]).shape(*size), **new), Conditioning(told)

    def passes(
        self, configs: dict[str, Any], models: dict[str, Network], clip: torch.Tensor, decoding: Decoding
    ) -> dict[str, Callable[[], object]]:
        tokens = torch.ones(1, WORDS + TEMPLATE["crop_start"], dtype=torch.long, device="meta")

        def encode() -> object:
            pooled = models["text_encoder_2"](tokens[:, :POOLED_WORDS]).pooler_output
            return models["text_encoder"](tokens, output_hidden_states=True), pooled

        return {"text_encoder": encode, "vae": drawn(coder(models["vae"]), clip, decoding)}

    def load_pipeline(self, folder: Path, **settings: Any) -> HunyuanVideoPipeline:
        return HunyuanVideoPipeline.from_pretrained(folder, **settings)

    def pipeline_conditioning(
        self, pipeline: HunyuanVideoPipeline, prompt: str | list[str], clips: int, guidance_scale: float = GUIDANCE, **_: Any
    ) -> Conditioning:
        found: Any = pipeline.encode_prompt(prompt, num_videos_per_prompt=clips, device=pipeline._execution_device)
        text, pooled, mask = found
        scale = torch.full((len(text),), float(guidance_scale), device=text.device)
        return Conditioning({"text": text, "mask": mask.bool(), "pooled": pooled, "guidance_scale": scale})

    def pipeline_velocity(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def pipeline_time(self, timestep: torch.Tensor) -> float:
        return float(timestep) / TIMESTEPS
