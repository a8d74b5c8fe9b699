"""Stand-ins for what a profile starts from: models of the true architectures with random weights, and a few labelled pairs.

They are of the size and dtype of the real ones, so that time and memory are theirs. What they draw and score is noise.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from torch import nn

from components.config.params import Params
from components.errors import BadInput
from components.generator.families.wan_untrained import STAND_INS as GENERATORS
from components.planning.costs import architecture_file, known
from components.simulation.render import concrete, spoiled
from components.simulation.small_vlm import STAND_INS as BACKBONES
from components.simulation.small_vlm import train_tokenizer
from components.simulation.world import all_scenes, prompt_of
from components.video.encode import write_video

TILE = 1_000_003  # random numbers, repeated to fill a weight; a prime, so that no two rows of a table are equal
SPREAD = 0.02  # of weights, as transformers starts them
VOCABULARY = 512  # of the stand-in's tokenizer; the embedding keeps its true size


def make_generator(folder: Path, params: Params) -> None:
    """A pipeline folder of the architecture in infra/architectures."""
    configs = known(params, Path(params.base_generator.folder), "base_generator.folder")
    save = saver(GENERATORS, configs.get("_class_name"), params, "base_generator.folder")
    words = sorted({word for prompt in prompts() for word in prompt.split()})
    save(folder, configs, words, getattr(torch, params.base_generator.dtype), random_module)


def make_backbone(folder: Path, params: Params) -> None:
    """A folder of VideoReward's backbone."""
    config = known(params, Path(params.reward.base), "reward.base")["reward"]
    save = saver(BACKBONES, config.get("model_type"), params, "reward.base")
    save(folder, config, train_tokenizer(prompts(), VOCABULARY), getattr(torch, params.reward.dtype), random_module)


def saver(known_ones: dict[str, Any], kind: Any, params: Params, key: str) -> Any:
    if kind not in known_ones:
        why = f"there are no stand-ins of {kind}, only of {', '.join(known_ones)}: fetch the folder"
        raise BadInput(architecture_file(params), why, key=key)
    return known_ones[kind]


def make_pairs(folder: Path, file: str, params: Params, pairs: int) -> None:
    """Pairs of a clean clip of the shapes world and one with defects, in VideoAlign's layout; the clean one wins."""
    rng, sampling = np.random.default_rng(0), params.sampling
    size, scenes = min(sampling.height, sampling.width), all_scenes()
    (folder / "videos").mkdir(parents=True)
    rows = []
    for pair, at in enumerate(rng.choice(len(scenes), pairs, replace=False)):
        row: dict[str, Any] = {"prompt": prompt_of(scenes[at])}
        clean = "AB"[pair % 2]
        for side in "AB":
            defects = {} if side == clean else {"blur": 0.5, "flicker": 0.5}
            clip = spoiled(concrete(scenes[at], rng, size, sampling.frames), defects, rng, size, sampling.frames)
            row[f"path_{side}"] = f"videos/{pair:02d}{side}.mp4"
            write_video(folder / row[f"path_{side}"], clip, sampling.fps)
        rows.append(row | dict.fromkeys(("VQ", "MQ", "TA", "Overall"), clean))
    with open(folder / file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def prompts() -> list[str]:
    return [prompt_of(scene) for scene in all_scenes()]


def random_module(make: Any, dtype: torch.dtype) -> nn.Module:
    """The module that make() gives, with random weights in `dtype`: norms at 1, biases at 0. Nothing but its own weights is
    in memory at any time."""
    with init_empty_weights(include_buffers=False):
        module = make()
    draw = torch.Generator().manual_seed(0)
    tile = (torch.randn(TILE, generator=draw) * SPREAD).to(dtype)
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            part.register_parameter(name, nn.Parameter(values(name, weight.shape, tile), requires_grad=False))
    if hasattr(module, "tie_weights"):
        module.tie_weights()
    return module.eval()


def values(name: str, shape: torch.Size, tile: torch.Tensor) -> torch.Tensor:
    if name.endswith("bias"):
        return tile.new_zeros(shape)
    if len(shape) == 1:
        return tile.new_ones(shape)
    filled = tile.new_empty(shape.numel())
    for start in range(0, len(filled), TILE):
        filled[start : start + TILE] = tile[: len(filled) - start]
    return filled.view(shape)
