"""The LoRA that alignment trains on a generator: attach, switch off, write for the generator's diffusers pipeline."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import nn

from components.config.params import AlignParams, LoraParams
from components.errors import BadInput
from components.files.atomic import put_in_place
from components.files.text import Record, read_record
from components.generator.family import Family, Network, VelocityModel
from components.generator.lora_file import LORA, read_lora, sort_header
from components.generator.lora_names import OriginalName

RECORD = "alignment.json"


class Facts(Record):
    """The fields of alignment.json that are read. base: digest of the generator that the LoRA was trained on."""

    base: str


def add_lora(model: VelocityModel, params: LoraParams, seed: int) -> None:
    """Attach a float32 LoRA to the target layers, one to each of two transformers; B is zero, so the model's output is
    unchanged."""
    for transformer in model.networks.values():
        adapt(transformer, params, seed, model.family.lora_targets)


def adapt(transformer: Network, params: LoraParams, seed: int, usual: Sequence[str]) -> None:
    """add_lora for a network of diffusers, such as a latent reward model's trunk. usual: its family's lora_targets."""
    names = [name for name, _ in transformer.named_modules()]
    for target in params.targets:
        if not any(name.endswith(f".{target}") for name in names):
            why = f"'{target}' matches no layer of the transformer; {', '.join(usual)} do"
            raise BadInput("params.yaml", why, key="align.lora.targets")
    torch.manual_seed(seed)
    alpha: Any = params.alpha  # a float, where PEFT's annotation has an integer
    transformer.add_adapter(LoraConfig(r=params.rank, lora_alpha=alpha, target_modules=params.targets))
    for p in transformer.parameters():
        if p.requires_grad:  # the base may be in half precision, where rounding would lose Adam's small steps
            p.data = p.data.float()


def make_lean(model: VelocityModel, params: AlignParams) -> None:
    """Enable gradient checkpointing and compilation as `params` set them; each kind of layer is compiled once. A compiled
    layer fuses the operations between matrix products and keeps fewer activations for the backward pass."""
    if params.gradient_checkpointing:
        for transformer in model.networks.values():
            transformer.enable_gradient_checkpointing()
    if params.compile:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            raise BadInput("params.yaml", "needs a C++ compiler, g++ or clang++; none was found", key="align.compile")
        for transformer in model.networks.values():
            if not transformer._repeated_blocks:
                why = f"{type(transformer).__name__} lists no repeated blocks to compile; set it to false"
                raise BadInput("params.yaml", why, key="align.compile")
            transformer.compile_repeated_blocks(fullgraph=True)


def resume_lora(model: VelocityModel, path: Path) -> None:
    """Load the weights at `path` into the LoRA of add_lora, or into that of each of two transformers; BadInput where rank or
    layers differ."""
    for name, transformer in model.networks.items():
        resume_one(transformer, path / f"{name}.safetensors" if name else path, model.family.original_name)


def resume_one(transformer: Network, path: Path, original_name: OriginalName) -> None:
    lora = read_lora(path, transformer, original_name)
    own: dict[str, Any] = lora_layers(transformer)
    other = {name for name, (down, _) in lora.pairs.items() if name not in own or len(down) != own[name].r["default"]}
    other |= own.keys() - lora.pairs.keys() | {name for name, _ in lora.differences}
    if other:
        raise BadInput(path, f"is no LoRA of align.lora's rank and targets: {min(other)} differs", key="align.lora")
    for name, (down, up) in lora.pairs.items():
        own[name].lora_A["default"].weight.data.copy_(down)
        own[name].lora_B["default"].weight.data.copy_(up / own[name].scaling["default"])


def lora_layers(transformer: nn.Module) -> dict[str, LoraLayer]:
    return {name: module for name, module in transformer.named_modules() if isinstance(module, LoraLayer)}


def check_base(folder: Path, base: str) -> None:
    """BadInput where a LoRA was trained on another generator than the one with digest `base`."""
    trained_on = read_record(folder / RECORD, Facts).base
    if trained_on != base:
        raise BadInput(folder, f"was trained on base generator {trained_on}, not on {base}", key="base")


class adapters_off:
    """Context manager that switches the LoRA off, which leaves the base model."""

    def __init__(self, model: VelocityModel):
        self.networks = model.networks.values()

    def __enter__(self) -> None:
        for transformer in self.networks:
            transformer.disable_adapters()

    def __exit__(self, *_: object) -> None:
        for transformer in self.networks:
            transformer.enable_adapters()


def save_lora(model: VelocityModel, folder: Path) -> None:
    """Write the format of diffusers' load_lora_weights, with alpha / rank folded into B and alpha set to the rank. Tools
    that read the header, `.alpha` tensors or the matrices alone then all apply the same strength.

    Of two transformers each has a file, high_noise.safetensors and low_noise.safetensors; diffusers loads the second with
    `load_into_transformer_2=True`. One that did not train has none.
    """
    for name, transformer in model.networks.items():
        save_one(transformer, model.family, folder)
        if name:
            put_in_place(folder / LORA, folder / f"{name}.safetensors")


def save_one(transformer: Network, family: Family, folder: Path) -> None:
    weights = get_peft_model_state_dict(transformer)
    for name, layer in lora_layers(transformer).items():
        weights[f"{name}.lora_B.weight"] = weights[f"{name}.lora_B.weight"] * layer.scaling["default"]
    config = transformer.peft_config["default"].to_dict()
    config["lora_alpha"] = config["r"]
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order would change the file from run to run
    family.save_lora(folder, weights, config)
    sort_header(folder / LORA)
