"""The LoRA that alignment trains on a Wan transformer: attached, switched off, written for WanPipeline."""

import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

from components.errors import BadInput
from components.generator.wan import LORA, read_lora
from components.params import AlignParams, LoraParams
from components.stage import read_json


def add_lora(transformer: WanTransformer3DModel, params: LoraParams, seed: int) -> None:
    """A LoRA on the transformer's attention, in float32; B is zero, so the model is still the base."""
    names = [name for name, _ in transformer.named_modules()]
    for target in params.targets:
        if not any(name.endswith(f".{target}") for name in names):
            raise BadInput("params.yaml", f"'{target}' matches no layer of the transformer", key="align.lora.targets")
    torch.manual_seed(seed)
    transformer.add_adapter(LoraConfig(r=params.rank, lora_alpha=params.alpha, target_modules=params.targets))
    for p in transformer.parameters():
        if p.requires_grad:  # the base may be in half precision, where steps of Adam would be lost in rounding
            p.data = p.data.float()


def make_lean(transformer: WanTransformer3DModel, params: AlignParams) -> None:
    """Layers with their LoRA as `params` want them for training: checkpointed, and compiled, each kind of layer once. A
    compiled one fuses what lies between the matrix products, and keeps less of it for the backward pass."""
    if params.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    if params.compile:
        if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
            raise BadInput("params.yaml", "needs a C++ compiler, g++ or clang++, and finds none", key="align.compile")
        transformer.compile_repeated_blocks(fullgraph=True)


def resume_lora(transformer: WanTransformer3DModel, folder: Path) -> None:
    """Give the LoRA of add_lora the weights in `folder`; BadInput where they are of another rank or other layers."""
    weights = {key.removeprefix("transformer."): value for key, value in read_lora(folder)[0].items()}
    own = get_peft_model_state_dict(transformer)
    wrong = sorted(key for key in own.keys() | weights.keys() if key not in own or key not in weights)
    wrong += [key for key in own if key in weights and own[key].shape != weights[key].shape]
    if wrong:
        raise BadInput(folder, f"is no LoRA of align.lora's rank and targets: {wrong[0]} differs", key="align.lora")
    set_peft_model_state_dict(transformer, weights)


def check_base(folder: Path, base: str) -> None:
    """BadInput where a LoRA was trained on another generator than the one with digest `base`."""
    trained_on = read_json(folder / "alignment.json")["base"]
    if trained_on != base:
        raise BadInput(folder, f"was trained on base generator {trained_on}, not on {base}", key="base")


class adapters_off:
    """The base model, for as long as the block lasts."""

    def __init__(self, transformer: WanTransformer3DModel):
        self.transformer = transformer

    def __enter__(self) -> None:
        self.transformer.disable_adapters()

    def __exit__(self, *_: object) -> None:
        self.transformer.enable_adapters()


def save_lora(transformer: WanTransformer3DModel, folder: Path) -> None:
    """Write what WanPipeline.load_lora_weights reads, alpha included."""
    config = transformer.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order, and so the file, is another each run
    WanPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        transformer_lora_adapter_metadata=config,
    )
    sort_header(folder / LORA)


def sort_header(file: Path) -> None:
    """Put a safetensors header in order: its writer orders metadata anew each time, and equal models would differ."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
