#!/usr/bin/env bash
# PyAV 18.1.0 (its wheel's SVT-AV1 4.1.0), Linux, as root: encoding one clip with libsvtav1 leaves the calling thread with the
# scheduling policy SCHED_FIFO, priority 99, for the rest of the process's life. Its children inherit it.
#
# Seen: policy 0 (SCHED_OTHER) before; four frames of 64 x 64 encoded, the container closed; policy 1 (SCHED_FIFO), priority
# 99 afterwards, in a child too. libx264, libx265 and libvpx-vp9 leave it alone. Not as root, nothing changes.
#
# Why it matters: in a container, where root is usual, a worker that once wrote an AV1 clip holds its core against every other
# process. A pytest worker that encoded one kept priority 99 for the rest of its tests, and so did all that it started.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then echo "skipped: needs root"; exit 0; fi
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet av==18.1.0 numpy==2.4.6
cat > "$work/see.py" <<'PY'
import io, os, subprocess, sys
import av
import numpy as np

def encode(codec):
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        for packet in [*(p for _ in range(4) for p in stream.encode(frame)), *stream.encode()]:
            container.mux(packet)

def policy():
    return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority

assert policy() == (os.SCHED_OTHER, 0)
for codec in ("libx264", "libvpx-vp9"):
    encode(codec)
    assert policy() == (os.SCHED_OTHER, 0), codec
encode("libsvtav1")
child = subprocess.run([sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], capture_output=True, text=True)
print("PyAV", av.__version__, "policy and priority after libsvtav1:", policy(), "a child's policy:", child.stdout.strip())
assert policy() == (os.SCHED_FIFO, 99) and int(child.stdout) == os.SCHED_FIFO
PY
"$work/venv/bin/python" "$work/see.py" 2> /dev/null
