"""Write a clip as H.264 in MP4. The same frames give the same bytes: one thread, no version strings, no dates."""

from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from components.files.atomic import whole_file
from components.video.container import VideoError, file_url


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float, crf: int = 8) -> None:
    """Write uint8 RGB [T, H, W, 3], or frames [H, W, 3] as they come, with even H and W at `fps` frames a second (yuv420p,
    libx264).

    `crf` is x264's constant quality: 0 lossless but for the colour format, 8 hard to tell from the source, 23 its
    default. VideoError when the frames cannot be written so.
    """
    import av.codec.context  # here, as the module is named in light places

    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise VideoError(path, "no frames")
    if first.dtype != np.uint8 or first.ndim != 3 or first.shape[2] != 3:
        raise VideoError(path, f"a frame is {first.dtype} {first.shape}, not uint8 [H, W, 3]")
    height, width = first.shape[:2]
    if height % 2 or width % 2:
        raise VideoError(path, f"{width}x{height}: H.264 in yuv420p needs even sizes")
    with (
        whole_file(path, sync=False) as partial,
        av.open(file_url(partial), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        # On clips of a few macroblocks x264's macroblock tree reads memory that it never wrote. With that memory filled
        # by different bytes, 28 of 30 clips of 32x32 came out in several versions with it, and none without.
        stream.options = {"crf": str(crf), "preset": "medium", "x264-params": "mbtree=0"}
        for frame in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
