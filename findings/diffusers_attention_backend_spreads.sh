#!/usr/bin/env bash
# diffusers 0.42.1: set_attention_backend of one model becomes the default of all models in the process, and
# reset_attention_backend of that model does not take it back.
#
# Seen: two transformers; `first.set_attention_backend("_native_math")`; the second, never touched, calls _native_math as well
# (counted in torch's own function); after `first.reset_attention_backend()` both still do. The text of reset says that later
# passes use the environment's default or torch's own. The context manager `attention_backend(...)` of the same module does
# restore what was there before.
#
# Why it matters: a reward model or a teacher beside the generator silently changes its kernel, and with it its numbers.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cat > "$work/see.py" <<'PY'
import torch
from diffusers import WanTransformer3DModel
from diffusers.models import attention_dispatch as dispatch

def small():
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8,
        freq_dim=16, ffn_dim=32, num_layers=1, rope_max_seq_len=16,
    ).eval()

used = []
registry = dispatch._AttentionBackendRegistry._backends
for name, function in list(registry.items()):
    registry[name] = lambda *a, _own=function, _name=name, **k: used.append(_name.value) or _own(*a, **k)

@torch.no_grad()
def kernels(model):
    used.clear()
    model(torch.zeros(1, 4, 1, 4, 4), torch.tensor([500.0]), torch.ones(1, 3, 8), return_dict=False)
    return sorted(set(used))

first, second = small(), small()
before = kernels(second)
first.set_attention_backend("_native_math")
after = kernels(second)
first.reset_attention_backend()
reset_first, reset_second = kernels(first), kernels(second)
print("second model before:", before, "| after the first was set:", after)
print("after the first was reset: first", reset_first, "| second", reset_second)
assert before == ["native"] and after == reset_first == reset_second == ["_native_math"]
PY
"$work/venv/bin/python" "$work/see.py"
