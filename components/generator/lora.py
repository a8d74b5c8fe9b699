"""LoRA files for a Wan transformer: every tensor is read and applied, or the file is refused with the tensor's name.

| written by | names | alpha |
|---|---|---|
| diffusers, PEFT | `transformer.`, `base_model.model.` or nothing, `blocks.0.attn1.to_q.lora_A.weight` | PEFT's |
| ComfyUI, ai-toolkit | `diffusion_model.blocks.0.self_attn.q.lora_A.weight`, or `.lora_down.weight` | `.alpha` |
| kohya, musubi-tuner | `lora_unet_blocks_0_self_attn_q.lora_down.weight` | `.alpha` |
| DiffSynth | `pipe.dit.` or nothing, `blocks.0.self_attn.q.lora_A.default.weight` | |
| LightX2V, CausVid | ComfyUI's; `.diff`, `.diff_b`, `.diff_m` are added to weight, bias, modulation | `.alpha` |
| LyCORIS | any of these or `lycoris_`; `.lokr_w1` ..., `.hada_w1_a` ... | `.alpha` |

Prefixes and names combine freely. Alpha defaults to the rank; PEFT stores it in the file's header or in
adapter_config.json. A weight becomes W + alpha / rank B A, computed in float32 whatever the file's precision; PEFT's DoRA
(`.lora_magnitude_vector`) is applied too. Refused by name: `.dora_scale`, which tools norm over different axes, Tucker
forms, scaled 8-bit weights, layers of image-to-video, a second transformer, a text encoder.
"""

from pathlib import Path

import torch
from peft import LoraConfig

from components.generator.lora_file import read_lora
from components.generator.lora_names import own_parameters


def apply_lora(transformer: torch.nn.Module, path: str | Path, merge: bool) -> None:
    """Apply the LoRA at `path` to the transformer. BadInput, and no change, where one of its tensors cannot be applied.

    merge: add to the weights. Otherwise low-rank updates of linear layers stay in an adapter, as rounding in half precision
    would lose small ones. Updates are added to a weight in float32 and rounded once.
    """
    lora, parameters = read_lora(path, transformer), own_parameters(transformer)
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


def attach(transformer: torch.nn.Module, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Attach low-rank pairs to linear layers as an adapter of scale 1, in the layers' precision."""
    ranks = {f"^{layer}": len(down) for layer, (down, _) in pairs.items()}  # PEFT's pattern for a full name
    # Scale 1: alpha / rank is already in the matrices.
    transformer.add_adapter(LoraConfig(target_modules=list(pairs), rank_pattern=ranks, alpha_pattern=ranks))
    for layer, (down, up) in pairs.items():
        module = transformer.get_submodule(layer)
        for part, value in ((module.lora_A, down), (module.lora_B, up)):
            weight = part["default"].weight
            weight.data = value.flatten(1).to(weight.device, module.weight.dtype)
