"""The attention of Qwen2-VL's vision tower, in which the patches of a frame see one another and no others.

transformers attends to one frame after the other, with a wait for the GPU before each layer. Here frames of one size are a
batch: one call a layer for clips of like size, the same to the last bit on a CPU.
"""

from itertools import groupby
from typing import Any

import torch
from torch import nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention, apply_rotary_pos_emb_vision

Run = tuple[int, int]  # frames (of `temporal` pictures each) one after the other that have so many patches each


class FrameAttention(VisionAttention):
    """VisionAttention with its weights and its results."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        runs: list[Run],
        **_: Any,
    ) -> torch.Tensor:
        """hidden_states [N, width], the patches of all frames; runs cover them in order."""
        query, key, value = self.qkv(hidden_states).unflatten(1, (3, self.num_heads, -1)).unbind(1)  # [N, heads, dim]
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        attended = []
        sizes = [frames * length for frames, length in runs]
        for (frames, _), *parts in zip(runs, *(states.split(sizes) for states in (query, key, value)), strict=True):
            batch = [part.unflatten(0, (frames, -1)).transpose(1, 2) for part in parts]  # [frames, heads, length, dim]
            out = nn.functional.scaled_dot_product_attention(*batch, scale=self.scaling)
            attended.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
        return self.proj(torch.cat(attended))


def attend_by_frame(visual: nn.Module) -> None:
    """Give the vision tower this attention; its forward then wants `runs`."""
    for block in visual.blocks:
        block.attn.__class__ = FrameAttention  # same weights under the same names


def frame_runs(grid: torch.Tensor) -> list[Run]:
    """Of grid [B, 3], the patches of each clip in time, height and width: clips of one frame size in a row are one run."""
    sized = ((t, h * w) for t, h, w in grid.tolist())
    return [(sum(t for t, _ in clips), length) for length, clips in groupby(sized, key=lambda clip: clip[1])]
