"""HunyuanVideo 1.5, text to video: a HunyuanVideo15Pipeline folder of diffusers.

The transformer's output is the velocity, its timestep is 1000 t. It takes the latents beside a condition and its mask, and
embeddings of an image: all are zero for text alone. The conditioning is `text` [B, 1000, D] of Qwen2.5-VL and `text_2`
[B, 256, D'] of ByT5, each with its mask. ByT5 reads the quoted words of a prompt; without any, its row is masked.

The transformer takes its timestep in its own precision, so in bfloat16 it is rounded by up to 2, as in the pipeline. The
pipeline has no loader of LoRA: `pipeline.transformer.load_lora_adapter(folder)` reads what `save_lora` writes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Pipeline, HunyuanVideo15Transformer3DModel
from diffusers.loaders import HunyuanVideoLoraLoaderMixin
from torch import nn
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

from components.config.types import Decoding, Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.families.hunyuan import hunyuan_timesteps
from components.generator.families.shared import (
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
    load_blocks,
    no_original_name,
    same,
    shapes_alone,
    tokens_of,
)
from components.generator.family import Network, own_layout
from components.runtime.weights import load_tokenizer

PARTS = {
    "transformer": Part(HunyuanVideo15Transformer3DModel),
    "text_encoder": Part(Qwen2_5_VLTextModel, Qwen2_5_VLTextConfig),
    "text_encoder_2": Part(T5EncoderModel, T5Config),
    "vae": Part(AutoencoderKLHunyuanVideo15),
}
WORDS, TEMPLATE, QUOTED_WORDS = 1000, 108, 256  # tokens: of a prompt after the template's, of the template, of quoted words
IMAGE_TOKENS = 729


def coder(vae: Network) -> Coder:
    config, time, space = vae.config, vae.temporal_compression_ratio, vae.spatial_compression_ratio
    mean, std = torch.zeros(1), torch.tensor([1 / config.scaling_factor])
    # diffusers 0.42 gives its attention a mask [B, N, N], which fits [B, 1, N, N] for one clip alone.
    return Coder(vae, config.latent_channels, time, space, space, mean, std, tile, alone=True)


def tile(vae: Network, side: int) -> None:
    """Coder.tile: a quarter of a tile overlaps, as for other VAEs."""
    latents = side // vae.spatial_compression_ratio
    vae.enable_tiling(side, side, latents, latents, 0.25)


@dataclass(frozen=True)
class Hunyuan15Text:
    """TextEncoder: `text` and its `mask` of Qwen2.5-VL in the pipeline's template, `text_2` and its `mask_2` of ByT5."""

    qwen: Network
    tokenizer: PreTrainedTokenizerBase
    byt5: Network
    tokenizer_2: PreTrainedTokenizerBase

    def __call__(self, prompts: list[str]) -> Conditioning:
        return Conditioning.cat([self._embedded(prompt) for prompt in prompts])

    def _embedded(self, prompt: str) -> Conditioning:
        """One row, by the pipeline's own functions. Each prompt goes alone, so that others do not change its rounding."""
        pipeline: Any = HunyuanVideo15Pipeline
        text, mask = pipeline._get_mllm_prompt_embeds(
            self.qwen, self.tokenizer, prompt, self.qwen.device, tokenizer_max_length=WORDS, crop_start=TEMPLATE
        )
        text_2, mask_2 = pipeline._get_byt5_prompt_embeds(
            self.tokenizer_2, self.byt5, prompt, self.byt5.device, tokenizer_max_length=QUOTED_WORDS
        )
        for part in (text, text_2):
            check_finite(part, prompt)
        return Conditioning({"text": text, "mask": mask.bool(), "text_2": text_2, "mask_2": mask_2.bool()})


