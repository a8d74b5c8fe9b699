"""LoRA files for a transformer: every tensor is read and applied, or the file is refused with the tensor's name.

Layers have diffusers' names or the authors' (a family's original_name), with the prefixes and suffixes of PEFT, ComfyUI,
kohya, DiffSynth, LightX2V and LyCORIS (components/generator/lora_names.py). Alpha defaults to the rank; PEFT stores it in
the file's header or in adapter_config.json. A weight becomes W + alpha / rank B A, computed in float32 whatever the file's
precision; PEFT's DoRA (`.lora_magnitude_vector`) is applied too. Refused by name: `.dora_scale`, which tools norm over
different axes, Tucker forms, scaled 8-bit weights, layers that the transformer lacks, a text encoder.
"""

from pathlib import Path

import torch
from peft import LoraConfig

from components.generator.family import Network
from components.generator.lora_file import read_lora
from components.generator.lora_names import OriginalName, own_parameters


def apply_lora(transformer: Network, path: str | Path, merge: bool, original_name: OriginalName) -> None:
    """Apply the LoRA at `path` to the transformer. BadInput, and no change, where one of its tensors cannot be applied.

    original_name: that of the transformer's family.
    merge: add to the weights. Otherwise low-rank updates of linear layers stay in an adapter, as rounding in half precision
    would lose small ones. Updates are added to a weight in float32 and rounded once.
    """
    lora, parameters = read_lora(path, transformer, original_name), own_parameters(transformer)
    beside = {}
    for layer, (down, up) in lora.pairs.items():
        if not merge and isinstance(transformer.get_submodule(layer), torch.nn.Linear):
            beside[layer] = down, up
        else:
            add(parameters[f"{layer}.weight"], up.flatten(1) @ down.flatten(1))
    for name, difference in lora.differences:
        add(parameters[name], difference())
    if beside:
        attach(transformer, beside)


def add(parameter: torch.nn.Parameter, change: torch.Tensor) -> None:
    parameter.data.copy_(parameter.data.float() + change.reshape(parameter.shape).to(parameter.device))


def attach(transformer: Network, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Attach low-rank pairs to linear layers as an adapter of scale 1, in the layers' precision."""
    ranks = {f"^{layer}": len(down) for layer, (down, _) in pairs.items()}  # PEFT's pattern for a full name
    # Scale 1: alpha / rank is already in the matrices.
    transformer.add_adapter(LoraConfig(target_modules=list(pairs), rank_pattern=ranks, alpha_pattern=ranks))
    for layer, (down, up) in pairs.items():
        module = transformer.get_submodule(layer)
        for part, value in ((module.lora_A, down), (module.lora_B, up)):
            weight = part["default"].weight
            weight.data = value.flatten(1).to(weight.device, module.weight.dtype)
