"""Qwen3-VL (https://arxiv.org/abs/2511.21631).

Beside Qwen2-VL: each patch in time is a block of its own behind the text of its time, features of three layers of the vision
tower are added to the first layers of the language model (DeepStack), patches have 16 pixels, and places within a frame
are learnt.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from components.config.types import Dtype
from components.reward.backbones import qwen
from components.reward.backbones.protocol import Positions, Sizes, VideoFeatures
from components.reward.inputs import Batch, Clip, PatchShape, PixelStatistics
from components.runtime.weights import load_pretrained

BLOCK = f"<|vision_start|>{qwen.VIDEO_TOKEN}<|vision_end|>"


class Qwen3VL:
    """Qwen3VLForConditionalGeneration as a Backbone (protocol.py)."""

    # As in its video_preprocessor_config.json.
    pixels: ClassVar[PixelStatistics] = PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    video_token: ClassVar[str] = qwen.VIDEO_TOKEN
    vision: ClassVar[str] = qwen.VISION
    embedding: ClassVar[str] = qwen.EMBEDDING
    adapted: ClassVar[str] = qwen.ADAPTED
    fsdp_classes: ClassVar[tuple[str, ...]] = ("Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock")

    def __init__(self, network: Qwen3VLForConditionalGeneration):
        qwen.attend_in_runs(network.model.visual)
        self.network: Any = network  # transformers' types of its configuration and inputs are wrong

    @classmethod
    def load(cls, folder: Path, dtype: Dtype) -> Self:
        return cls(load_pretrained(Qwen3VLForConditionalGeneration, folder, getattr(torch, dtype)))

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> Sizes:
        whole: Any = Qwen3VLConfig(**config)
        vision = whole.vision_config
        return qwen.sizes(Qwen3VLForConditionalGeneration, whole, vision.hidden_size, vision.intermediate_size)

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
        """ "<0.3 seconds>" and a block for each patch in time. Its time is the mean of its first and last frame's."""
        size, times = self.patch_shape.temporal, list(clip.seconds)
        times += times[-1:] * (-len(times) % size)
        middles = [(times[at] + times[at + size - 1]) / 2 for at in range(0, len(times), size)]
        return "".join(f"<{middle:.1f} seconds>{BLOCK}" for middle in middles)

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return self.network.model.language_model.embed_tokens(ids)

    def embed_video(self, batch: Batch) -> VideoFeatures:
        visual = self.network.model.visual
        seen = visual(batch.pixels.to(visual.dtype), grid_thw=batch.grid, frames=qwen.in_frames(batch.grid))
        return VideoFeatures(seen.pooler_output, tuple(seen.deepstack_features))

    def positions(self, batch: Batch, video: torch.Tensor, kind: Positions) -> torch.Tensor:
        """[3, B, L]: by block, row and column. Time is in the text."""
        return qwen.positions(self.network, batch, video, kind)

    def hidden_states(
        self, embedded: torch.Tensor, positions: torch.Tensor, video: torch.Tensor, features: VideoFeatures
    ) -> torch.Tensor:
        language = self.network.model.language_model
        return language(
            inputs_embeds=embedded,
            position_ids=positions,
            visual_pos_masks=video,
            deepstack_visual_embeds=list(features.deepstack),
            use_cache=False,
        ).last_hidden_state