class Hunyuan15:
    """Family of components/generator/family.py."""

    parts: Mapping[str, str] = MappingProxyType(
        {"transformer": "transformer", "text_encoder": "text encoder", "text_encoder_2": "ByT5's encoder", "vae": "VAE"}
    )
    float32_parts = frozenset({"vae"})
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    reads: tuple[str, ...] = ()
    original_name = staticmethod(no_original_name)
    pipeline_layout = staticmethod(own_layout)
    set_timesteps = staticmethod(hunyuan_timesteps)

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        configs = check_parts(folder, PARTS, ("tokenizer", "tokenizer_2"))
        same(folder, configs, ("transformer", "out_channels"), ("vae", "latent_channels"))
        same(folder, configs, ("transformer", "text_embed_dim"), ("text_encoder", "hidden_size"))
        same(folder, configs, ("transformer", "text_embed_2_dim"), ("text_encoder_2", "d_model"))
        own = configs["transformer"]
        if own.get("use_meanflow"):
            raise BadInput(folder / "transformer/config.json", "is a step-distilled model of two times", key="use_meanflow")
        if (there := own.get("in_channels")) != 2 * own["out_channels"] + 1:
            why = f"is {there}; latents, a condition and its mask are {2 * own['out_channels'] + 1}"
            raise BadInput(folder / "transformer/config.json", why, key="in_channels")

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> FolderGenerator:
        return generator_of(self, folder, coder, PARTS["vae"], lora, dtype)

    def load_text(self, folder: Path, dtype: Dtype) -> Hunyuan15Text:
        qwen, byt5 = (PARTS[part].on_device(folder / part, dtype) for part in ("text_encoder", "text_encoder_2"))
        first, second = (load_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
        text = Hunyuan15Text(qwen, first, byt5, second)
        check_effect(text, folder, {"text_encoder": (first, qwen), "text_encoder_2": (second, byt5)})
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
        told, x = conditioning.tensors, latents.to(transformer.x_embedder.proj.weight.dtype)
        with shapes_alone(latents):
            output = transformer(
                hidden_states=torch.cat([x, torch.zeros_like(x), torch.zeros_like(x[:, :1])], dim=1),
                timestep=(t * TIMESTEPS).to(x.dtype),
                encoder_hidden_states=told["text"].to(x.dtype),
                encoder_attention_mask=told["mask"].to(x.dtype),
                encoder_hidden_states_2=told["text_2"].to(x.dtype),
                encoder_attention_mask_2=told["mask_2"].to(x.dtype),
                image_embeds=x.new_zeros(len(x), IMAGE_TOKENS, transformer.config.image_embed_dim),
                return_dict=False,
            )[0]
        return output.to(latents.dtype)

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
        HunyuanVideoLoraLoaderMixin.save_lora_weights(
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
            "text_2": torch.empty(1, QUOTED_WORDS, models["text_encoder_2"].config.d_model, **new),
            "mask_2": torch.ones(1, QUOTED_WORDS, dtype=torch.bool, device="meta"),
        }
        return torch.empty(1, *coder(models["vae"]).shape(*size), **new), Conditioning(told)

    def passes(
        self, configs: dict[str, Any], models: dict[str, Network], clip: torch.Tensor, decoding: Decoding
    ) -> dict[str, Callable[[], object]]:
        tokens = torch.ones(1, WORDS + TEMPLATE, dtype=torch.long, device="meta")

        def encode() -> object:
            quoted = models["text_encoder_2"](tokens[:, :QUOTED_WORDS])[0]
            return models["text_encoder"](tokens, output_hidden_states=True), quoted

        return {"text_encoder": encode, "vae": drawn(coder(models["vae"]), clip, decoding)}

    def load_pipeline(self, folder: Path, **settings: Any) -> HunyuanVideo15Pipeline:
        return HunyuanVideo15Pipeline.from_pretrained(folder, **settings)

    def pipeline_conditioning(
        self, pipeline: HunyuanVideo15Pipeline, prompt: str | list[str], clips: int, **_: Any
    ) -> Conditioning:
        rows = 1 if isinstance(prompt, str) else len(prompt)
        dtype = pipeline.transformer.dtype
        found = pipeline.encode_prompt(prompt, pipeline._execution_device, dtype, rows, num_videos_per_prompt=clips)
        text, mask, text_2, mask_2 = found
        return Conditioning({"text": text, "mask": mask.bool(), "text_2": text_2, "mask_2": mask_2.bool()})

    def pipeline_velocity(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def pipeline_time(self, timestep: torch.Tensor) -> float:
        return float(timestep) / TIMESTEPS
