"""LTX-2, its video: an LTX2Pipeline folder of diffusers.

The transformer draws a clip and its sound together; each reads the other. So latents [B, C + K, T', H', W'] have the sound's
tokens in their last K channels, filled up with zeros. The sound is drawn, with the video's guidance scale, and not kept;
alignment and reward guidance get no gradient from it. A clip of a file has the mean of all sounds. There is room for the
sound at SLOWEST frames a second or more.

Outputs are velocities, the timestep is 1000 t for both. The conditioning is `text` and `text_sound` [B, 1024, D] of Gemma 3
after the folder's connectors, their `mask`, and the clip's `fps`. Of the pipeline's guidance, only the classifier-free one
is here: its defaults add two more passes a step (`stg_scale`, `modality_scale`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLLTX2Video, LTX2Pipeline, LTX2VideoTransformer3DModel
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from torch import nn
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, PreTrainedTokenizerBase

from components.config.types import WHOLE, Decoding, Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.families.ltx import packed, unpacked
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
    load_blocks,
    no_original_name,
    padded,
    same,
    tile_by_stride,
    tile_side,
    tokens_of,
)
from components.generator.family import Layout, Network, TextEncoder
from components.runtime.weights import load_tokenizer

PARTS = {
    "transformer": Part(LTX2VideoTransformer3DModel),
    "text_encoder": Part(Gemma3ForConditionalGeneration, Gemma3Config),
    "connectors": Part(LTX2TextConnectors),
    "vae": Part(AutoencoderKLLTX2Video),
}
CONNECTORS = "text_encoder_connectors"  # the part `connectors` as the plan of memory names it: it reads prompts
WORDS = 1024  # tokens of a prompt
SIDE = 32  # the pipeline refuses other sizes, whatever the VAE
FPS = 24.0  # the pipeline's default
SLOWEST = 8.0  # frames a second


def coder(vae: Network) -> Coder:
    time, space = vae.temporal_compression_ratio, vae.spatial_compression_ratio
    std, channels = vae.latents_std / vae.config.scaling_factor, vae.config.latent_channels
    return Coder(vae, channels, time, space, max(SIDE, space), vae.latents_mean, std, tile_by_stride)


def check_tiles(own: Coder, tile: int, size: torch.Size) -> None:
    """BadInput where a last tile would be one latent wide and the VAE's padding reflects, for which it is too narrow."""
    side = tile_side(own.space, tile) // own.space
    if own.vae.config.decoder_spatial_padding_mode == "reflect" and any(
        (n - 1) % (side * 3 // 4) == 0 < n - 1 for n in size
    ):
        why = f"tiles of {side * own.space} pixels leave a last one of {own.space}, which this VAE cannot decode"
        raise BadInput("params.yaml", why, key="sampling.tile")


def sound_tokens(config: Any, latent_frames: int, fps: float) -> int:
    """Tokens of a clip's sound. config: of the transformer."""
    rate = config.audio_sampling_rate / config.audio_hop_length / config.audio_scale_factor
    return round(((latent_frames - 1) * config.vae_scale_factors[0] + 1) / fps * rate)


def room(config: Any, frames: int, height: int, width: int) -> int:
    """Channels of [T', H', W'] that hold the sound."""
    return math.ceil(sound_tokens(config, frames, SLOWEST) * config.audio_in_channels / (frames * height * width))


def sound_of(config: Any, latents: torch.Tensor, fps: torch.Tensor) -> torch.Tensor:
    """The sound's tokens [B, A, D], without gradients. BadInput where there is no room for them."""
    held = latents[:, config.in_channels :].detach().flatten(1)
    most = held.shape[1] // config.audio_in_channels
    tokens = most if latents.is_meta else sound_tokens(config, latents.shape[2], float(fps[0]))
    if tokens > most:
        raise BadInput("params.yaml", f"this family draws {SLOWEST:g} frames a second or more", key="sampling.fps")
    return held[:, : tokens * config.audio_in_channels].unflatten(1, (tokens, -1))


def with_sound(video: torch.Tensor, sound: torch.Tensor, channels: int) -> torch.Tensor:
    """Latents of video [B, C, T', H', W'] and the sound's tokens [B, A, D] in `channels` more."""
    held = video.new_zeros(len(video), channels, *video.shape[2:])
    held.view(len(video), -1)[:, : sound[0].numel()] = sound.flatten(1).to(video.dtype)
    return torch.cat([video, held], dim=1)


def ltx2_timesteps(scheduler: Any, steps: int, shape: tuple[int, ...]) -> None:
    """The pipeline's steps: a shift by the number of the video's tokens where the scheduler has one, then its last step."""
    if type(scheduler).__name__ != EULER:
        scheduler.set_timesteps(steps)
        return
    config = scheduler.config
    if steps == 1 and config.shift_terminal:
        why = "one step cannot end at the scheduler's shift_terminal; two can"
        raise BadInput("params.yaml", why, key="sampling.steps")
    ends = config.get("base_image_seq_len", 1024), config.get("max_image_seq_len", 4096)
    shift = calculate_shift(math.prod(shape[1:]), *ends, config.get("base_shift", 0.95), config.get("max_shift", 2.05))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)


