"""What Qwen's vision-language models share, for the files of each.

transformers' vision towers attend to one frame, or one window, after the other, with a wait for the GPU before each layer.
Here sequences of one length are a batch: one call a layer for clips of like size, the same to the last bit on a CPU.
"""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import nn
from transformers.models.qwen2_vl.modeling_qwen2_vl import apply_rotary_pos_emb_vision

from components.reward.backbones.protocol import Positions, Sizes, Stack
from components.reward.inputs import Batch, PatchShape

VIDEO_TOKEN = "<|video_pad|>"
VISION = "model.visual."
EMBEDDING = "model.language_model.embed_tokens.weight"
ADAPTED = r".*language_model\..*"
VIDEO = 2  # the type of a video's tokens, where 0 is text and 1 an image
Run = tuple[int, int]  # sequences one after the other, and the patches of each


def current_name(name: str) -> str:
    """Folders and published checkpoints have transformers 4.45's names, or those of 4.52 and later, which hold still."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def patch_shape(config: Any) -> PatchShape:
    """config: of the whole model, as transformers reads it."""
    vision = config.vision_config
    return PatchShape(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)


def sizes(kind: Any, config: Any, vision_width: int, vision_inner: int) -> Sizes:
    """Of a model of class `kind`. vision_width, vision_inner: of the vision tower, whose configurations name them unlike."""
    with torch.device("meta"):
        model = kind(config).model
    text, visual = config.text_config, model.visual
    merger = weights(visual.merger) + sum(map(weights, getattr(visual, "deepstack_merger_list", ())))
    named = [(name, part) for name, part in model.language_model.named_modules() if isinstance(part, nn.Linear)]
    return Sizes(
        parameters=weights(model),
        patch_shape=patch_shape(config),
        vision=Stack(config.vision_config.depth, weights(visual) - merger, vision_width, vision_inner),
        merger=merger,
        language=Stack(
            text.num_hidden_layers, weights(model.language_model.layers), text.hidden_size, text.intermediate_size
        ),
        linear=tuple((name.rsplit(".", 1)[-1], part.in_features, part.out_features) for name, part in named),
    )


def weights(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def positions(network: Any, batch: Batch, video: torch.Tensor, kind: Positions, **more: Any) -> torch.Tensor:
    """[3, B, L]: by frame, row and column. more: what get_rope_index of the model takes besides."""
    rows, length = batch.input_ids.shape
    if kind == "plain":
        return torch.arange(length, device=video.device).expand(3, rows, length)
    kinds = video.int() * VIDEO
    return network.model.get_rope_index(batch.input_ids, kinds, video_grid_thw=batch.grid, **more)[0]


@dataclass(frozen=True)
class Sequences:
    """Patches that attend to one another and to no others. `runs` cover all of them: in their own order, or in that of the
    places `order` [N], from which the places `back` [N] lead again to their own."""

    runs: list[Run]
    order: torch.Tensor | None = None
    back: torch.Tensor | None = None


class RunAttention(nn.Module):
    """The attention of a Qwen vision tower over runs of sequences, with the weights and the results of transformers'."""

    qkv: nn.Linear
    proj: nn.Linear
    num_heads: int
    scaling: float
    windowed: bool

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        frames: Sequences,
        windows: Sequences | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """hidden_states [N, width], the patches of all frames. A windowed layer attends within `windows`, others within
        `frames`."""
        sequences = windows if self.windowed and windows else frames
        query, key, value = self.qkv(hidden_states).unflatten(1, (3, self.num_heads, -1)).unbind(1)  # [N, heads, dim]
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        states = (query, key, value)
        if sequences.order is not None:
            states = tuple(one[sequences.order] for one in states)
        attended = []
        lengths = [count * length for count, length in sequences.runs]
        for (count, _), *parts in zip(sequences.runs, *(one.split(lengths) for one in states), strict=True):
            batch = [part.unflatten(0, (count, -1)).transpose(1, 2) for part in parts]  # [count, heads, length, dim]
            out = nn.functional.scaled_dot_product_attention(*batch, scale=self.scaling)
            attended.append(out.transpose(1, 2).flatten(0, 1).flatten(1))
        joined = torch.cat(attended)
        return self.proj(joined if sequences.back is None else joined[sequences.back])


def attend_in_runs(visual: Any, full: tuple[int, ...] | None = None) -> None:
    """Give the vision tower this attention; its forward then needs `frames`, and `windows` where it has windowed layers.
    full: layers that are not windowed, by default all."""
    for place, block in enumerate(visual.blocks):
        block.attn.__class__ = RunAttention  # same weights under the same names
        block.attn.windowed = full is not None and place not in full


def frame_runs(grid: torch.Tensor) -> list[Run]:
    """Of grid [B, 3], the patches of each clip in time, height and width: clips of one frame size in a row are one run of
    frames (of `temporal` pictures each)."""
    sized = ((t, h * w) for t, h, w in grid.tolist())
    return [(sum(t for t, _ in clips), length) for length, clips in groupby(sized, key=lambda clip: clip[1])]


def in_frames(grid: torch.Tensor) -> Sequences:
    return Sequences(frame_runs(grid))


def in_windows(boundaries: torch.Tensor) -> Sequences:
    """Windows by their boundaries [windows + 1] among the patches; those of one length are one run."""
    lengths = boundaries.diff()
    sizes, which = lengths.unique(return_inverse=True)
    order = which.repeat_interleave(lengths).argsort(stable=True)
    runs = list(zip(which.bincount().tolist(), sizes.tolist(), strict=True))
    return Sequences(runs, order, order.argsort())
