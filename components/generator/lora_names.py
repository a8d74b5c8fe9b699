"""Names of tensors in LoRA files: the layer of a transformer that a tensor changes, and the tensor's kind."""

import re
from collections.abc import Callable

import torch

OriginalName = Callable[[str], str | None]  # the authors' name of a layer by diffusers' (a family's original_name)

# Prefixes of layer names: of PEFT, diffusers, ComfyUI, DiffSynth and wrappers; of kohya and LyCORIS.
PREFIX = re.compile(
    r"^((base_model|model|module|generator|pipe|dit|unet|transformer|diffusion_model)\.)*((lora_(unet|transformer|dit)|lycoris)_+)?"
)
WRAPPER = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")

# Suffixes by kind of tensor. PEFT puts an adapter's name before the last word.
KINDS = {
    "down": r"\.lora_(A|down)((\.[^.]+)?\.weight)?|[._]lora(_linear_layer)?\.down\.weight",
    "up": r"\.lora_(B|up)((\.[^.]+)?\.weight)?|[._]lora(_linear_layer)?\.up\.weight",
    "up_bias": r"\.lora_B(\.[^.]+)?\.bias",
    "magnitude": r"\.lora_magnitude_vector((\.[^.]+)?\.weight)?",
    "alpha": r"\.alpha",
    "diff": r"\.diff",
    "diff_b": r"\.diff_b",
    "diff_m": r"\.diff_m",
} | {
    kind: rf"\.{kind}"
    for kind in (
        *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
        *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    )
}
KEY = re.compile("(?P<layer>.+?)(" + "|".join(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()) + ")")
PARTNER = {"lora_A": "lora_B", "lora_down": "lora_up", ".down.weight": ".up.weight"}
PARTNER |= {theirs: ours for ours, theirs in PARTNER.items()}


def parse(key: str) -> tuple[str, str] | None:
    """Layer and kind of a key; the layer as in the file, with _ for dots and without prefix. None for another kind."""
    found = KEY.fullmatch(key)
    if not found:
        return None
    kind = next(kind for kind in KINDS if found[kind])
    layer = WRAPPER.sub("", found["layer"])
    layer = flat(PREFIX.sub("", layer, count=1))
    return (f"{layer}_modulation", "diff") if kind == "diff_m" else (layer, kind)  # LightX2V: of the block or the head


def partner(key: str) -> str:
    """The key of the other matrix of a low-rank pair; a key of neither matrix is returned unchanged."""
    return re.sub("|".join(map(re.escape, PARTNER)), lambda found: PARTNER[found[0]], key)


def own_parameters(transformer: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The model's parameters without those of an adapter, by their names without an adapter."""
    named = transformer.named_parameters()
    return {name.replace(".base_layer.", "."): value for name, value in named if ".lora_" not in name}


def layer_names(
    parameters: dict[str, torch.nn.Parameter], original_name: OriginalName
) -> tuple[dict[str, str], dict[str, str]]:
    """Layers of the transformer by the names of `parse`: diffusers' names, the authors'. A parameter without a layer counts
    as one."""
    layers = {re.sub(r"\.(weight|bias)$", "", name) for name in parameters}
    originals = {flat(name): layer for layer in layers if (name := original_name(layer))}
    return {flat(layer): layer for layer in layers}, originals


def flat(name: str) -> str:
    return name.replace(".", "_")
