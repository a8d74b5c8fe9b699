"""A tiny VideoReward with random weights, made in a moment."""

from pathlib import Path

import torch

from components.config.pretrain import VlmShape
from components.reward.backbones.qwen2_vl import Qwen2VL
from components.reward.card import RewardCard
from components.reward.model import VideoReward
from components.reward.prompt import TEMPLATES, PromptBuilder, read_template
from components.simulation.small_vlm import small_vlm, train_tokenizer

DIMENSIONS = ["VQ", "MQ", "TA"]
SHAPE = VlmShape(
    hidden=32,
    layers=2,
    heads=2,
    kv_heads=1,
    ffn=64,
    vision_dim=16,
    vision_layers=1,
    vision_heads=2,
    patch=4,
    temporal_patch=2,
    merge=2,
    vocabulary=320,
)


def tiny_model(
    head="per_dimension", positions="plain", dimensions=DIMENSIONS, template=None, readout="special"
) -> VideoReward:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # so small a model only loses by more
    tokenizer = train_tokenizer(["a red circle moving up"], SHAPE.vocabulary)
    network = small_vlm(SHAPE, tokenizer)
    # Random weights of the usual size hardly react to their input: larger ones make tests see differences.
    for p in network.parameters():
        if p.ndim > 1:
            p.data.mul_(3)
    template = template or read_template(TEMPLATES / "short.txt", dimensions, readout)
    prompts = PromptBuilder(tokenizer, Qwen2VL.video_token, template, dimensions, readout)
    return VideoReward(Qwen2VL(network), prompts, head, positions).eval()


def saved_model(folder: Path, template: str | None = None) -> Path:
    """The tiny model as a folder that RewardModel.load reads."""
    model = tiny_model(template=template)
    model.save(folder, tiny_card(model))
    return folder


def tiny_card(model: VideoReward, **changes) -> RewardCard:
    values = {
        "dimensions": DIMENSIONS,
        "readout": model.prompts.readout,
        "head": "per_dimension",
        "head_trained": True,
        "positions": model.positions,
        "template": model.prompts.template,
        "frame_plan": {"fps": None, "frames": 4, "min_pixels": 64, "max_pixels": 1024, "factor": 8},
        "normalisation": {name: {"mean": 0.5, "std": 2.0} for name in DIMENSIONS},
        "tie_thresholds": {name: 0.1 for name in [*DIMENSIONS, "Overall"]},
    }
    return RewardCard.model_validate(values | changes)
