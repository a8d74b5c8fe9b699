#!/usr/bin/env bash
# torch 2.13.0: torchrun ends with exit code 1, whatever the exit code of the program that it runs.
#
# Seen: a program that ends with 3, one with 75, and one that SIGKILL ends. Alone their exit codes are 3, 75 and 137; under
# torchrun with one process all three are 1. torchrun knows the codes: its log has "exitcode: 3" and so on.
#
# Why it matters: exit codes drive retries (podFailurePolicy of Kubernetes, SLURM, schedulers that requeue on
# 75). Under torchrun these rules never match. ChildFailedError.get_first_failure() of torch.distributed.elastic has the code.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
cat > "$work/end.py" <<'PY'
import os
import signal
import sys

if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(sys.argv[1]))
PY
export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
code() { local status=0; "$@" > "$work/out" 2> "$work/err" || status=$?; echo "$status"; }
for how in 3 75 kill; do
  alone=$(code "$work/venv/bin/python" "$work/end.py" "$how")
  launched=$(code "$work/venv/bin/torchrun" --standalone --nproc-per-node 1 "$work/end.py" "$how")
  echo "$how: alone $alone, torchrun $launched, $(grep -hoE "exitcode *: -?[0-9]+" "$work/out" "$work/err" | head -n 1)"
done | tee "$work/seen"
grep -qE "^3: alone 3, torchrun 1, exitcode *: 3$" "$work/seen"
grep -qE "^75: alone 75, torchrun 1, exitcode *: 75$" "$work/seen"
grep -qE "^kill: alone 137, torchrun 1, exitcode *: -9$" "$work/seen"