@dataclass(frozen=True)
class LTX2Generator:
    """Generator of components/generator/family.py: a FolderGenerator of the video, with room for the sound."""

    video: FolderGenerator

    @property
    def model(self) -> Any:
        return self.video.model

    @property
    def scheduler(self) -> Mapping[str, Any]:
        return self.video.scheduler

    @property
    def _config(self) -> Any:
        return self.model.transformer.config

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        channels, *size = self.video.latent_shape(frames, height, width)
        return channels + room(self._config, *size), *size

    def encode_text(self, prompts: list[str]) -> Conditioning:
        return self.video.encode_text(prompts)

    def with_text(self, encoder: TextEncoder) -> "LTX2Generator":
        return replace(self, video=self.video.with_text(encoder))

    def encode_video(self, clips: np.ndarray) -> torch.Tensor:
        video = self.video.encode_video(clips)
        return with_sound(video, video.new_zeros(len(video), 0, 1), room(self._config, *video.shape[2:]))

    def decode(self, latents: torch.Tensor, decoding: Decoding = WHOLE) -> np.ndarray:
        if decoding.decode == "tiled":
            check_tiles(self.video.coder, decoding.tile, latents.shape[-2:])
        return self.video.decode(latents[:, : self._config.in_channels], decoding)


@dataclass(frozen=True)
class LTX2Text:
    """TextEncoder: `text`, `text_sound` and their `mask`, of all hidden states of Gemma, by the connectors."""

    model: Network
    connectors: Network
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, prompts: list[str]) -> Conditioning:
        return Conditioning.cat([self._embedded(prompt) for prompt in prompts])

    def _embedded(self, prompt: str) -> Conditioning:
        """One row. Each prompt goes alone, so that others do not change its rounding."""
        tokens = padded(self.tokenizer, [prompt.strip()], WORDS, padding_side="left").to(self.model.device)
        ids, mask = tokens.input_ids, tokens.attention_mask
        # Logits of a whole prompt would take half a gigabyte; none are read.
        found = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, logits_to_keep=1)
        hidden = torch.stack(found.hidden_states, dim=-1).flatten(2, 3)
        text, sound, mask = self.connectors(hidden, mask, padding_side="left")
        check_finite(text, prompt)
        return Conditioning({"text": text, "text_sound": sound, "mask": mask.bool()})


