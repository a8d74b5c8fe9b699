"""The limits of readers, as a section of params, and videos that are larger than they look."""

from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av

from components.config.params import LimitParams
from components.video.limits import LIMITS

LIMIT_PARAMS = LimitParams(**asdict(LIMITS))


def write_flat(path: Path, width: int, height: int, frames: int, fps: int = 8, codec: str = "libx264") -> Path:
    """A clip of one colour a frame, made without a picture of RGB: 8K takes 100 kB."""
    options = {"preset": "ultrafast", "crf": "40"} if codec == "libx264" else {}
    with av.open(str(path), "w") as made:
        stream = made.add_stream(codec, rate=Fraction(fps), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        picture = av.VideoFrame(width, height, "yuv420p")
        for number in range(frames):
            for plane, level in zip(picture.planes, (60 + number // 8 % 100, 100, 140), strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            picture.pts, picture.time_base = number, Fraction(1, fps)
            made.mux(stream.encode(picture))
        made.mux(stream.encode())
    return path
