#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0: `PartialState()` does not read ACCELERATE_USE_CPU, which `Accelerator()` reads.
#
# Seen: two processes of torchrun on a machine without a GPU, with ACCELERATE_USE_CPU=true. `Accelerator()` and
# `PartialState(cpu=True)` give 2 processes and MULTI_CPU. `PartialState()` gives 1 process and NO in both, without a warning.
#
# Why it matters: PartialState is what scripts of inference share their work by. Each process then takes itself for the only
# one: it does all of the work and writes over the files of the other. Whether this happens depends on which class came first,
# as the state is shared by all of a process.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
cat > "$work/state.py" <<'PY'
import sys

from accelerate import Accelerator, PartialState

made = {"Accelerator": Accelerator, "PartialState": PartialState, "PartialState_cpu": lambda: PartialState(cpu=True)}
state = made[sys.argv[1]]()
print(sys.argv[1], state.num_processes, state.distributed_type.value, flush=True)
PY
export CUDA_VISIBLE_DEVICES= ACCELERATE_USE_CPU=true OMP_NUM_THREADS=1
for way in Accelerator PartialState_cpu PartialState; do
  "$work/venv/bin/torchrun" --standalone --nproc-per-node 2 "$work/state.py" "$way" 2> "$work/log" || { cat "$work/log"; exit 1; }
done | tee "$work/seen"
[ "$(grep -c "^Accelerator 2 MULTI_CPU$" "$work/seen")" = 2 ]
[ "$(grep -c "^PartialState_cpu 2 MULTI_CPU$" "$work/seen")" = 2 ]
[ "$(grep -c "^PartialState 1 NO$" "$work/seen")" = 2 ]
