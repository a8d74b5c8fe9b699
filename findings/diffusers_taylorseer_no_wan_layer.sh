#!/usr/bin/env bash
# diffusers 0.42.1: TaylorSeerCacheConfig with its defaults changes nothing on a Wan transformer, and nothing is said.
#
# Seen: enable_cache(TaylorSeerCacheConfig(...)) returns, is_cache_enabled is True, and not one layer carries a hook: 6 of 6
# attention passes are computed in 6 steps, and the outputs are those without a cache, bit for bit. The default patterns are
# matched in full against names of layers and end in `attn`; Wan's attention layers are `attn1` and `attn2`. FLUX's are `attn`,
# and there the same configuration hooks each block. With use_lite_mode=True Wan computes 4 of 6.
#
# Why it matters: a benchmark of "TaylorSeer on Wan" measures the plain model, and finds no loss of quality.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cat > "$work/see.py" <<'PY'
import torch
from diffusers import TaylorSeerCacheConfig, WanTransformer3DModel

def small():
    torch.manual_seed(0)
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=16,
    ).eval()

@torch.no_grad()
def steps(lite):
    model = small()
    calls, own = [], model.blocks[1].attn1.forward
    model.blocks[1].attn1.forward = lambda *a, **k: calls.append(1) or own(*a, **k)
    if lite is not None:
        model.enable_cache(TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=2, taylor_factors_dtype=torch.float32, use_lite_mode=lite))
        assert model.is_cache_enabled
    x, text = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1)), torch.ones(1, 3, 8)
    for step in range(6):
        t = torch.tensor([1000.0 - 150 * step])
        if lite is None:
            v = model(x, t, text, return_dict=False)[0]
        else:
            with model.cache_context("cond"):
                v = model(x, t, text, return_dict=False)[0]
        x = x - 0.15 * v
    hooks = [name for name, part in model.named_modules() if "taylorseer_cache" in getattr(getattr(part, "_diffusers_hook", None), "hooks", {})]
    return x, len(calls), hooks

plain, computed, _ = steps(None)
default, with_default, hooks = steps(False)
lite, with_lite, lite_hooks = steps(True)
print("attention passes in 6 steps: plain", computed, "| default", with_default, "| lite", with_lite)
print("layers hooked: default", hooks, "| lite", lite_hooks)
print("default equals plain, bit for bit:", torch.equal(plain, default), "| lite:", torch.equal(plain, lite))
assert (computed, with_default, with_lite) == (6, 6, 4)
assert hooks == [] and lite_hooks and torch.equal(plain, default) and not torch.equal(plain, lite)
PY
"$work/venv/bin/python" "$work/see.py"
