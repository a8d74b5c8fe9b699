"""Text of a Wan pipeline: UMT5's embeddings of cleaned prompts."""

from dataclasses import dataclass

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from components.errors import NonFinite
from components.generator.conditioning import Conditioning

LONGEST_TEXT = 512  # tokens; what Wan 2.1 pads to


@dataclass(frozen=True)
class WanText:
    """TextEncoder of a WanPipeline: embeddings [B, L, D], of prompts that are cleaned and zero-padded as it does."""

    model: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, prompts: list[str]) -> Conditioning:
        length = min(self.tokenizer.model_max_length, LONGEST_TEXT)
        return Conditioning({"text": torch.stack([self._embedding(prompt, length) for prompt in prompts])})

    def _embedding(self, prompt: str, length: int) -> torch.Tensor:
        """[length, D]. Padding has no part in the encoder's attention, so zeros follow the prompt's own tokens; each prompt
        goes alone, so that others do not change its rounding."""
        tokens = self.tokenizer(prompt_clean(prompt), max_length=length, truncation=True, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        [hidden] = self.model(tokens.input_ids, tokens.attention_mask).last_hidden_state
        if not torch.isfinite(hidden).all():
            raise NonFinite(f"the text embedding of {prompt!r}")
        return pad(hidden, (0, 0, 0, length - len(hidden)))
