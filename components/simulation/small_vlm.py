"""A small Qwen2-VL with random weights, and a tokenizer in its form: byte-level BPE with the same special tokens, so that
any text fits."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from components.config.pretrain import VlmShape
from components.reward.backbones.qwen2_vl import Qwen2VL
from components.reward.inputs import Batch, Input, PatchShape, collate, patches
from components.reward.prompt import TEMPLATES

SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
# One user turn, without a system line and an answer's head: each token of the frame costs time in every forward pass.
CHAT = (
    "{%- for turn in messages -%}{{ '<|im_start|>' }}{%- for part in turn['content'] -%}"
    "{%- if part['type'] == 'video' -%}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}{%- endfor -%}"
)
SmallVlm = Qwen2VLForConditionalGeneration
VIDEO = Qwen2VL.video_token
VIDEO_TURN = f"<|im_start|><|vision_start|>{VIDEO}<|vision_end|>Rate the video.\n"  # how a lesson about a clip begins


def train_tokenizer(corpus: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Learn up to `vocabulary` tokens (256 bytes and the special ones among them) from the corpus and our templates."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [path.read_text() for path in sorted(TEMPLATES.glob("*.txt"))]
    bpe.train_from_iterator([*corpus, *texts], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL[3:],
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def small_vlm(shape: VlmShape, tokenizer: Any) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL of this size around a tokenizer."""
    return Qwen2VLForConditionalGeneration(vlm_config(shape, tokenizer))


def token_ids(tokenizer: Any) -> dict[str, Any]:
    """Ids of the special tokens in a Qwen2-VL's configuration, without those of its text_config."""
    names = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    names |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}


def text_ids(tokenizer: Any) -> dict[str, int]:
    """The same of text_config."""
    names = {"bos_token_id": "endoftext", "eos_token_id": "im_end", "pad_token_id": "endoftext"}
    return {key: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in names.items()}


def vlm_config(shape: VlmShape, tokenizer: Any) -> Qwen2VLConfig:
    pairs = shape.hidden // shape.heads // 2
    section = [pairs - 2 * (pairs * 3 // 8), pairs * 3 // 8, pairs * 3 // 8]  # Qwen2-VL's 16 : 24 : 24
    return Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": shape.hidden,
            "intermediate_size": shape.ffn,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "max_position_embeddings": 4096,
            "initializer_range": 0.04,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
            **text_ids(tokenizer),
        },
        vision_config={
            "depth": shape.vision_layers,
            "embed_dim": shape.vision_dim,
            "num_heads": shape.vision_heads,
            "hidden_size": shape.hidden,
            "mlp_ratio": 4,
            "patch_size": shape.patch,
            "temporal_patch_size": shape.temporal_patch,
            "spatial_merge_size": shape.merge,
            "initializer_range": 0.04,
        },
        **token_ids(tokenizer),
        tie_word_embeddings=True,
    )


def save_qwen2_vl(folder: Path, config: dict[str, Any], tokenizer: Any, dtype: torch.dtype, random_module: Any) -> None:
    """Write a Qwen2-VL of a published model's sizes (`config`) with random weights around a tokenizer. The embedding keeps
    its rows. random_module(make, dtype): a module that make() gives, with weights."""
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}
    text = {"text_config": rope | config["text_config"] | text_ids(tokenizer)}
    made = Qwen2VLConfig(**config | token_ids(tokenizer) | text)
    random_module(lambda: Qwen2VLForConditionalGeneration(made), dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


STAND_INS = {"qwen2_vl": save_qwen2_vl}  # by `model_type` in infra/architectures


def patch_shape(shape: VlmShape) -> PatchShape:
    return PatchShape(shape.patch, shape.temporal_patch, shape.merge)


def batch_of(inputs: Sequence[Input], shape: VlmShape, pad_id: int) -> Batch:
    return collate(inputs, patch_shape(shape), Qwen2VL.pixels, pad_id)


def vision_tower(model: Qwen2VLForConditionalGeneration) -> nn.Module:
    return model.model.visual


def tower_tokens(tower: nn.Module, clips: np.ndarray, shape: PatchShape) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Tokens [sum of PatchShape.tokens, hidden] of clips [B, T, H, W, 3] of one size, one after the other, and the patches
    of each in time, height and width."""
    pixels, size = patches(clips, shape, Qwen2VL.pixels)
    return tower(pixels, grid_thw=torch.tensor([size] * len(clips))).pooler_output, size


def next_token_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """[B, L, V], with tokens numbered 0..L-1."""
    return model(
        input_ids=batch.input_ids,
        pixel_values_videos=batch.pixels,
        video_grid_thw=batch.grid,
        position_ids=torch.arange(batch.input_ids.shape[1]).expand(3, *batch.input_ids.shape),
        use_cache=False,
    ).logits
