"""What a generator's folder must hold, checked before any weight is read: a complete diffusers WanPipeline.

model_index.json, scheduler/, tokenizer/, and transformer/, vae/, text_encoder/ each with config.json and safetensors.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from components.errors import BadInput
from components.stage import how_to_get
from components.text_files import read_json

INDEX = "model_index.json"
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


def check_folder(folder: Path, key: str | None = None) -> None:
    """BadInput where `folder` is not a WanPipeline with one transformer or lacks a file. key: of params.yaml."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise BadInput(folder, f"not there (no {INDEX}); {how_to_get(folder)}", key=key)
    if not (folder / INDEX).exists():
        raise BadInput(folder, _what_else(folder), key=key)
    index = _read_object(folder / INDEX)
    if index.get("transformer_2") not in (None, [None, None]):
        raise BadInput(folder, "has two transformers (Wan 2.2 A14B); Wan 2.1 and Wan 2.2 TI2V-5B have one", key=key)
    configs = {part: _read_object(folder / part / "config.json") for part in PARTS}
    for part, config in configs.items():
        _check_part(folder / part, part, config)
    for (part, name), (other, its_name), what in SHARED:
        here, there = configs[part].get(name), configs[other].get(its_name)
        if here != there:
            raise BadInput(folder / part / "config.json", f"{here}, and {other}'s {its_name} is {there}: {what}", key=name)
    for name in ("latents_mean", "latents_std"):
        values, count = configs["vae"].get(name), configs["vae"].get("z_dim")
        if not isinstance(values, list) or len(values) != count or not all(type(v) in (int, float) for v in values):
            raise BadInput(folder / "vae/config.json", f"not {count} numbers, one a latent channel", key=name)
    _read_object(folder / "scheduler/scheduler_config.json")
    if not (folder / "tokenizer").is_dir():
        raise BadInput(folder / "tokenizer", "missing: a WanPipeline folder has its tokenizer")


def scheduler_of(folder: Path) -> str:
    """Class and shift of the folder's scheduler, as text."""
    config = _read_object(folder / "scheduler/scheduler_config.json")
    shift = config.get("flow_shift", config.get("shift"))
    return f"{config.get('_class_name')} with shift {shift}"


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


def _check_part(folder: Path, part: str, config: dict[str, Any]) -> None:
    key, kind = PARTS[part]
    if config.get(key) != kind:
        raise BadInput(folder / "config.json", f"is {config.get(key)!r}, not {kind!r}", key=key)
    if config.get("quantization_config"):
        why = "the weights are quantized; give the folder with weights in float32 or bfloat16"
        raise BadInput(folder / "config.json", why, key="quantization_config")
    for index in folder.glob("*.safetensors.index.json"):
        shards = _read_object(index).get("weight_map")
        if not isinstance(shards, dict):
            raise BadInput(index, "missing or no mapping of tensors to files", key="weight_map")
        for shard in sorted(set(map(str, shards.values()))):
            if not (folder / shard).exists():
                raise BadInput(index, f"names {shard}, which is missing: fetch it again", key="weight_map")
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for path in folder.glob("*.bin")) or ["no weights"]
        raise BadInput(folder, f"no safetensors here ({', '.join(others)}); save_pretrained of diffusers writes them")


def _what_else(folder: Path) -> str:
    """What a folder without model_index.json appears to be, by its file names."""
    single = sorted(path.name for path in folder.glob("*.safetensors"))
    inside = sorted(str(path.relative_to(folder).parent) for path in folder.glob("*/model_index.json"))
    if single:
        return f"a single-file checkpoint ({single[0]}), not a diffusers pipeline folder: give the folder named -Diffusers"
    if inside:
        return f"not a diffusers pipeline folder; {inside[0]} in it is one"
    return f"not a diffusers pipeline folder (no {INDEX})"


def _read_object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise BadInput(file, "not a JSON object")
    return value
