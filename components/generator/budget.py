"""What aligning a generator takes: parameters, memory by part, disk, and operations by stage, from shapes alone.

Models are built on torch's meta device, which has shapes and no numbers, so a 14B transformer is looked at in seconds on any
machine. Operations are those that torch counts in one forward and one backward of one clip. Memory is what must be held:
weights, optimizer, and what the backward pass keeps; attention is taken not to keep its matrix, and what kernels or the VAE
need for a moment is not in it.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import UMT5Config, UMT5EncoderModel

from components.alignment.lora import add_lora
from components.errors import BadInput
from components.evaluation.prompt_sets import count_prompts
from components.generator.wan import LONGEST_TEXT, velocity
from components.params import Params, TrainingParams
from components.text_files import read_json

ARCHITECTURES = Path("infra/architectures")  # of generators that are not on this machine, <profile>.json
PARTS = ("transformer", "vae", "text_encoder")
BYTES = {"float32": 4, "bfloat16": 2}
ADAM = 16  # bytes a trained weight: itself, its gradient and two moments, all float32


@dataclass(frozen=True)
class Budget:
    """Parameters by part; bytes by part while sampling, while training with Flow-DPO, and on disk; operations by stage."""

    parameters: dict[str, int]
    sampling: dict[str, float]
    training: dict[str, float]
    disk: dict[str, float]
    operations: dict[str, float]
    steps: dict[str, int]  # of the optimizer, by stage


@dataclass(frozen=True)
class Costs:
    """Of one clip: operations of a forward pass and of a training step, bytes of a layer's input and of all that a layer
    keeps for its backward pass."""

    forward: float
    step: float
    entry: float
    layer: float


def budget(params: Params) -> Budget:
    """The budget of a profile; memory while training is Flow-DPO's, the largest."""
    dtype, align = params.base_generator.dtype, params.align
    configs = architecture(params)
    transformer, vae, text_encoder = models(configs, dtype)
    parameters = {
        "transformer": size(transformer),
        "text encoder": size(text_encoder),
        "VAE": size(vae),
    }
    clip, text = one_clip(params, transformer, vae, (configs["words"], text_encoder.config.d_model))
    costs = costs_of(params, transformer, clip, text)
    parameters["LoRA"] = sum(p.numel() for p in transformer.parameters() if p.requires_grad)

    layers, clips = len(transformer.blocks), params.candidates.prompts * params.candidates.per_prompt
    guided = 1 if params.sampling.guidance_scale == 1 else 2  # clips that go through for each that is drawn
    drawn = params.sampling.steps * guided * costs.forward
    methods: dict[str, TrainingParams] = {name: getattr(align, name).training for name in ("sft", "rwr", "dpo")}
    seen = {name: training.steps * training.batch_size * training.accumulation for name, training in methods.items()}
    table = pairs_at_most(params) * align.draws if align.reference == "cached" else seen["dpo"]
    together = 2 * align.dpo.training.batch_size  # both clips of a pair
    kept = layers * costs.entry + costs.layer if align.gradient_checkpointing else layers * costs.layer
    weights = parameters["transformer"] * BYTES[dtype]
    return Budget(
        parameters,
        sampling={
            "transformer": weights,
            "text encoder": parameters["text encoder"] * BYTES[dtype],
            "VAE, float32": parameters["VAE"] * 4,
            "activations": guided * params.sampling.batch_size * costs.layer,
        },
        training={
            "transformer": weights,
            "LoRA and Adam": parameters["LoRA"] * ADAM,
            "activations": together * kept,
        },
        disk={
            "generator": 3 * (weights + parameters["text encoder"] * BYTES[dtype] + parameters["VAE"] * 4),
            "latents": 2 * clips * clip.numel() * 4,
            "text": 2 * params.candidates.prompts * text.numel() * 4,
        },
        operations={
            "candidates": clips * drawn,
            "reference": table * 2 * costs.forward,
            "align@sft": seen["sft"] * costs.step,
            "align@rwr": seen["rwr"] * costs.step,
            "align@dpo": seen["dpo"] * 2 * costs.step,
            "sample (5)": 5 * count_prompts(params) * params.sample.seeds_per_prompt * drawn,
        },
        steps={f"align@{name}": training.steps for name, training in methods.items()},
    )


