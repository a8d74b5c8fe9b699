#!/usr/bin/env bash
# diffusers 0.42.1: with force_zeros_for_empty_prompt, MochiPipeline drops the text of every prompt of a call when the last
# one is "".
#
# Seen: ["a red cat", "a cat"] encodes "a red cat" as alone, with 3 tokens in its mask; ["a red cat", ""] gives it 0 tokens and
# another embedding. The condition looks at the last prompt alone, and then zeroes ids and mask of the whole batch. Nothing is
# said. With "" first in the list nothing is zeroed.
#
# Why it matters: a batch of prompts with an empty one at its end (an unconditional sample, a dropped prompt) is drawn without
# any prompt.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cat > "$work/see.py" <<'PY'
import torch
from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "cat": 5}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=8)
torch.manual_seed(0)
text = T5EncoderModel(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval()
pipeline = MochiPipeline(
    scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True), vae=None, text_encoder=text, tokenizer=tokenizer,
    transformer=None, force_zeros_for_empty_prompt=True,
)

def encoded(prompts):
    with torch.no_grad():
        return pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=8, device="cpu")

alone, alone_mask = encoded(["a red cat"])
first, first_mask = encoded(["a red cat", "a cat"])
last, last_mask = encoded(["a red cat", ""])
front, front_mask = encoded(["", "a red cat"])
print("tokens of 'a red cat' in the mask: alone", int(alone_mask[0].sum()), "| before 'a cat'", int(first_mask[0].sum()), "| before ''", int(last_mask[0].sum()))
print("its embedding alone and before '' are equal:", torch.allclose(alone[0], last[0], atol=1e-6))
print("tokens of '' in the mask: last", int(last_mask[1].sum()), "| first", int(front_mask[0].sum()))
assert torch.allclose(alone[0], first[0], atol=1e-6) and int(alone_mask[0].sum()) == int(first_mask[0].sum()) > 0
assert int(last_mask[0].sum()) == 0 and not torch.allclose(alone[0], last[0], atol=1e-6)
PY
"$work/venv/bin/python" "$work/see.py"
