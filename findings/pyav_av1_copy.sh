#!/usr/bin/env bash
# PyAV 18.1.0: `add_stream_from_template(stream)` cannot copy an AV1 track into another file: it raises UnknownCodecError
# "libdav1d". PyAV looks up an encoder by the decoder's name, and FFmpeg's decoder of AV1 is libdav1d; `opaque=True` copies
# it. `stream.codec_context.name` is "libdav1d" too, `.codec.canonical_name` is "av1".
# Why it matters: browsers play AV1, and much of the web serves it. H.264, HEVC and VP9 are copied without the argument, so a
# remux that was tested on these fails on AV1 alone, and a check of codec names refuses it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import av
import numpy as np

with av.open("av1.mp4", "w") as made:
    stream = made.add_stream("libsvtav1", rate=8)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for level in range(8):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 30 * level, np.uint8), format="rgb24")
        made.mux(stream.encode(frame))
    made.mux(stream.encode())


def copy(**options):
    with av.open("av1.mp4") as given, av.open("copy.mp4", "w") as made:
        stream = given.streams.video[0]
        copied = made.add_stream_from_template(stream, **options)
        for packet in given.demux(stream):
            if packet.size:
                packet.stream = copied
                made.mux(packet)
    with av.open("copy.mp4") as made:
        return sum(1 for _ in made.decode(video=0))


with av.open("av1.mp4") as given:
    codec = given.streams.video[0].codec_context
    names = codec.name, codec.codec.canonical_name
print("decoder and codec:", *names)
assert names == ("libdav1d", "av1")
try:
    copy()
    raise SystemExit("copied without opaque=True: the behaviour has changed")
except av.codec.codec.UnknownCodecError as error:
    print("add_stream_from_template(stream): UnknownCodecError:", error)
print("add_stream_from_template(stream, opaque=True): frames", copy(opaque=True))
PYTHON
