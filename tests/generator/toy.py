"""A generator family for tests: predicts data minus noise at time 10 (1 - t), conditioned on two named tensors."""

import json
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from safetensors.torch import save_file
from torch import nn

from components.config.types import WHOLE, Decoding
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.family import TextEncoder, VelocityModel, check_blocks
from components.generator.lora import apply_lora
from components.generator.lora_file import LORA
from components.generator.pixels import clips_of, pixels
from components.runtime.weights import load_pretrained

SPACE, WORDS, WIDTH = 4, 6, 8
TIME = 10


class ToyLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.mix = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return tokens + self.mix(torch.tanh(self.to_q(tokens) + context))


class ToyTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    @register_to_config
    def __init__(self, depth: int = 2):
        super().__init__()
        self.enter, self.told, self.leave = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.layers = nn.ModuleList(ToyLayer() for _ in range(depth))

    def tokens(self, x: torch.Tensor, time: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tokens = self.enter(x.flatten(2).transpose(1, 2))
        mean = (words * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        for layer in self.layers:
            tokens = layer(tokens, (self.told(mean) + time[:, None] / TIME)[:, None])
        return tokens

    def forward(self, x: torch.Tensor, time: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.leave(self.tokens(x, time, words, mask)).transpose(1, 2).reshape(x.shape)


@dataclass(frozen=True)
class ToyGenerator:
    model: VelocityModel
    text: TextEncoder
    scheduler = MappingProxyType({})

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        return 3, frames, height // SPACE, width // SPACE

    def encode_text(self, prompts: list[str]) -> Conditioning:
        return self.text(prompts)

    def with_text(self, encoder: TextEncoder) -> "ToyGenerator":
        return replace(self, text=encoder)

    @staticmethod
    def hashed(prompts: list[str]) -> Conditioning:
        words, mask = torch.zeros(len(prompts), WORDS, WIDTH), torch.zeros(len(prompts), WORDS, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            for place, word in enumerate([*prompt.split(), "."][:WORDS]):
                draw = torch.Generator().manual_seed(zlib.crc32(word.encode()))
                words[row, place], mask[row, place] = torch.randn(WIDTH, generator=draw), True
        return Conditioning({"words": words, "mask": mask})

    def encode_video(self, clips: np.ndarray) -> torch.Tensor:
        return F.avg_pool3d(pixels(clips), (1, SPACE, SPACE))

    def decode(self, latents: torch.Tensor, decoding: Decoding = WHOLE) -> np.ndarray:
        return clips_of(F.interpolate(latents, scale_factor=(1, SPACE, SPACE)))


def not_read(prompts: list[str]) -> Conditioning:
    raise AssertionError("prompts are encoded before the generator is loaded")


class Toy:
    parts = MappingProxyType({"transformer": "transformer"})
    float32_parts = frozenset()
    lora_targets = ("to_q",)
    reads = ()

    def check_folder(self, folder, index, key):
        pass

    def load(self, folder, lora, dtype):
        transformer = self.load_transformer(folder, dtype)
        if lora is not None:
            apply_lora(transformer, lora, True, self.original_name)
        return ToyGenerator(VelocityModel(self, transformer).eval(), not_read)

    def load_text(self, folder, dtype):
        return ToyGenerator.hashed

    def load_transformer(self, folder, dtype):
        transformer = load_pretrained(ToyTransformer, Path(folder) / "transformer", getattr(torch, dtype))
        return transformer.requires_grad_(False).eval()

    def load_trunk(self, folder, blocks, dtype):
        trunk = self.load_transformer(folder, dtype)
        check_blocks(blocks, len(trunk.layers))
        self.cut(trunk, blocks)
        return trunk

    def velocity(self, transformer, latents, t, conditioning):
        return -transformer(latents, TIME * (1 - t), **conditioning.tensors)

    def blocks(self, transformer):
        return transformer.layers

    def cut(self, trunk, blocks):
        trunk.layers = trunk.layers[:blocks]
        del trunk.leave

    def tokens(self, trunk, latents, t, conditioning):
        return trunk.tokens(latents, TIME * (1 - t), **conditioning.tensors)

    def attention(self, transformer):
        return 2, WIDTH // 2

    def original_name(self, layer):
        return None

    def save_lora(self, folder, weights, config):
        folder.mkdir(parents=True, exist_ok=True)
        save_file({f"transformer.{key}": value.contiguous() for key, value in weights.items()}, folder / LORA)

    def read_configs(self, folder):
        return {"transformer": read_json(folder / "transformer/config.json")}

    def untrained(self, part, configs):
        return ToyTransformer.from_config(configs[part])


def save_toy(folder: Path) -> None:
    torch.manual_seed(3)
    ToyTransformer().save_pretrained(folder / "transformer")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline"}))