def architecture(params: Params) -> dict[str, Any]:
    """Configurations of PARTS and the "words" of a prompt, in tokens: the folder's own, or those of infra/architectures
    where it is not here yet."""
    folder, known = Path(params.base_generator.folder), ARCHITECTURES / f"{params.profile}.json"
    if (folder / "model_index.json").exists():
        words = read_json(folder / "tokenizer/tokenizer_config.json", "model_max_length")["model_max_length"]
        configs = {part: read_json(folder / part / "config.json") for part in PARTS}
        return {**configs, "words": min(words, LONGEST_TEXT)}
    if not known.exists():
        raise BadInput(folder, f"not there, and {known} does not say what it is", key="base_generator.folder")
    return {**json.loads(known.read_text()), "words": LONGEST_TEXT}


def models(configs: dict[str, Any], dtype: str) -> tuple[WanTransformer3DModel, AutoencoderKLWan, UMT5EncoderModel]:
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(configs["transformer"])
        vae = AutoencoderKLWan.from_config(configs["vae"])
        text_encoder = UMT5EncoderModel(UMT5Config(**configs["text_encoder"]))
    for p in transformer.parameters():
        p.data = p.data.to(getattr(torch, dtype))
    return transformer.requires_grad_(False), vae, text_encoder


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def one_clip(
    params: Params, transformer: WanTransformer3DModel, vae: AutoencoderKLWan, text: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [1, C, T', H', W'] and text [1, L, D] of a clip of the profile; `text` is (L, D)."""
    sampling, time, space = params.sampling, vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
    shape = ((sampling.frames - 1) // time + 1, sampling.height // space, sampling.width // space)
    new = {"device": "meta", "dtype": transformer.dtype}
    clip = torch.empty(1, transformer.config.in_channels, *shape, **new)
    return clip, torch.empty(1, *text, **new)


def costs_of(params: Params, transformer: WanTransformer3DModel, clip: torch.Tensor, text: torch.Tensor) -> Costs:
    """Costs of one clip; `transformer` is left with the profile's LoRA on it."""

    def predict() -> torch.Tensor:
        return velocity(transformer, clip, clip.new_ones(1), text)

    forward = operations(predict)
    with torch.device("meta"):
        add_lora(transformer, params.align.lora, seed=0)
    entry, layer = kept_by_a_layer(transformer, predict)
    step = operations(lambda: predict().sum().backward())
    if params.align.gradient_checkpointing:
        step += forward  # each layer works its activations out again
    return Costs(forward, step, entry, layer)


def operations(function: Callable[[], object]) -> float:
    """Floating-point operations of a call, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def kept_by_a_layer(transformer: WanTransformer3DModel, predict: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """Bytes of one layer's input, and of all that it keeps of one clip for its backward pass."""
    kept: list[dict[int, torch.Tensor]] = []
    entries: list[torch.Tensor] = []

    def enter(_layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        entries.append(inputs[0])
        kept.append({})

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tokens = entries[-1].shape[1] if entries else None
        is_attention_matrix = tensor.shape[-2:] == (tokens, tokens)
        if kept and not is_attention_matrix and not isinstance(tensor, torch.nn.Parameter):
            kept[-1][tensor.untyped_storage()._cdata] = tensor
        return tensor

    handles = [layer.register_forward_pre_hook(enter) for layer in transformer.blocks]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        predict()
    for handle in handles:
        handle.remove()
    middle = kept[len(kept) // 2]
    return float(entries[0].nbytes), float(sum(tensor.nbytes for tensor in middle.values()))


def pairs_at_most(params: Params) -> int:
    k = params.candidates.per_prompt
    return params.candidates.prompts * (1 if params.relabel.choose == "best_worst" else k * (k - 1) // 2)


def measured_rate(dtype: str, seconds: float = 2.0) -> float:
    """Operations a second in products of square matrices of `dtype` on the device at hand; a model has less."""
    device, side = PartialState().device, 8192 if torch.cuda.is_available() else 1024
    a = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        (a @ a).sum().item()  # waits for the device
        done += 1
    return done * 2 * side**3 / (time.perf_counter() - started)
