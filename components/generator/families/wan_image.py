"""The first frame that an image-to-video pipeline of Wan is given, as tensors of the conditioning.

| pipeline | tensors | what the transformer reads |
|---|---|---|
| Wan 2.1 14B | `image_channels` [B, 4 + C, T', H', W'], `image_tokens` [B, N, D] | both, and CLIP's tokens before text's |
| Wan 2.2 A14B | `image_channels` | latents and channels |
| Wan 2.2 TI2V-5B | `image_first` [B, C, 1, H', W'] | latents with this first frame, whose tokens are at timestep 0 |

The channels are a mask, 1 in the first latent frame, and the latents of a clip that is mid-grey after the image.
"""

from collections.abc import Mapping, Sequence

import torch
from diffusers.video_processor import VideoProcessor
from PIL.Image import Image

CHANNELS, TOKENS, FIRST = "image_channels", "image_tokens", "image_first"
TIMESTEPS = 1000  # the transformer's timestep is 1000 t
LEAST = 1e-3  # t of a division
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def inputs(tensors: Mapping[str, torch.Tensor], latents: torch.Tensor, t: torch.Tensor, patch: Sequence[int]) -> Inputs:
    """What the transformer takes at x_t [B, C, T', H', W'] and t [B]: its latents, its timestep [B], or [B, tokens] where a
    first frame is given, and CLIP's tokens. patch: frames, rows and columns of a token."""
    timestep = t * TIMESTEPS
    if CHANNELS in tensors:
        latents = torch.cat([latents, tensors[CHANNELS].to(latents.dtype)], dim=1)
    if FIRST in tensors:
        latents = with_first(latents, tensors[FIRST])
        frames, rows, columns = (size // own for size, own in zip(latents.shape[2:], patch, strict=True))
        own = timestep[:, None, None].expand(-1, frames, rows * columns).clone()
        own[:, 0] = 0
        timestep = own.flatten(1)
    return latents, timestep, tensors.get(TOKENS)


def with_first(latents: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Latents whose first frame is the image's."""
    return torch.cat([first.to(latents.dtype), latents[:, :, 1:]], dim=2)


def with_known_first(velocity: torch.Tensor, latents: torch.Tensor, t: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """The velocity where the first frame's clean latents are known: (x_t - x0) / t there, for every model the same, so that
    it has no part in a loss. The pipeline never uses the transformer's."""
    known = (latents[:, :, :1] - first.to(latents.dtype)) / t.clamp(min=LEAST).view(-1, 1, 1, 1, 1)
    return torch.cat([known.to(velocity.dtype), velocity[:, :, 1:]], dim=2)


def pixels_of(images: Sequence[Image], height: int, width: int) -> torch.Tensor:
    """[B, 3, H, W] in [-1, 1], resized as the pipeline does."""
    return VideoProcessor(vae_scale_factor=1).preprocess(list(images), height=height, width=width).float()


def grey_after(first: torch.Tensor, frames: int) -> torch.Tensor:
    """[B, 3, frames, H, W]: images [B, 3, H, W], then mid-grey frames."""
    return torch.cat([first[:, :, None], first.new_zeros(*first.shape[:2], frames - 1, *first.shape[2:])], dim=2)


def channels(latents: torch.Tensor, each: int) -> torch.Tensor:
    """The mask, with a channel for each of the `each` frames of a latent frame, before the latents of `grey_after`."""
    mask = latents.new_zeros(len(latents), each, *latents.shape[2:])
    mask[:, :, 0] = 1
    return torch.cat([mask, latents], dim=1)
