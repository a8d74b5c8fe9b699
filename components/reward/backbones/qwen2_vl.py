"""Qwen2-VL, the backbone of the published VideoReward (https://arxiv.org/abs/2409.12191).

transformers' vision tower attends to one frame after the other, with a wait for the GPU before each layer. Here frames of
one size are a batch: one call a layer for clips of like size, the same to the last bit on a CPU.
"""

from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import VisionAttention, apply_rotary_pos_emb_vision

from components.config.types import Dtype
from components.reward.backbones.protocol import Positions, Sizes, Stack
from components.reward.inputs import Batch, PatchShape, PixelStatistics
from components.runtime.weights import load_pretrained

Run = tuple[int, int]  # frames (of `temporal` pictures each) one after the other that have so many patches each


class Qwen2VL:
    """Qwen2VLForConditionalGeneration as a Backbone (protocol.py)."""

    # Of CLIP, as in Qwen2-VL's preprocessor_config.json.
    pixels: ClassVar[PixelStatistics] = PixelStatistics(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )
    video_token: ClassVar[str] = "<|video_pad|>"
    vision: ClassVar[str] = "model.visual."
    embedding: ClassVar[str] = "model.language_model.embed_tokens.weight"
    adapted: ClassVar[str] = r".*language_model\..*"
    fsdp_classes: ClassVar[tuple[str, ...]] = ("Qwen2VLDecoderLayer", "Qwen2VLVisionBlock")

    def __init__(self, network: Qwen2VLForConditionalGeneration):
        attend_by_frame(network.model.visual)
        self.network: Any = network  # transformers' types of its configuration and inputs are wrong

    @classmethod
    def load(cls, folder: Path, dtype: Dtype) -> Self:
        return cls(load_pretrained(Qwen2VLForConditionalGeneration, folder, getattr(torch, dtype)))

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> Sizes:
        whole: Any = Qwen2VLConfig(**config)
        with torch.device("meta"):
            model = Qwen2VLForConditionalGeneration(whole).model
        text, vision, merger = whole.text_config, whole.vision_config, _weights(model.visual.merger)
        tower, layers = _weights(model.visual) - merger, _weights(model.language_model.layers)
        named = [(name, part) for name, part in model.language_model.named_modules() if isinstance(part, nn.Linear)]
        return Sizes(
            parameters=_weights(model),
            patch_shape=_patch_shape(whole),
            vision=Stack(vision.depth, tower, vision.embed_dim, int(vision.mlp_ratio * vision.embed_dim)),
            merger=merger,
            language=Stack(text.num_hidden_layers, layers, text.hidden_size, text.intermediate_size),
            linear=tuple((name.rsplit(".", 1)[-1], part.in_features, part.out_features) for name, part in named),
        )

    @staticmethod
    def current_name(name: str) -> str:
        """Published checkpoints have transformers 4.45's names, or those of 4.52 and later, which hold still."""
        if name.startswith("visual."):
            return f"model.{name}"
        if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
            return f"model.language_model.{name.removeprefix('model.')}"
        return name

    @property
    def patch_shape(self) -> PatchShape:
        return _patch_shape(self.network.config)

    @property
    def hidden_size(self) -> int:
        return self.network.config.text_config.hidden_size

    @property
    def max_tokens(self) -> int:
        return self.network.config.text_config.max_position_embeddings

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return self.network.model.language_model.embed_tokens(ids)

    def embed_video(self, batch: Batch) -> torch.Tensor:
        visual = self.network.model.visual
        return visual(batch.pixels.to(visual.dtype), grid_thw=batch.grid, runs=frame_runs(batch.grid)).pooler_output

    def positions(self, batch: Batch, video: torch.Tensor, kind: Positions) -> torch.Tensor:
        """[3, B, L]: by frame, row and column. Frames count by their number, not by time."""
        rows, length = batch.input_ids.shape
        if kind == "plain":
            return torch.arange(length, device=video.device).expand(3, rows, length)
        kinds = video.int() * 2  # 0 text, 1 image, 2 video
        return self.network.model.get_rope_index(batch.input_ids, kinds, video_grid_thw=batch.grid)[0]

    def hidden_states(self, embedded: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        language = self.network.model.language_model
        return language(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state


def _patch_shape(config: Any) -> PatchShape:
    """config: a Qwen2VLConfig."""
    vision = config.vision_config
    return PatchShape(vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size)


def _weights(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


class FrameAttention(VisionAttention):
    """VisionAttention, in which the patches of a frame see one another and no others, with its weights and its results."""

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


def attend_by_frame(visual: Any) -> None:
    """Give the vision tower this attention; its forward then needs `runs`."""
    for block in visual.blocks:
        block.attn.__class__ = FrameAttention  # same weights under the same names


def frame_runs(grid: torch.Tensor) -> list[Run]:
    """Of grid [B, 3], the patches of each clip in time, height and width: clips of one frame size in a row are one run."""
    sized = ((t, h * w) for t, h, w in grid.tolist())
    return [(sum(t for t, _ in clips), length) for length, clips in groupby(sized, key=lambda clip: clip[1])]
