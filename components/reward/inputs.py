"""From decoded frames to what a backbone's vision tower reads, the same in training, scoring and serving.

Equal to transformers' video processors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, which cannot be used here: they need
torchvision, which has no CPU build.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch


@dataclass(frozen=True)
class Clip:
    """A video in memory: frames [T, H, W, 3] uint8 RGB at `fps` frames a second. `times` [T]: the second of the video that
    each was chosen at; None where none was left out, and frame k is at k / fps."""

    frames: np.ndarray
    fps: float
    times: tuple[float, ...] | None = None

    @property
    def seconds(self) -> tuple[float, ...]:
        """The second of the video that each frame is at, [T]."""
        return self.times or tuple(place / self.fps for place in range(len(self.frames)))


Input = tuple[list[int], Clip]  # token ids, planned frames


@dataclass(frozen=True)
class PixelStatistics:
    """Mean and standard deviation of red, green and blue in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class PatchShape:
    """How a backbone cuts videos up: patches of `temporal` x `size` x `size`, `merge` x `merge` of them to a token."""

    size: int
    temporal: int
    merge: int

    @property
    def factor(self) -> int:
        """Height and width of a frame must be multiples of this (px)."""
        return self.size * self.merge

    def tokens(self, frames: int, height: int, width: int) -> int:
        """How many tokens a video of this size takes in the language model."""
        return -(-frames // self.temporal) * (height // self.factor) * (width // self.factor)


def patches(clips: np.ndarray, shape: PatchShape, pixels: PixelStatistics) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Patches of clips of one fitting size: [B, T, H, W, 3] uint8 -> ([B * N, 3 * temporal * size * size], (t, h, w)).

    Within a patch the order is channel, frame, row, column; patches of one merged token stand together. The last frame
    is repeated where T is no multiple of `temporal`. (t, h, w) counts the patches of a clip, so N = t * h * w.
    """
    count, frames, height, width = clips.shape[:4]
    if height % shape.factor or width % shape.factor:
        raise ValueError(f"frames of {width} x {height} px are no multiple of {shape.factor}")
    video = torch.from_numpy(clips).permute(0, 1, 4, 2, 3).float()
    video.mul_(1 / 255).sub_(torch.tensor(pixels.mean).view(3, 1, 1)).div_(torch.tensor(pixels.std).view(3, 1, 1))
    if missing := -frames % shape.temporal:
        video = torch.cat([video, video[:, -1:].expand(-1, missing, -1, -1, -1)], dim=1)
    t, h, w = video.shape[1] // shape.temporal, height // shape.size, width // shape.size
    m, s = shape.merge, shape.size
    cut = video.reshape(count, t, shape.temporal, 3, h // m, m, s, w // m, m, s)
    cut = cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return cut.reshape(count * t * h * w, -1), (t, h, w)


def joined_patches(
    videos: Sequence[np.ndarray], shape: PatchShape, pixels: PixelStatistics
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of videos [T, H, W, 3] of any length and size, one after the other, and the grid [B, 3] of each."""
    parts, grid = [], []
    for _, like in groupby(videos, key=np.shape):
        clips = np.stack(list(like))  # also a copy: torch warns of arrays that may not be written to, as of a memory map
        some, size = patches(clips, shape, pixels)
        parts.append(some)
        grid += [size] * len(clips)
    return torch.cat(parts), torch.tensor(grid)


@dataclass
class Batch:
    """Inputs of a forward pass. input_ids [B, L], padded on the right; pixels [sum of N, dim]; grid [B, 3], patches of each
    clip in time, height and width; fps [B] float64, planned frames a second."""

    input_ids: torch.Tensor
    pixels: torch.Tensor
    grid: torch.Tensor
    fps: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device) for tensor in (self.input_ids, self.pixels, self.grid, self.fps)))


def collate(inputs: Sequence[Input], shape: PatchShape, pixels: PixelStatistics, pad_id: int) -> Batch:
    """Join inputs of any length and size. No attention mask is made: attention is causal and the padding comes last,
    so nothing that is read out ever sees it."""
    length = max(len(ids) for ids, _ in inputs)
    input_ids = torch.tensor([ids + [pad_id] * (length - len(ids)) for ids, _ in inputs])
    fps = torch.tensor([clip.fps for _, clip in inputs], dtype=torch.float64)
    return Batch(input_ids, *joined_patches([clip.frames for _, clip in inputs], shape, pixels), fps)
