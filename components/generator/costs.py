"""What one clip costs a generator: parameters from shapes alone, operations of a pass, and activations kept for backward.

Models are built on torch's meta device, which has shapes and no data, so a 14B transformer takes seconds on any machine.
Operations are those that torch counts in one forward and one backward pass of one clip.
"""

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
from components.generator.wan import LONGEST_TEXT, velocity
from components.params import Params
from components.text_files import read_json

ARCHITECTURES = Path("infra/architectures")  # of models that are not on this machine, <profile>.json
PARTS = ("transformer", "vae", "text_encoder")
BYTES = {"float32": 4, "bfloat16": 2}
ADAM = 16  # bytes a trained weight: itself, its gradient and two moments, all float32


@dataclass(frozen=True)
class Costs:
    """Per clip: operations of a forward pass and of a training step, bytes of a layer's input and of all activations that
    a layer keeps for its backward pass."""

    forward: float
    step: float
    entry: float
    layer: float


def architecture(params: Params) -> dict[str, Any]:
    """Configurations of PARTS and the length of a prompt in tokens, "words": from the folder, or from infra/architectures
    while the folder is absent."""
    folder = Path(params.base_generator.folder)
    if (folder / "model_index.json").exists():
        words = read_json(folder / "tokenizer/tokenizer_config.json", "model_max_length")["model_max_length"]
        configs = {part: read_json(folder / part / "config.json") for part in PARTS}
        return {**configs, "words": min(words, LONGEST_TEXT)}
    return {**known(params, folder, "base_generator.folder"), "words": LONGEST_TEXT}


def known(params: Params, folder: Path, key: str) -> dict[str, Any]:
    """The entry of infra/architectures for a profile's models; BadInput names the missing `folder`."""
    file = ARCHITECTURES / f"{params.profile}.json"
    if not file.exists():
        raise BadInput(folder, f"not found, and there is no {file} that describes it", key=key)
    return read_json(file)


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
    """Costs of one clip; the profile's LoRA stays attached to `transformer`."""

    def predict() -> torch.Tensor:
        return velocity(transformer, clip, clip.new_ones(1), text)

    forward = operations(predict)
    with torch.device("meta"):
        add_lora(transformer, params.align.lora, seed=0)
    entry, layer = kept_by_a_layer(transformer, predict)
    step = operations(lambda: predict().sum().backward())
    if params.align.gradient_checkpointing:
        step += forward  # each layer recomputes its activations
    return Costs(forward, step, entry, layer)


def operations(function: Callable[[], object]) -> float:
    """Floating-point operations of a call, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def kept_by_a_layer(transformer: WanTransformer3DModel, predict: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """Bytes of one layer's input, and of all activations of one clip that it keeps for its backward pass."""
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


def measured_rate(dtype: str, seconds: float = 2.0) -> float:
    """Operations per second in products of square matrices of `dtype` on this device; a model reaches less."""
    device, side = PartialState().device, 8192 if torch.cuda.is_available() else 1024
    a = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        (a @ a).sum().item()  # waits for the device
        done += 1
    return done * 2 * side**3 / (time.perf_counter() - started)
