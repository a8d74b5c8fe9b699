"""What the folder of a Wan 2.1 or 2.2 pipeline must hold.

model_index.json, scheduler/, tokenizer/, and transformer/, vae/, text_encoder/ each with config.json and safetensors. A14B
also has transformer_2/, and the noise level from which on it acts as boundary_ratio in model_index.json.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from components.errors import BadInput
from components.generator.family import SECOND_PART
from components.generator.parts import check_part, read_object, read_scheduler

# The key of a part's config.json that names its class, and the class.
PARTS = {
    "transformer": ("_class_name", "WanTransformer3DModel"),
    "vae": ("_class_name", "AutoencoderKLWan"),
    "text_encoder": ("model_type", "umt5"),
}
# Sizes that two parts share, and what a mismatch means.
SHARED = (
    (("transformer", "out_channels"), ("vae", "z_dim"), "parts of two models"),
    (("transformer", "text_dim"), ("text_encoder", "d_model"), "parts of two models"),
)
IMAGE_ENCODER = ("model_type", "clip_vision_model")
PROBED_TOKENS = 16


def boundary_of(index: Mapping[str, Any]) -> float | None:
    """The boundary of a pipeline with two transformers, by its model_index.json or its entry in infra/architectures."""
    return index["boundary_ratio"] if index.get(SECOND_PART) not in (None, [None, None]) else None


def check_wan_folder(folder: Path, index: dict[str, Any]) -> None:
    """BadInput where `folder` lacks a file, or its parts do not fit together. index: its model_index.json."""
    wanted = dict(PARTS)
    if index.get(SECOND_PART) not in (None, [None, None]):
        wanted[SECOND_PART] = PARTS["transformer"]
    configs = {part: read_object(folder / part / "config.json") for part in wanted}
    for part, config in configs.items():
        check_part(folder / part, config, *wanted[part])
    check_boundary(folder / "model_index.json", index)
    if SECOND_PART in wanted:
        check_second(folder, configs["transformer"], configs[SECOND_PART])
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
    check_channels(folder, index, configs)
    if index.get("_class_name") == "WanImageToVideoPipeline" and configs["transformer"].get("image_dim") is not None:
        check_part(folder / "image_encoder", read_object(folder / "image_encoder/config.json"), *IMAGE_ENCODER)
        if not (folder / "image_processor").is_dir():
            raise BadInput(folder / "image_processor", "missing: this pipeline reads the first frame by CLIP")
    read_scheduler(folder)
    if not (folder / "tokenizer").is_dir():
        raise BadInput(folder / "tokenizer", "missing: a WanPipeline folder has its tokenizer")


def check_channels(folder: Path, index: dict[str, Any], configs: dict[str, dict[str, Any]]) -> None:
    """BadInput where the transformer does not read what the pipeline gives it: latents, or those and an image's channels."""
    image, latents = index.get("_class_name") == "WanImageToVideoPipeline", configs["vae"].get("z_dim")
    there, wanted = configs["transformer"].get("in_channels"), latents
    if image and not index.get("expand_timesteps") and isinstance(latents, int):
        wanted = 2 * latents + configs["vae"].get("scale_factor_temporal", 4)
    if there != wanted:
        kind = "an image-to-video" if not image else "a text-to-video"
        why = f"{there}, a {index.get('_class_name')} has {wanted}: {kind} model, or parts of two models"
        raise BadInput(folder / "transformer/config.json", why, key="in_channels")


def check_boundary(place: Path, index: Mapping[str, Any]) -> None:
    """BadInput for two transformers without a boundary between 0 and 1, where the pipeline would never use the second, and
    for a boundary without a second, where it would fail at the first low step. place: the file of `index`."""
    two, ratio = index.get(SECOND_PART) not in (None, [None, None]), index.get("boundary_ratio")
    if two and not (isinstance(ratio, int | float) and 0 < ratio < 1):
        raise BadInput(place, f"is {ratio}; two transformers need a noise level between 0 and 1", key="boundary_ratio")
    if not two and ratio is not None:
        raise BadInput(place, f"is {ratio}, and there is no {SECOND_PART} that acts below it", key="boundary_ratio")


def check_second(folder: Path, first: dict[str, Any], second: dict[str, Any]) -> None:
    """BadInput where the two transformers differ in shape."""
    for name in sorted(first.keys() | second.keys()):
        if not name.startswith("_") and first.get(name) != second.get(name):
            why = f"is {second.get(name)!r}, and transformer's is {first.get(name)!r}: parts of two models"
            raise BadInput(folder / SECOND_PART / "config.json", why, key=name)


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
