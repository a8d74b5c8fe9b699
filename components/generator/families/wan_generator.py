"""A loaded Wan generator: transformer, VAE, and what reads prompts and first frames.

Latents are the VAE's, normalised by its latents_mean and latents_std.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from PIL.Image import Image
from transformers import CLIPVisionModel

from components.config.types import WHOLE, Decoding
from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.families.wan_image import CHANNELS, FIRST, TOKENS, channels, grey_after, pixels_of
from components.generator.family import Network, TextEncoder, VelocityModel
from components.generator.pixels import clips_of, pixels
from components.runtime.microbatches import in_microbatches
from components.runtime.weights import load_pretrained

CLIPS = 16  # per VAE call on a core: smaller convolutions are slower and round differently


@dataclass(frozen=True)
class WanGenerator:
    """The parts of a WanPipeline. text: None where no prompt is to be encoded."""

    model: VelocityModel
    vae: Network  # an AutoencoderKLWan
    text: TextEncoder | None = None
    clip: tuple[CLIPVisionModel, Any] | None = None  # of an image-to-video pipeline of Wan 2.1
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    expand_timesteps: bool = False
    kept: Path | None = None  # of components/generator/images.py

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[C, T', H', W'] of a clip; BadInput for a size the VAE or the patches cannot divide."""
        transformer = self.model.transformer
        time, space = self.vae.config.scale_factor_temporal, self.vae.config.scale_factor_spatial
        patch = transformer.config.patch_size[1] * space
        if (frames - 1) % time or height % patch or width % patch:
            why = f"{frames} frames of {height}x{width}: frames must be {time}k+1, sides multiples of {patch}"
            raise BadInput("params.yaml", why, key="sampling")
        return self.vae.config.z_dim, (frames - 1) // time + 1, height // space, width // space

    def encode_text(self, prompts: list[str]) -> Conditioning:
        assert self.text is not None, "a generator for sampling gets encoded prompts by with_text"
        return self.text(prompts)

    def with_text(self, encoder: TextEncoder) -> "WanGenerator":
        return replace(self, text=encoder)

    def keeping(self, folder: Path) -> "WanGenerator":
        return replace(self, kept=folder)

    def encode_video(self, clips: np.ndarray) -> torch.Tensor:
        """uint8 [B, T, H, W, 3] to normalised latents (the mode of the posterior)."""
        raw = in_microbatches(self._encode, pixels(clips).to(self.vae.device), rows=CLIPS)
        return self._normalised(raw)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image], frames: int, height: int, width: int) -> Conditioning:
        """What the transformer reads of first frames, for clips of this size (wan_image.py). Each image goes alone."""
        return Conditioning.cat([self._encode_image(image, frames, height, width) for image in images])

    def _encode_image(self, image: Image, frames: int, height: int, width: int) -> Conditioning:
        first = pixels_of([image], height, width).to(self.vae.device)
        if self.expand_timesteps:
            return Conditioning({FIRST: self._normalised(self._encode(first[:, :, None]))})
        latents = self._normalised(self._encode(grey_after(first, frames)))
        found = {CHANNELS: channels(latents, self.vae.config.scale_factor_temporal)}
        if self.clip is not None:
            model, processor = self.clip
            given = processor(images=image, return_tensors="pt").to(model.device)
            found[TOKENS] = model(**given, output_hidden_states=True).hidden_states[-2]
        return Conditioning(found)

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

    def _normalised(self, raw: torch.Tensor) -> torch.Tensor:
        mean, std = self._statistics(raw)
        return (raw - mean) / std

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        config = self.vae.config
        mean, std = (like.new_tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        return mean, std


def load_clip(folder: Path) -> tuple[CLIPVisionModel, Any]:
    """The image encoder of a Wan 2.1 pipeline and its processor, in float32 as diffusers documents it."""
    from transformers import CLIPImageProcessor  # prints a line about torchvision

    model = load_pretrained(CLIPVisionModel, folder / "image_encoder")
    model.requires_grad_(False).eval().to(PartialState().device)
    return model, CLIPImageProcessor.from_pretrained(folder / "image_processor", local_files_only=True)


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
