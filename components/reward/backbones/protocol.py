"""The seam between VideoReward and the vision-language model that it reads scores from: a member is one file of this folder
and one line of registry.py.

A video becomes patches (components/reward/inputs.py), the vision tower turns them into features, these take the places of
the video token among the embedded text, and the language model gives the states that the head reads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch

from components.config.types import Dtype
from components.reward.inputs import Batch, Clip, PatchShape, PixelStatistics

Positions = Literal["plain", "multimodal"]


@dataclass(frozen=True)
class Stack:
    """Layers of a transformer: how many, weights of all, width of their states, inner width of their feed-forward parts."""

    layers: int
    weights: int
    width: int
    inner: int


@dataclass(frozen=True)
class Sizes:
    """A backbone's sizes. `merger`: weights between tower and language model; `linear`: name, inputs and outputs of each
    linear layer of the language model."""

    parameters: int
    patch_shape: PatchShape
    vision: Stack
    merger: int
    language: Stack
    linear: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class VideoFeatures:
    """What a vision tower makes of the videos of a batch, one after the other. `tokens` [sum of PatchShape.tokens, hidden]
    take the places of the video tokens. `deepstack`, of the same shape each: what the first layers of the language model add
    to their states there, one a layer (DeepStack, https://arxiv.org/abs/2406.04334)."""

    tokens: torch.Tensor
    deepstack: tuple[torch.Tensor, ...] = ()


class Backbone(Protocol):
    """A vision-language model. An instance holds no weights but those of `network`, which may be adapted in place (LoRA)."""

    network: Any  # a PreTrainedModel

    pixels: ClassVar[PixelStatistics]  # what the vision tower was trained on
    video_token: ClassVar[str]  # placeholder of a video in the text of the model's chat template
    vision: ClassVar[str]  # prefix of the vision tower's parameter names, its merger included
    embedding: ClassVar[str]  # name of the token embedding
    adapted: ClassVar[str]  # pattern of the names of the language model's modules, before a LoRA target's own name
    fsdp_classes: ClassVar[tuple[str, ...]]  # modules that FSDP shards as units

    @classmethod
    def load(cls, folder: Path, dtype: Dtype) -> Self:
        """The model of a folder; BadInput where it is damaged."""
        ...

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> Sizes:
        """Sizes by the content of config.json alone."""
        ...

    @staticmethod
    def current_name(name: str) -> str:
        """The network's name of a tensor that a published checkpoint has under this or an older name."""
        ...

    @property
    def patch_shape(self) -> PatchShape: ...

    @property
    def hidden_size(self) -> int:
        """Width of the states that the head reads."""
        ...

    @property
    def max_tokens(self) -> int:
        """Of an input, prompt and video together."""
        ...

    def video_text(self, clip: Clip) -> str:
        """The text that stands for a clip: the video token, or one a block of like many of its features, with text between
        them."""
        ...

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids [B, L] to embeddings [B, L, hidden]."""
        ...

    def embed_video(self, batch: Batch) -> VideoFeatures: ...

    def positions(self, batch: Batch, video: torch.Tensor, kind: Positions) -> torch.Tensor:
        """Position ids as hidden_states takes them. "plain" numbers the tokens 0..L-1; "multimodal" is the model's own
        numbering of a video's tokens, where batch.fps may count. video [B, L]: which tokens are the video's."""
        ...

    def hidden_states(
        self, embedded: torch.Tensor, positions: torch.Tensor, video: torch.Tensor, features: VideoFeatures
    ) -> torch.Tensor:
        """Embeddings [B, L, hidden], with `features` in their places, to the language model's last states, of the same
        shape. Attention is causal. video as of positions."""
        ...
