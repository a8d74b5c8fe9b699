"""What VideoReward costs: its training and a clip scored, from shapes alone.

Operations are two a weight and token or patch, and four a pair of tokens and channel in attention. Text is taken as four
characters a token, and clips as the generator's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from components.generator.costs import ADAM, known, size
from components.params import Params
from components.text_files import read_json
from components.video.frames import FramePlan

CHARACTERS = 4  # a token


@dataclass(frozen=True)
class RewardCosts:
    """Parameters; operations of scoring a clip, and of a clip's part of a training step; bytes by part while training."""

    parameters: int
    forward: float
    step: float
    training: dict[str, float]


def reward_costs(params: Params) -> RewardCosts:
    own = params.reward
    config = reward_config(params)
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config).model
    language, vision = config.text_config, config.vision_config
    patches, in_a_frame = patches_of(params, vision)
    tokens = patches // vision.spatial_merge_size**2 + len(Path(own.template).read_text()) // CHARACTERS
    blocks, merger = size(model.visual) - size(model.visual.merger), size(model.visual.merger)
    reads = (
        2 * size(model.language_model.layers) * tokens + 4 * tokens**2 * language.hidden_size * language.num_hidden_layers
    )
    sees = 2 * blocks * patches + 4 * patches * in_a_frame * vision.embed_dim * vision.depth
    sees += 2 * merger * patches // vision.spatial_merge_size**2
    lora = lora_weights(model.language_model, own.lora.targets, own.lora.rank)
    again = own.gradient_checkpointing
    # The tower trains whole; in the language model gradients of activations and of the LoRA are worked out.
    step = (3 + again) * sees + (2 + again) * reads + (3 + again) * 2 * lora * tokens
    width = 2 if own.training.precision == "bf16" else 4
    inner = 6 * language.hidden_size + 4 * language.intermediate_size
    kept = [
        (language.num_hidden_layers, tokens * language.hidden_size, tokens * inner),
        (vision.depth, patches * vision.embed_dim, patches * (8 + 2 * vision.mlp_ratio) * vision.embed_dim),
    ]
    # Residuals are in float32; a layer's own tensors in what passes are in.
    activations = sum(4 * n * entry + width * layer * (1 if again else n) for n, entry, layer in kept)
    return RewardCosts(
        parameters=size(model),
        forward=reads + sees,
        step=step,
        training={
            "weights, float32": size(model) * 4.0,
            "gradients and Adam of the tower": (blocks + merger) * (ADAM - 4.0),
            "LoRA and Adam": lora * float(ADAM),
            "activations": 2.0 * own.training.batch_size * activations,
        },
    )


def reward_config(params: Params) -> Qwen2VLConfig:
    """That of the folder, or of infra/architectures where it is not here."""
    folder = Path(params.reward.base)
    if (folder / "config.json").exists():
        return Qwen2VLConfig(**read_json(folder / "config.json", "model_type"))
    return Qwen2VLConfig(**known(params, folder, "reward.base")["reward"])


def patches_of(params: Params, vision: Any) -> tuple[int, int]:
    """Patches of a clip of the generator's size, and of each temporal patch of it."""
    sampling, shape = params.sampling, vision
    plan = FramePlan(**params.reward.frames.model_dump(), factor=shape.patch_size * shape.spatial_merge_size)
    height, width = plan.resize(sampling.height, sampling.width)
    in_a_frame = (height // shape.patch_size) * (width // shape.patch_size)
    frames = plan.count(sampling.frames, float(sampling.fps))
    return -(-frames // shape.temporal_patch_size) * in_a_frame, in_a_frame


def lora_weights(model: nn.Module, targets: list[str], rank: int) -> int:
    """Of a LoRA on the linear layers of these names."""
    named = [(name.rsplit(".", 1)[-1], layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return sum(rank * (layer.in_features + layer.out_features) for name, layer in named if name in targets)
