"""LoRA files for a Wan transformer: read whole or refused by the name of a tensor, then applied.

| written by | names | alpha |
|---|---|---|
| diffusers, PEFT | `transformer.`, `base_model.model.` or nothing, `blocks.0.attn1.to_q.lora_A.weight` | PEFT's |
| ComfyUI, ai-toolkit | `diffusion_model.blocks.0.self_attn.q.lora_A.weight`, or `.lora_down.weight` | `.alpha` |
| kohya, musubi-tuner | `lora_unet_blocks_0_self_attn_q.lora_down.weight` | `.alpha` |
| DiffSynth | `pipe.dit.` or nothing, `blocks.0.self_attn.q.lora_A.default.weight` | |
| LightX2V, CausVid | ComfyUI's; `.diff`, `.diff_b`, `.diff_m` are added to weight, bias, modulation | `.alpha` |
| LyCORIS | any of these or `lycoris_`; `.lokr_w1` ..., `.hada_w1_a` ... | `.alpha` |

Any prefix goes with any names. Where alpha is not said it is the rank; PEFT says it in the file's header or in
adapter_config.json. A weight becomes W + alpha / rank B A, worked out in float32 whatever the file's precision; PEFT's DoRA
(`.lora_magnitude_vector`) is applied too. Refused by name: `.dora_scale`, which tools norm over different axes, Tucker
forms, scaled 8-bit weights, layers of image-to-video, a second transformer, a text encoder.
"""

from pathlib import Path

import torch
from peft import LoraConfig

from components.generator.lora_file import read_lora
from components.generator.lora_names import own_parameters


def apply_lora(transformer: torch.nn.Module, path: str | Path, merge: bool) -> None:
    """Change the transformer as the LoRA at `path` says. BadInput, and no change, where a tensor of it cannot be applied.

    merge: into the weights; otherwise low-rank changes of linear layers stay beside them, as a weight in half precision
    would lose small ones in rounding. What is added to a weight is added in float32 and rounded once.
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
    """Put low-rank pairs beside linear layers as an adapter of scale 1, in the layers' precision."""
    ranks = {f"^{layer}": len(down) for layer, (down, _) in pairs.items()}  # PEFT's sign for a whole name
    # Scale 1: alpha / rank is in the matrices.
    transformer.add_adapter(LoraConfig(target_modules=list(pairs), rank_pattern=ranks, alpha_pattern=ranks))
    for layer, (down, up) in pairs.items():
        module = transformer.get_submodule(layer)
        for part, value in ((module.lora_A, down), (module.lora_B, up)):
            weight = part["default"].weight
            weight.data = value.flatten(1).to(weight.device, module.weight.dtype)
