#!/usr/bin/env bash
# transformers 5.23.0, Qwen2-VL: a model that is loaded in bfloat16 is not the one that is loaded in float32 and cast.
# from_pretrained(dtype=bfloat16) keeps the frequencies of rotary positions in float32; model.to(bfloat16) rounds them, as
# they are buffers, in the language model and in the vision tower. All weights are equal, logits differ, and more at later
# positions. A reward model that is trained, cast and saved scores otherwise than the same folder loaded again.
#
# Seen: inv_freq torch.float32 and torch.bfloat16, largest relative error 0.0037; 46 weights equal; logits of a tiny random
# model at positions 0 to 47 differ by up to 0.3% of the largest one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

torch.manual_seed(0)
text = dict(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    bos_token_id=0, eos_token_id=1, pad_token_id=0,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
)
vision = dict(depth=1, embed_dim=32, num_heads=2, hidden_size=64, patch_size=4)
Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision)).save_pretrained("model")
loaded = Qwen2VLForConditionalGeneration.from_pretrained("model", dtype=torch.bfloat16).eval()
cast = Qwen2VLForConditionalGeneration.from_pretrained("model", dtype=torch.float32).to(torch.bfloat16).eval()

weights = [torch.equal(a, b) for a, b in zip(loaded.parameters(), cast.parameters(), strict=True)]
exact, rounded = (model.model.language_model.rotary_emb.inv_freq for model in (loaded, cast))
error = float(((rounded.float() - exact) / exact).abs().max())
with torch.no_grad():
    first, second = (model(input_ids=torch.arange(48)[None]).logits.float() for model in (loaded, cast))
apart = float((first - second).abs().max() / first.abs().max())
print(f"{sum(weights)} of {len(weights)} weights equal; inv_freq {exact.dtype} and {rounded.dtype}, off by {error:.4f}; logits by {apart:.4f}")
towers = [model.model.visual.rotary_pos_emb.inv_freq.dtype for model in (loaded, cast)]
assert all(weights) and towers == [torch.float32, torch.bfloat16]
assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16) and error > 0.001 and apart > 0.001, "they are alike now"
PYTHON
