#!/usr/bin/env bash
# torch 2.13.0: the first optimizer of a process keeps the local variables of all its callers alive, after they have returned.
#
# Seen: a function makes a parameter and an optimizer, takes a step and returns. Its tensors stay alive after the first call,
# with all locals of the function's caller too. After the second call they are gone, as without a cycle. The first constructor
# imports torch._dynamo; `wrap` in torch/fx/_symbolic_trace.py keeps a frame in its own local variable, and so the whole stack.
# With torch._dynamo imported before, nothing stays.
#
# Why it matters: weights, gradients and Adam's moments of the first training in a process are only freed by the cyclic garbage
# collector, late or, with gc.freeze() or gc.disable(), never. Scoring after training then has less memory. Remedy:
# gc.collect() after the training, or `import torch._dynamo` at the top of the program.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$work/first.py" <<'PY'
import gc
import sys
import weakref

import torch

if sys.argv[1] == "before":
    import torch._dynamo

gc.collect()
gc.disable()


class Batch:
    pass


def step():
    weight = torch.nn.Parameter(torch.ones(8))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return weakref.ref(weight), weakref.ref(optimizer.state[weight]["exp_avg"])


def training():
    batch = Batch()
    return *step(), weakref.ref(batch)


for call in ("first", "second"):
    alive = [found() is not None for found in training()]
    print(f"dynamo {sys.argv[1]}, {call} call: weight, moment, caller's local alive: {alive}")
PY
for when in later before; do
  OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= "$work/venv/bin/python" "$work/first.py" "$when"
done | tee "$work/seen"
grep -q "^dynamo later, first call: .*\[True, True, True\]$" "$work/seen"
grep -q "^dynamo later, second call: .*\[False, False, False\]$" "$work/seen"
grep -q "^dynamo before, first call: .*\[False, False, False\]$" "$work/seen"
