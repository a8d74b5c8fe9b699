"""Video files of the kinds that people have, each written small with PyAV."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from components.video.container import file_url


def moving(frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Noise that moves, uint8 [T, H, W, 3]: no two frames are alike."""
    base = np.random.default_rng(frames).integers(0, 256, (height // 8, width // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return np.stack([np.roll(base, 2 * index, axis=1) for index in range(frames)]).astype(np.uint8)


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """libsvtav1 leaves a process of root's with realtime priority (findings/svtav1_makes_the_process_realtime.sh)."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def write(
    path: Path,
    frames: int = 30,
    codec: str = "libx264",
    rate: Fraction | int = 16,
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    tick: Fraction | None = None,
    size: tuple[int, int] = (48, 64),
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    title: str | None = None,
) -> Path:
    """`times` are in ticks of `tick` seconds; without them frames come at `rate`, which is what the header says."""
    with ordinary_priority(), av.open(file_url(path), "w", container_options=muxer or {}) as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate, options={"preset": "ultrafast"} if "26" in codec else {})
        stream.options = stream.options | (options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if tick:
            stream.codec_context.time_base = tick
        for index, frame in enumerate(moving(frames, *size)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times:
                picture.pts, picture.time_base = times[index], tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def copy_packets(source: Path, target: Path, change=lambda packet: packet, muxer: dict[str, str] | None = None) -> Path:
    """The packets of `source` in another container; `change` may alter one, or give None to leave it out."""
    with av.open(file_url(source)) as given, av.open(file_url(target), "w", container_options=muxer or {}) as made:
        stream = given.streams.video[0]
        copied = made.add_stream_from_template(stream, opaque=True)
        for packet in given.demux(stream):
            if packet.size and (packet := change(packet)) is not None:
                packet.stream = copied
                made.mux(packet)
    return target


def set_edit(path: Path, start: int, length: int, timescale: int = 16384) -> Path:
    """Have the MP4 file's edit list show `length` ticks from tick `start` of the track on."""
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 4
    movie = struct.unpack(">I", content[content.index(b"mvhd") + 16 :][:4])[0]
    content[at + 8 : at + 16] = struct.pack(">Ii", length * movie // timescale, start)
    path.write_bytes(content)
    return path
