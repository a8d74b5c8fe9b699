"""A WanPipeline folder of any size with random weights, written part by part."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UniPCMultistepScheduler
from torch import nn

from components.generator.families.wan import LONGEST_TEXT, Wan
from components.generator.families.wan_small import word_tokenizer
from components.generator.family import SECOND_PART, Network
from components.generator.parts import INDEX

CLASSES = {
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
}
SETTINGS = ("_class_name", "boundary_ratio", "expand_timesteps")  # of model_index.json, beside the parts
RandomModule = Callable[[Callable[[], nn.Module], torch.dtype], nn.Module]


def save_wan(
    folder: Path, configs: dict[str, Any], words: list[str], dtype: torch.dtype, random_module: RandomModule
) -> None:
    """Transformer and text encoder in `dtype`, the VAE in float32, a tokenizer of `words`, and Wan's own scheduler. One part
    is in memory at a time.

    configs: by part, as in infra/architectures. random_module(make, dtype): a module that make() gives, with weights.
    """
    family, tokenizer = Wan().variant(configs), word_tokenizer(words, LONGEST_TEXT)
    own = configs | {"text_encoder": configs["text_encoder"] | {"pad_token_id": tokenizer.pad_token_id}}
    for part in family.parts:
        own_dtype = torch.float32 if part in family.float32_parts else dtype
        module: Network = random_module(lambda part=part: family.untrained(part, own), own_dtype)
        module.save_pretrained(folder / part)
        del module
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.save_pretrained(folder / "scheduler")
    classes = CLASSES if family.boundary is None else CLASSES | {SECOND_PART: CLASSES["transformer"]}
    index = {key: value for key, value in configs.items() if key in SETTINGS} | classes
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


STAND_INS = {"WanPipeline": save_wan}  # by `_class_name` in infra/architectures