class LTX2:
    """Family of components/generator/family.py."""

    sound = True
    parts: Mapping[str, str] = MappingProxyType(
        {"transformer": "transformer", "text_encoder": "text encoder", CONNECTORS: "text connectors", "vae": "VAE"}
    )
    float32_parts = frozenset({"vae"})
    # The attention of the video's tokens; the sound's layers are named audio_attn1 and so on.
    lora_targets: tuple[str, ...] = tuple(
        f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")
    )
    reads: tuple[str, ...] = ("fps",)
    original_name = staticmethod(no_original_name)
    set_timesteps = staticmethod(ltx2_timesteps)

    def check_folder(self, folder: Path, index: dict[str, Any], key: str | None) -> None:
        configs = check_parts(folder, PARTS, ("tokenizer",))
        same(folder, configs, ("transformer", "in_channels"), ("vae", "latent_channels"))
        with torch.device("meta"):
            vae: Network = PARTS["vae"].new(configs["vae"])
            transformer: Network = PARTS["transformer"].new({**configs["transformer"], "num_layers": 0})
        of_vae = vae.temporal_compression_ratio, vae.spatial_compression_ratio, vae.spatial_compression_ratio
        if (there := tuple(transformer.config.vae_scale_factors)) != of_vae:
            why = f"is {list(there)}, and the vae has {list(of_vae)} frames and pixels a latent: parts of two models"
            raise BadInput(folder / "transformer/config.json", why, key="vae_scale_factors")
        for name in ("patch_size", "patch_size_t"):
            if configs["transformer"].get(name, 1) != 1:
                raise BadInput(folder / "transformer/config.json", "one latent a token is read", key=name)
        if configs["vae"].get("timestep_conditioning"):
            raise BadInput(folder / "vae/config.json", "a VAE with a noise level is not read", key="timestep_conditioning")
        hidden = configs["text_encoder"]["text_config"]["hidden_size"]
        if (there := configs["connectors"].get("caption_channels")) != hidden:
            why = f"is {there}, and text_encoder's hidden_size is {hidden}: parts of two models"
            raise BadInput(folder / "connectors/config.json", why, key="caption_channels")

    def load(self, folder: Path, lora: str | Path | None, dtype: Dtype) -> LTX2Generator:
        return LTX2Generator(generator_of(self, folder, coder, PARTS["vae"], lora, dtype))

    def load_text(self, folder: Path, dtype: Dtype) -> LTX2Text:
        model = PARTS["text_encoder"].on_device(folder / "text_encoder", dtype)
        connectors = PARTS["connectors"].on_device(folder / "connectors", dtype)
        text = LTX2Text(model, connectors, load_tokenizer(folder / "tokenizer"))
        check_effect(text, folder, {"text_encoder": (text.tokenizer, model)})
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
        told, config, dtype = conditioning.tensors, transformer.config, transformer.proj_in.weight.dtype
        video, sound = latents[:, : config.in_channels], sound_of(config, latents, told["fps"])
        frames, height, width = latents.shape[2:]
        output, of_sound = transformer(
            hidden_states=packed(video).to(dtype),
            audio_hidden_states=sound.to(dtype),
            encoder_hidden_states=told["text"].to(dtype),
            audio_encoder_hidden_states=told["text_sound"].to(dtype),
            timestep=t * TIMESTEPS,
            sigma=t * TIMESTEPS,
            encoder_attention_mask=told["mask"],
            audio_encoder_attention_mask=told["mask"],
            num_frames=frames,
            height=height,
            width=width,
            fps=told["fps"].view(-1, 1, 1),
            audio_num_frames=sound.shape[1],
            use_cross_timestep=True,
            return_dict=False,
        )
        drawn_video = unpacked(output, latents.shape).to(latents.dtype)
        return with_sound(drawn_video, of_sound.detach(), latents.shape[1] - config.in_channels)

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
        LTX2Pipeline.save_lora_weights(folder, transformer_lora_layers={**weights}, transformer_lora_adapter_metadata=config)

    def read_configs(self, folder: Path) -> dict[str, Any]:
        found = {part: read_json(folder / part / "config.json") for part in PARTS}
        return found | {CONNECTORS: found["connectors"]}

    def untrained(self, part: str, configs: dict[str, Any]) -> nn.Module:
        return PARTS["connectors" if part == CONNECTORS else part].new(configs[part])

    def example(
        self, configs: dict[str, Any], models: dict[str, Network], size: tuple[int, int, int]
    ) -> tuple[torch.Tensor, Conditioning]:
        transformer, own = models["transformer"].config, models[CONNECTORS]
        new: dict[str, Any] = {"device": "meta", "dtype": models["transformer"].dtype}
        text, sound = (torch.empty(1, WORDS, part.inner_dim, **new) for part in (own.video_connector, own.audio_connector))
        mask, fps = torch.ones(1, WORDS, dtype=torch.bool, device="meta"), torch.ones(1, device="meta")
        channels, *latents = coder(models["vae"]).shape(*size)
        clip = torch.empty(1, channels + room(transformer, *latents), *latents, **new)
        return clip, Conditioning({"text": text, "text_sound": sound, "mask": mask, "fps": fps})

    def passes(
        self, configs: dict[str, Any], models: dict[str, Network], clip: torch.Tensor, decoding: Decoding
    ) -> dict[str, Callable[[], object]]:
        tokens = torch.ones(1, WORDS, dtype=torch.long, device="meta")

        def encode() -> object:
            found = models["text_encoder"](tokens, output_hidden_states=True, logits_to_keep=1)
            return models[CONNECTORS](torch.stack(found.hidden_states, dim=-1).flatten(2, 3), tokens)

        video = clip[:, : models["transformer"].config.in_channels]
        return {"text_encoder": encode, "vae": drawn(coder(models["vae"]), video, decoding)}

    def load_pipeline(self, folder: Path, **settings: Any) -> LTX2Pipeline:
        return LTX2Pipeline.from_pretrained(folder, **settings)

    def pipeline_conditioning(
        self,
        pipeline: LTX2Pipeline,
        prompt: str | list[str],
        clips: int,
        max_sequence_length: int = WORDS,
        frame_rate: float = FPS,
        **_: Any,
    ) -> Conditioning:
        device: Any = pipeline._execution_device
        found = pipeline.encode_prompt(prompt, None, False, clips, max_sequence_length=max_sequence_length, device=device)
        text, sound, mask = pipeline.connectors(found[0], found[1], padding_side="left")
        fps = torch.full((len(text),), float(frame_rate), device=text.device)
        return Conditioning({"text": text, "text_sound": sound, "mask": mask.bool(), "fps": fps})

    def pipeline_layout(
        self, pipeline: LTX2Pipeline, height: int = 512, width: int = 768, num_frames: int = 121, **_: Any
    ) -> tuple[Layout, Layout]:
        """Of the video alone. The pipeline's own latents are not normalised."""
        own = coder(pipeline.vae)
        shape = torch.Size((1, *own.shape(num_frames, height, width)))

        def read(latents: torch.Tensor) -> torch.Tensor:
            if latents.ndim == 3:
                return unpacked(latents, shape)
            mean, std = (value.to(latents).view(1, -1, 1, 1, 1) for value in (own.mean, own.std))
            return (latents - mean) / std

        return lambda latents: packed(latents[:, : own.channels]), read

    def pipeline_velocity(self, output: torch.Tensor) -> torch.Tensor:
        return output

    def pipeline_time(self, timestep: torch.Tensor) -> float:
        return float(timestep) / TIMESTEPS
