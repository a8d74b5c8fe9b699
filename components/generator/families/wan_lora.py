"""Names of a Wan transformer's layers in the authors' code, which LoRA files of other tools use.

| written by | names | alpha |
|---|---|---|
| diffusers, PEFT | `transformer.`, `base_model.model.` or nothing, `blocks.0.attn1.to_q.lora_A.weight` | PEFT's |
| ComfyUI, ai-toolkit | `diffusion_model.blocks.0.self_attn.q.lora_A.weight`, or `.lora_down.weight` | `.alpha` |
| kohya, musubi-tuner | `lora_unet_blocks_0_self_attn_q.lora_down.weight` | `.alpha` |
| DiffSynth | `pipe.dit.` or nothing, `blocks.0.self_attn.q.lora_A.default.weight` | |
| LightX2V, CausVid | ComfyUI's; `.diff`, `.diff_b`, `.diff_m` are added to weight, bias, modulation | `.alpha` |
| LyCORIS | any of these or `lycoris_`; `.lokr_w1` ..., `.hada_w1_a` ... | `.alpha` |

Prefixes and names combine freely.
"""

import re

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


def wan_name(layer: str) -> str | None:
    """Wan's own name of the layer that diffusers calls `layer`."""
    if found := re.fullmatch(r"(blocks\.\d+)\.(.+)", layer):
        return f"{found[1]}.{BLOCK[found[2]]}" if found[2] in BLOCK else None
    return OUTSIDE.get(layer)
