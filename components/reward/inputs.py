"""From decoded frames to what Qwen2-VL's vision tower reads, the same in training, scoring and serving.

Equal to transformers' Qwen2VLVideoProcessor, which cannot be used here: it needs torchvision, which has no CPU build.
"""

from dataclasses import dataclass

import numpy as np
import torch

# Of CLIP, as in Qwen2-VL's preprocessor_config.json.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class PatchShape:
    """How a Qwen2-VL cuts videos up: patches of `temporal` x `size` x `size`, `merge` x `merge` of them to a token."""

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


def patches(frames: np.ndarray, shape: PatchShape) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Patches of a video of already fitting size: [T, H, W, 3] uint8 -> ([N, 3 * temporal * size * size], (t, h, w)).

    Within a patch the order is channel, frame, row, column; patches of one merged token stand together. The last frame
    is repeated where T is no multiple of `temporal`. (t, h, w) counts patches, so N = t * h * w.
    """
    count, height, width = frames.shape[:3]
    if height % shape.factor or width % shape.factor:
        raise ValueError(f"frames of {width} x {height} px are no multiple of {shape.factor}")
    # A copy: torch warns of arrays that may not be written to, as those of a memory map.
    video = torch.from_numpy(np.array(frames, order="C")).permute(0, 3, 1, 2).float()
    video = (video * (1 / 255) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    if missing := -count % shape.temporal:
        video = torch.cat([video, video[-1:].expand(missing, -1, -1, -1)])
    t, h, w = len(video) // shape.temporal, height // shape.size, width // shape.size
    m, s = shape.merge, shape.size
    cut = video.view(t, shape.temporal, 3, h // m, m, s, w // m, m, s)
    cut = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return cut.reshape(t * h * w, -1), (t, h, w)


@dataclass
class Batch:
    """Inputs of a forward pass. input_ids [B, L], padded on the right; pixels [sum of N, dim]; grid [B, 3]."""

    input_ids: torch.Tensor
    pixels: torch.Tensor
    grid: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.input_ids.to(device), self.pixels.to(device), self.grid.to(device))


def collate(ids: list[list[int]], videos: list[np.ndarray], shape: PatchShape, pad_id: int) -> Batch:
    """Join inputs of any length and size. No attention mask is made: attention is causal and the padding comes last,
    so nothing that is read out ever sees it."""
    length = max(map(len, ids))
    input_ids = torch.tensor([row + [pad_id] * (length - len(row)) for row in ids])
    pixels, grids = zip(*(patches(video, shape) for video in videos), strict=True)
    return Batch(input_ids, torch.cat(pixels), torch.tensor(grids))
