"""Small Qwen2.5-VL and Qwen3-VL with random weights, as folders of base models."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from components.simulation.small_vlm import text_ids, token_ids, train_tokenizer

CORPUS = ["a red circle moving up", "<0.2 seconds><1.3 seconds><10.5 seconds>"]


def small_config(kind: str, tokenizer: Any, width: int = 32, layers: int = 3, patch: int = 4) -> Any:
    """Heads of 16, four layers of vision. Windows of Qwen2.5-VL are 2 x 2 merged patches, its second layer sees all."""
    ids = token_ids(tokenizer)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 16,
        "num_key_value_heads": width // 32,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        **text_ids(tokenizer),
    }
    vision = {
        "depth": 4,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": width // 16,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": width,
        "initializer_range": 0.1,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    if kind == "qwen2_5_vl":
        windows = {"window_size": 4 * patch, "fullatt_block_indexes": [1], "tokens_per_second": 2}
        whole = {"text_config": text | {"rope_parameters": rope}, "vision_config": vision | windows}
        return Qwen2_5_VLConfig(**whole, **ids, tie_word_embeddings=True)
    places = {"num_position_embeddings": 36, "deepstack_visual_indexes": [0, 2]}
    interleaved = {"rope_parameters": rope | {"mrope_interleaved": True}, "head_dim": 16}
    whole = {"text_config": text | interleaved, "vision_config": vision | places}
    return Qwen3VLConfig(**whole, **ids, tie_word_embeddings=True)


KINDS = {"qwen2_5_vl": Qwen2_5_VLForConditionalGeneration, "qwen3_vl": Qwen3VLForConditionalGeneration}


def write_small(folder: Path, kind: str, **sizes: int) -> Path:
    """A base model's folder."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(CORPUS, 320)
    network = KINDS[kind](small_config(kind, tokenizer, **sizes))
    with torch.no_grad():  # biases and norms that do something
        for weight in network.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn_like(weight))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
