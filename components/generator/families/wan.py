"""Wan 2.1 and Wan 2.2: a WanPipeline folder of diffusers. A14B has two transformers (wan_experts.py).

A transformer's output is the velocity, its timestep is 1000 t. Latents are the VAE's, normalised by its latents_mean and
latents_std. The conditioning is `text` [B, L, D]: UMT5's embeddings, zero-padded, without a mask.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import PartialState
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from components.config.types import Decoding, Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.families.wan_experts import PARTS as EXPERTS
from components.generator.families.wan_experts import WanExperts, lora_files
from components.generator.families.wan_folder import boundary_of, check_text_encoder, check_wan_folder
from components.generator.families.wan_generator import WanGenerator, load_clip, tile_side
from components.generator.families.wan_image import (
    CHANNELS,
    FIRST,
    TIMESTEPS,
    TOKENS,
    inputs,
    with_first,
    with_known_first,
)
from components.generator.families.wan_lora import wan_name
from components.generator.families.wan_pipeline import ShortTextWanPipeline
from components.generator.families.wan_text import LONGEST_TEXT, WanText
from components.generator.family import (
    HIGH_NOISE,
    SECOND_PART,
    Network,
    Pipeline,
    VelocityModel,
    check_blocks,
    own_layout,
    plain_timesteps,
)
from components.generator.lora import apply_lora
from components.generator.lora_file import read_lora
from components.generator.parts import read_scheduler
from components.runtime.weights import load_pretrained, load_tokenizer

CLIP_TOKENS = 257  # of an image of 224 x 224 in patches of 14, and one for all of it
IMAGE_PIPELINE = "WanImageToVideoPipeline"


class Wan:
    """Family of components/generator/family.py. boundary: the noise level below which transformer_2 acts, of a pipeline with
    two transformers; None with one. image: a first frame is given. expand_timesteps: it takes the place of the latents' own,
    at timestep 0 (TI2V-5B)."""

    float32_parts = frozenset({"vae"})
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    reads: tuple[str, ...] = ()
    set_timesteps = staticmethod(plain_timesteps)
    pipeline_layout = staticmethod(own_layout)

    def __init__(self, boundary: float | None = None, image: bool = False, expand_timesteps: bool = False):
        self.boundary, self.image, self.expand_timesteps = boundary, image, expand_timesteps
        second = {} if boundary is None else {SECOND_PART: "transformer 2"}
        self.parts: Mapping[str, str] = MappingProxyType(
            {"transformer": "transformer", **second, "text_encoder": "text encoder", "vae": "VAE"}
        )

    def variant(self, index: Mapping[str, Any]) -> "Wan":
        image, expand = index.get("_class_name") == IMAGE_PIPELINE, bool(index.get("expand_timesteps"))
        return Wan(boundary_of(index), image, expand)

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        check_wan_folder(folder, index)

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> WanGenerator:
        vae = load_pretrained(AutoencoderKLWan, folder / "vae")
        vae.requires_grad_(False).eval().to(PartialState().device)
        transformer = self._load_tuned(folder, lora, dtype)
        clip = load_clip(folder) if self.image and transformer.config.image_dim is not None else None
        model, scheduler = VelocityModel(self, transformer).eval(), read_scheduler(folder)
        return WanGenerator(model, vae, clip=clip, scheduler=scheduler, expand_timesteps=self.expand_timesteps)

    def _load_tuned(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> Network:
        """The transformer with a LoRA, or that of two which acts first; it reads the other when that one's steps begin."""
        device = PartialState().device
        if self.boundary is None:
            transformer = self.load_transformer(folder, dtype)
            if lora is not None:
                apply_lora(transformer, lora, dtype == "float32", self.original_name)
            return transformer.requires_grad_(False).eval().to(device)
        files = {} if lora is None else lora_files(Path(lora))
        with torch.device("meta"):
            shapes = self.untrained("transformer", self.read_configs(folder))
        for file in files.values():  # a LoRA that cannot be applied is no surprise in the middle of a clip
            read_lora(file, shapes, self.original_name)

        def read(expert: str) -> Network:
            transformer = self._read_transformer(folder / EXPERTS[expert], dtype)
            if expert in files:
                apply_lora(transformer, files[expert], dtype == "float32", self.original_name)
            return transformer.requires_grad_(False).eval().to(device)

        return WanExperts(self.boundary, {HIGH_NOISE: read(HIGH_NOISE)}, read)

    def load_text(self, folder: Path, dtype: Dtype) -> WanText:
        model = load_pretrained(UMT5EncoderModel, folder / "text_encoder", getattr(torch, dtype))
        tokenizer = load_tokenizer(folder / "tokenizer")
        model.requires_grad_(False).eval().to(PartialState().device)
        check_text_encoder(model, tokenizer, folder)
        return WanText(model, tokenizer)

    def load_transformer(self, folder: Path, dtype: Dtype) -> Network:
        if self.boundary is not None:
            return self.load_experts(folder, dtype, tuple(EXPERTS))
        return self._read_transformer(folder / "transformer", dtype)

    def load_experts(self, folder: Path, dtype: Dtype, experts: Sequence[str]) -> WanExperts:
        assert self.boundary is not None
        return WanExperts(self.boundary, {name: self._read_transformer(folder / EXPERTS[name], dtype) for name in experts})

    def load_trunk(self, folder: Path, blocks: int, dtype: Dtype) -> Network:
        return self.load_trunk_of(folder, HIGH_NOISE, blocks, dtype)

    def load_trunk_of(self, folder: Path, expert: str, blocks: int, dtype: Dtype) -> Network:
        part = folder / EXPERTS[expert]
        check_blocks(blocks, read_json(part / "config.json", "num_layers")["num_layers"])
        later = rf"blocks\.(?!({'|'.join(map(str, range(blocks)))})\.)"
        trunk = self._read_transformer(part, dtype, unread=later, num_layers=blocks)
        self.cut(trunk, blocks)
        return trunk

    def _read_transformer(self, part: Path, dtype: Dtype, unread: str | None = None, **config: Any) -> Network:
        logging.set_verbosity(logging.CRITICAL)  # load_pretrained reports wrong tensors in one line
        kind = getattr(torch, dtype)
        transformer = load_pretrained(WanTransformer3DModel, part, kind, unread, **config)
        return transformer.requires_grad_(False).eval()

    def velocity(
        self, transformer: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        if isinstance(transformer, WanExperts):
            return transformer(self.velocity, latents, t, conditioning)
        dtype, tensors = input_dtype(transformer), conditioning.tensors
        x, timestep, tokens = inputs(tensors, latents, t, transformer.config.patch_size)
        images = None if tokens is None else tokens.to(dtype)
        output = transformer(x.to(dtype), timestep, tensors["text"].to(dtype), images, return_dict=False)[0]
        velocity = output.to(latents.dtype)
        return with_known_first(velocity, latents, t, tensors[FIRST]) if FIRST in tensors else velocity

    def finish(self, latents: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        first = conditioning.tensors.get(FIRST)
        return latents if first is None else with_first(latents, first)

    def blocks(self, transformer: Network) -> nn.ModuleList:
        return transformer.blocks

    def cut(self, trunk: Network, blocks: int) -> None:
        trunk.blocks = trunk.blocks[:blocks]
        del trunk.norm_out, trunk.proj_out
        trunk.scale_shift_table = None  # of the output layer

    def tokens(self, trunk: Network, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The transformer's forward without its output layer."""
        dtype, tensors = input_dtype(trunk), conditioning.tensors
        x, timestep, images = inputs(tensors, latents, t, trunk.config.patch_size)
        x, text = x.to(dtype), tensors["text"].to(dtype)
        rotary = trunk.rope(x)
        tokens = trunk.patch_embedding(x).flatten(2).transpose(1, 2).contiguous()
        length = timestep.shape[1] if timestep.ndim == 2 else None
        images = None if images is None else images.to(dtype)
        _, modulation, context, extra = trunk.condition_embedder(timestep.flatten(), text, images, timestep_seq_len=length)
        modulation = modulation.unflatten(-1, (6, -1))
        context = context if extra is None else torch.cat([extra, context], dim=1)
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
            SECOND_PART: WanTransformer3DModel.from_config,
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
        found = {"text": torch.empty(1, *words, **new)}
        if self.image and self.expand_timesteps:
            found[FIRST] = torch.empty(1, vae.z_dim, 1, *shape[1:], **new)
        elif self.image:
            found[CHANNELS] = torch.empty(1, time + vae.z_dim, *shape, **new)
        if self.image and transformer.config.image_dim is not None:
            found[TOKENS] = torch.empty(1, CLIP_TOKENS, transformer.config.image_dim, **new)
        return torch.empty(1, vae.z_dim, *shape, **new), Conditioning(found)

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

    def load_pipeline(self, folder: Path, **settings: Any) -> Pipeline:
        if self.image:
            from diffusers import WanImageToVideoPipeline  # prints a line about torchvision

            return WanImageToVideoPipeline.from_pretrained(folder, **settings)
        return ShortTextWanPipeline.from_pretrained(folder, **settings)

    def pipeline_conditioning(
        self, pipeline: WanPipeline, prompt: str | list[str], clips: int, max_sequence_length: int = LONGEST_TEXT, **_: Any
    ) -> Conditioning:
        if self.image:
            raise BadInput("FlowNRGPipeline", "guides text-to-video alone; `reelign generate --image --guide` guides both")
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
