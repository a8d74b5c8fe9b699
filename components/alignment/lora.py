"""The LoRA that alignment trains on a generator: attach, switch off, write for the generator's diffusers pipeline."""

import json
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
from components.files.text import Record, read_record
from components.generator.family import Network, VelocityModel
from components.generator.lora_file import LORA, read_lora

RECORD = "alignment.json"


class Facts(Record):
    """The fields of alignment.json that are read. base: digest of the generator that the LoRA was trained on."""

    base: str


def add_lora(model: VelocityModel, params: LoraParams, seed: int) -> None:
    """Attach a float32 LoRA to the target layers; B is zero, so the model's output is unchanged."""
    adapt(model.transformer, params, seed, model.family.lora_targets)


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
        model.transformer.enable_gradient_checkpointing()
    if params.compile:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            raise BadInput("params.yaml", "needs a C++ compiler, g++ or clang++; none was found", key="align.compile")
        if not model.transformer._repeated_blocks:
            why = f"{type(model.transformer).__name__} lists no repeated blocks to compile; set it to false"
            raise BadInput("params.yaml", why, key="align.compile")
        model.transformer.compile_repeated_blocks(fullgraph=True)


def resume_lora(model: VelocityModel, path: Path) -> None:
    """Load the weights at `path` into the LoRA of add_lora; BadInput where rank or layers differ."""
    lora = read_lora(path, model.transformer, model.family.original_name)
    own: dict[str, Any] = lora_layers(model.transformer)
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
        self.transformer = model.transformer

    def __enter__(self) -> None:
        self.transformer.disable_adapters()

    def __exit__(self, *_: object) -> None:
        self.transformer.enable_adapters()


def save_lora(model: VelocityModel, folder: Path) -> None:
    """Write the format of diffusers' load_lora_weights, with alpha / rank folded into B and alpha set to the rank. Tools
    that read the header, `.alpha` tensors or the matrices alone then all apply the same strength."""
    transformer = model.transformer
    weights = get_peft_model_state_dict(transformer)
    for name, layer in lora_layers(transformer).items():
        weights[f"{name}.lora_B.weight"] = weights[f"{name}.lora_B.weight"] * layer.scaling["default"]
    config = transformer.peft_config["default"].to_dict()
    config["lora_alpha"] = config["r"]
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order would change the file from run to run
    model.family.save_lora(folder, weights, config)
    sort_header(folder / LORA)


def sort_header(file: Path) -> None:
    """Sort the keys of a safetensors header: the writer's order varies, so files of equal models would differ."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
