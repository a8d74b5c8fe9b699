"""Names of tensors in LoRA files: the layer of a Wan transformer that a tensor changes, and the tensor's kind."""

import re

import torch

# Wan's own names, by diffusers' (its scripts/convert_wan_to_diffusers.py): layers of a block, and those outside blocks.
ATTENTIONS = {"attn1": "self_attn", "attn2": "cross_attn"}
BLOCK = {f"{theirs}.to_{part}": f"{own}.{part}" for theirs, own in ATTENTIONS.items() for part in "qkv"} | {
    "attn1.to_out.0": "self_attn.o",
    "attn1.norm_q": "self_attn.norm_q",
    "attn1.norm_k": "self_attn.norm_k",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.norm_q": "cross_attn.norm_q",
    "attn2.norm_k": "cross_attn.norm_k",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "attn2.norm_added_k": "cross_attn.norm_k_img",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "scale_shift_table": "modulation",
}
OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.norm1": "img_emb.proj.0",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "condition_embedder.image_embedder.norm2": "img_emb.proj.4",
    "proj_out": "head.head",
    "scale_shift_table": "head.modulation",
}

# Prefixes of layer names: of PEFT, diffusers, ComfyUI, DiffSynth and wrappers; of kohya and LyCORIS.
PREFIX = re.compile(
    r"((base_model|model|module|generator|pipe|dit|unet|transformer|diffusion_model)\.)*((lora_(unet|transformer|dit)|lycoris)_+)?"
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
    layer = flat(layer[PREFIX.match(layer).end() :])
    return (f"{layer}_modulation", "diff") if kind == "diff_m" else (layer, kind)  # LightX2V: of the block or the head


def partner(key: str) -> str:
    """The key of the other matrix of a low-rank pair; a key of neither matrix is returned unchanged."""
    return re.sub("|".join(map(re.escape, PARTNER)), lambda found: PARTNER[found[0]], key)


def own_parameters(transformer: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The model's parameters without those of an adapter, by their names without an adapter."""
    named = transformer.named_parameters()
    return {name.replace(".base_layer.", "."): value for name, value in named if ".lora_" not in name}


def layer_names(parameters: dict[str, torch.nn.Parameter]) -> tuple[dict[str, str], dict[str, str]]:
    """Layers of the transformer by the names of `parse`: diffusers' names, Wan's own. A parameter without a layer
    (scale_shift_table) counts as one."""
    layers = {re.sub(r"\.(weight|bias)$", "", name) for name in parameters}
    return {flat(layer): layer for layer in layers}, {flat(name): layer for layer in layers if (name := wan_name(layer))}


def wan_name(layer: str) -> str | None:
    """Wan's own name of the layer that diffusers calls `layer`."""
    if found := re.fullmatch(r"(blocks\.\d+)\.(.+)", layer):
        return f"{found[1]}.{BLOCK[found[2]]}" if found[2] in BLOCK else None
    return OUTSIDE.get(layer)


def flat(name: str) -> str:
    return name.replace(".", "_")
