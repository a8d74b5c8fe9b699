"""What the folder of a Wan 2.1 or 2.2 pipeline with one transformer must hold.

model_index.json, scheduler/, tokenizer/, and transformer/, vae/, text_encoder/ each with config.json and safetensors.
"""

import math
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from components.errors import BadInput
from components.generator.parts import check_part, read_object, read_scheduler

# The key of a part's config.json that names its class, and the class.
PARTS = {
    "transformer": ("_class_name", "WanTransformer3DModel"),
    "vae": ("_class_name", "AutoencoderKLWan"),
    "text_encoder": ("model_type", "umt5"),
}
# Sizes that two parts share, and what a mismatch means.
SHARED = (
    (("transformer", "in_channels"), ("transformer", "out_channels"), "an image-to-video model; text-to-video is needed"),
    (("transformer", "in_channels"), ("vae", "z_dim"), "parts of two models"),
    (("transformer", "text_dim"), ("text_encoder", "d_model"), "parts of two models"),
)
PROBED_TOKENS = 16


def check_wan_folder(folder: Path, index: dict[str, Any], key: str | None) -> None:
    """BadInput where `folder` has two transformers or lacks a file. index: its model_index.json; key: of params.yaml."""
    if index.get("transformer_2") not in (None, [None, None]):
        raise BadInput(folder, "has two transformers (Wan 2.2 A14B); Wan 2.1 and Wan 2.2 TI2V-5B have one", key=key)
    configs = {part: read_object(folder / part / "config.json") for part in PARTS}
    for part, config in configs.items():
        check_part(folder / part, config, *PARTS[part])
    for (part, name), (other, its_name), what in SHARED:
        here, there = configs[part].get(name), configs[other].get(its_name)
        if here != there:
            raise BadInput(folder / part / "config.json", f"{here}, and {other}'s {its_name} is {there}: {what}", key=name)
    for name in ("latents_mean", "latents_std"):
        values, count = configs["vae"].get(name), configs["vae"].get("z_dim")
        if not isinstance(values, list) or len(values) != count or not all(type(v) in (int, float) for v in values):
            raise BadInput(folder / "vae/config.json", f"not {count} numbers, one a latent channel", key=name)
        if not all(map(math.isfinite, values)) or (name == "latents_std" and min(values) <= 0):
            raise BadInput(folder / "vae/config.json", f"{values} cannot be its {name}", key=name)
    read_scheduler(folder)
    if not (folder / "tokenizer").is_dir():
        raise BadInput(folder / "tokenizer", "missing: a WanPipeline folder has its tokenizer")


@torch.no_grad()
def check_text_encoder(text_encoder: UMT5EncoderModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """BadInput where prompts would have no effect, tested on a few single-token sequences of the vocabulary."""
    place, table = folder / "text_encoder", text_encoder.encoder.embed_tokens.weight
    if len(tokenizer) > len(table):
        raise BadInput(place, f"has {len(table)} tokens and the tokenizer {len(tokenizer)}: they are of two models")
    if table is not (shared := text_encoder.shared.weight):  # the file has both; transformers reads embed_tokens
        if not table.any():
            raise BadInput(place, "is all zero, so prompts have no effect", key="encoder.embed_tokens.weight")
        if shared.any() and not torch.equal(shared, table):
            raise BadInput(place, "differs from encoder.embed_tokens.weight: one of the two is broken", key="shared.weight")
    ids = torch.linspace(0, len(tokenizer) - 1, PROBED_TOKENS, device=table.device).long().unique()[:, None]
    hidden = text_encoder(ids, torch.ones_like(ids)).last_hidden_state
    if not torch.isfinite(hidden).all():
        raise BadInput(place, f"gives embeddings that are not finite in {str(table.dtype).removeprefix('torch.')}")
    if (hidden - hidden[:1]).abs().max() <= 1e-6 * hidden.abs().max():
        raise BadInput(place, "gives one embedding for all tokens, so prompts have no effect")
