"""Qwen2-VL, the backbone of the published VideoReward (https://arxiv.org/abs/2409.12191)."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from components.config.types import Dtype
from components.reward.backbones import qwen
from components.reward.backbones.protocol import Positions, Sizes, VideoFeatures
from components.reward.inputs import Batch, Clip, PatchShape, PixelStatistics
from components.runtime.weights import load_pretrained


class Qwen2VL:
    """Qwen2VLForConditionalGeneration as a Backbone (protocol.py)."""

    # Of CLIP, as in Qwen2-VL's preprocessor_config.json.
    pixels: ClassVar[PixelStatistics] = PixelStatistics(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )
    video_token: ClassVar[str] = qwen.VIDEO_TOKEN
    vision: ClassVar[str] = qwen.VISION
    embedding: ClassVar[str] = qwen.EMBEDDING
    adapted: ClassVar[str] = qwen.ADAPTED
    fsdp_classes: ClassVar[tuple[str, ...]] = ("Qwen2VLDecoderLayer", "Qwen2VLVisionBlock")

    def __init__(self, network: Qwen2VLForConditionalGeneration):
        qwen.attend_in_runs(network.model.visual)
        self.network: Any = network  # transformers' types of its configuration and inputs are wrong

    @classmethod
    def load(cls, folder: Path, dtype: Dtype) -> Self:
        return cls(load_pretrained(Qwen2VLForConditionalGeneration, folder, getattr(torch, dtype)))

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> Sizes:
        whole: Any = Qwen2VLConfig(**config)
        vision = whole.vision_config
        inner = int(vision.mlp_ratio * vision.embed_dim)
        return qwen.sizes(Qwen2VLForConditionalGeneration, whole, vision.embed_dim, inner)

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
        visual = self.network.model.visual
        seen = visual(batch.pixels.to(visual.dtype), grid_thw=batch.grid, frames=qwen.in_frames(batch.grid))
        return VideoFeatures(seen.pooler_output)

    def positions(self, batch: Batch, video: torch.Tensor, kind: Positions) -> torch.Tensor:
        """[3, B, L]: by frame, row and column. Frames count by their number, not by time."""
        return qwen.positions(self.network, batch, video, kind)

    def hidden_states(
        self, embedded: torch.Tensor, positions: torch.Tensor, video: torch.Tensor, features: VideoFeatures
    ) -> torch.Tensor:
        language = self.network.model.language_model
        return language(inputs_embeds=embedded, position_ids=positions, use_cache=False).last_hidden_state
