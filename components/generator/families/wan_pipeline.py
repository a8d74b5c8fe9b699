"""WanPipeline for a generator that was trained on fewer text tokens than Wan's 512.

WanPipeline pads a prompt with zeros to `max_sequence_length`, 512 by default, and its transformer attends to them: one that
was trained on 16 draws other clips. This file is published in the folder of such a generator and imports diffusers alone:

    DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
"""

from typing import Any

from diffusers import WanPipeline


class ShortTextWanPipeline(WanPipeline):
    """WanPipeline that pads a prompt to the `model_max_length` of its tokenizer where that is below `max_sequence_length`.
    With Wan's own tokenizer, of 512 tokens, it is WanPipeline."""

    def encode_prompt(self, *args: Any, max_sequence_length: int = 512, **settings: Any) -> tuple:
        """As WanPipeline's: embeddings [B, L, D] of the prompts and of the negative prompts (None without guidance)."""
        length = min(max_sequence_length, self.tokenizer.model_max_length)
        return super().encode_prompt(*args, max_sequence_length=length, **settings)
