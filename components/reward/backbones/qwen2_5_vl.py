"""Qwen2.5-VL (https://arxiv.org/abs/2502.13923).

Beside Qwen2-VL: most layers of the vision tower attend within windows of a frame, its norms and feed-forward parts are those
of the language model, and multimodal positions count time in seconds.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import get_vision_window_index

from components.config.types import Dtype
from components.reward.backbones import qwen
from components.reward.backbones.protocol import Positions, Sizes, VideoFeatures
from components.reward.inputs import Batch, Clip, PatchShape, PixelStatistics
from components.runtime.weights import load_pretrained


class Qwen25VL:
    """Qwen2_5_VLForConditionalGeneration as a Backbone (protocol.py)."""

    # Of CLIP, as in its preprocessor_config.json.
    pixels: ClassVar[PixelStatistics] = PixelStatistics(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )
    video_token: ClassVar[str] = qwen.VIDEO_TOKEN
    vision: ClassVar[str] = qwen.VISION
    embedding: ClassVar[str] = qwen.EMBEDDING
    adapted: ClassVar[str] = qwen.ADAPTED  # by full path: the vision tower has gate_proj, up_proj and down_proj, too
    fsdp_classes: ClassVar[tuple[str, ...]] = ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")

    def __init__(self, network: Qwen2_5_VLForConditionalGeneration):
        visual: Any = network.model.visual
        qwen.attend_in_runs(visual, tuple(visual.fullatt_block_indexes))
        self.network: Any = network  # transformers' types of its configuration and inputs are wrong

    @classmethod
    def load(cls, folder: Path, dtype: Dtype) -> Self:
        return cls(load_pretrained(Qwen2_5_VLForConditionalGeneration, folder, getattr(torch, dtype)))

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> Sizes:
        whole: Any = Qwen2_5_VLConfig(**config)
        vision = whole.vision_config
        return qwen.sizes(Qwen2_5_VLForConditionalGeneration, whole, vision.hidden_size, vision.intermediate_size)

    @staticmethod
    def current_name(name: str) -> str:
        return qwen.current_name(name)

    @property
    def patch_shape(self) -> PatchShape:
        return qwen.patch_shape(self.network.config)

    @property
    def hidden_size(self) -> int:
        return self.network.config.text_config.hidden_size

    @property
    def max_tokens(self) -> int:
        return self.network.config.text_config.max_position_embeddings

    def video_text(self, clip: Clip) -> str:
        return self.video_token

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return self.network.model.language_model.embed_tokens(ids)

    def embed_video(self, batch: Batch) -> VideoFeatures:
        visual, vision = self.network.model.visual, self.network.config.vision_config
        order, boundaries = get_vision_window_index(
            batch.grid, vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
        seen = visual(
            batch.pixels.to(visual.dtype),
            grid_thw=batch.grid,
            window_index=order.to(batch.grid.device),
            cu_window_seqlens=boundaries,
            frames=qwen.in_frames(batch.grid),
            windows=qwen.in_windows(boundaries),
        )
        return VideoFeatures(seen.pooler_output)

    def positions(self, batch: Batch, video: torch.Tensor, kind: Positions) -> torch.Tensor:
        """[3, B, L]: by time, row and column. Time is the planned rate's, cut to steps of 1 / tokens_per_second."""
        seconds = (self.patch_shape.temporal / batch.fps).float()  # of a patch, as its processor gives them
        return qwen.positions(self.network, batch, video, kind, second_per_grid_ts=seconds)

    def hidden_states(
        self, embedded: torch.Tensor, positions: torch.Tensor, video: torch.Tensor, features: VideoFeatures
    ) -> torch.Tensor:
        language = self.network.model.language_model
        return language(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state
