"""A toy backbone: another patch shape, video token, chat and network than Qwen2-VL's, and positions in seconds."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from components.config.types import Dtype
from components.reward.backbones.protocol import Positions, Sizes, Stack, VideoFeatures
from components.reward.inputs import Batch, Clip, PatchShape, PixelStatistics
from components.runtime.weights import load_pretrained
from components.simulation.small_vlm import train_tokenizer

CHAT = (
    "{%- for part in messages[0]['content'] -%}{{ '<|clip|>' if part['type'] == 'video' else part['text'] }}{%- endfor -%}"
)


class ToyConfig(PreTrainedConfig):
    model_type = "toy_vlm"

    def __init__(self, vocab_size: int = 400, width: int = 16, patch: int = 6, **more: Any):
        self.vocab_size, self.width, self.patch = vocab_size, width, patch
        super().__init__(**more)


class ToyLayer(nn.Module):
    """Each token reads the mean of those up to it."""

    def __init__(self, width: int):
        super().__init__()
        self.q_proj = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, states.shape[1] + 1, device=states.device)[:, None]
        return states + torch.tanh(self.q_proj(states.cumsum(1) / count))


class ToyNetwork(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.eye = nn.Linear(3 * config.patch**2, config.width)
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.layer = ToyLayer(config.width)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.words = value


class Toy:
    pixels = PixelStatistics((0.5, 0.5, 0.5), (0.5, 0.25, 0.125))
    video_token = "<|clip|>"
    vision = "eye."
    embedding = "words.weight"
    adapted = "layer"
    fsdp_classes = ("ToyLayer",)

    def __init__(self, network: ToyNetwork):
        self.network = network

    @classmethod
    def load(cls, folder: Path, dtype: Dtype) -> Self:
        return cls(load_pretrained(ToyNetwork, folder, getattr(torch, dtype)))

    @classmethod
    def sizes(cls, config: dict[str, Any]) -> Sizes:
        network, width = ToyNetwork(ToyConfig(**config)), config["width"]
        eye, layer = (sum(p.numel() for p in part.parameters()) for part in (network.eye, network.layer))
        everything = sum(p.numel() for p in network.parameters())
        shape, linear = PatchShape(config["patch"], 1, 1), (("q_proj", width, width),)
        return Sizes(everything, shape, Stack(1, eye, width, 0), 0, Stack(1, layer, width, 0), linear)

    @staticmethod
    def current_name(name: str) -> str:
        return name

    @property
    def patch_shape(self) -> PatchShape:
        return PatchShape(self.network.config.patch, 1, 1)

    @property
    def hidden_size(self) -> int:
        return self.network.config.width

    @property
    def max_tokens(self) -> int:
        return 4096

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        return self.network.words(ids)

    def video_text(self, clip: Clip) -> str:
        return self.video_token

    def embed_video(self, batch: Batch) -> VideoFeatures:
        return VideoFeatures(self.network.eye(batch.pixels))

    def positions(self, batch: Batch, video: torch.Tensor, kind: Positions) -> torch.Tensor:
        rows, length = batch.input_ids.shape
        positions = torch.arange(length, device=video.device).expand(rows, length).to(torch.float32).clone()
        if kind == "multimodal":
            for row, (t, h, w) in enumerate(batch.grid.tolist()):
                seconds = torch.arange(t, device=video.device) / batch.fps[row]
                positions[row, video[row]] = seconds.repeat_interleave(h * w).float()
        return positions

    def hidden_states(
        self, embedded: torch.Tensor, positions: torch.Tensor, video: torch.Tensor, features: VideoFeatures
    ) -> torch.Tensor:
        return self.network.layer(embedded + torch.sin(positions)[..., None])


def write_toy(folder: Path) -> None:
    """A base model's folder."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red circle moving up"], 320)
    tokenizer.add_tokens(["<|clip|>"], special_tokens=True)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    ToyNetwork(ToyConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
