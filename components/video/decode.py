"""Read clips with PyAV, and say by name why one cannot be read. Frames are RGB as FFmpeg converts them by default."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np


class VideoError(Exception):
    """A clip cannot be read or written. `why` starts with what is wrong in a few words, and fits in a table cell."""

    def __init__(self, path: str | Path, why: str):
        super().__init__(f"{path}: {why}")
        self.path = Path(path)
        self.why = why

    def __reduce__(self):  # so that it crosses process borders: Exception would be rebuilt from its one text
        return VideoError, (self.path, self.why)


@dataclass(frozen=True)
class VideoInfo:
    """What the container says, checked against the packets that are really there."""

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    fps: float  # average over the stream
    frames: int  # packets of the video stream
    duration: float  # seconds, frames / fps


def probe(path: str | Path) -> VideoInfo:
    """Read a clip's headers and count its packets, decoding only the first frame. VideoError if it cannot be used."""
    with _open(path) as container:
        stream = _video_stream(path, container)
        try:
            first = next(container.decode(stream), None)
            if first is None:
                raise VideoError(path, "no frames")
            _check_frame(path, first)
            container.seek(0)
            frames = sum(1 for packet in container.demux(stream) if packet.size > 0)
        except av.error.FFmpegError as error:
            raise VideoError(path, f"truncated or corrupt: {error.strerror}") from error
        _check_count(path, frames, stream.frames)
        if not stream.average_rate:
            raise VideoError(path, "no frame rate")
        fps = float(stream.average_rate)
        return VideoInfo(
            container=container.format.name.split(",")[0],
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            fps=fps,
            frames=frames,
            duration=frames / fps,
        )


def iter_frames(path: str | Path, indices: Sequence[int] | None = None) -> Iterator[np.ndarray]:
    """Frames in order, uint8 RGB [H, W, 3], one in memory at a time; only those of `indices` (ascending) if given.

    Decoding starts at the first frame and stops after the last one wanted, so an index is a count of frames and not a
    guess from time stamps. VideoError when the clip breaks, changes size or ends before the last one wanted.
    """
    wanted = None if indices is None else _wanted(indices)
    with _open(path) as container:
        stream = _video_stream(path, container)
        stream.thread_type = "NONE"  # callers run several clips at a time
        seen, shape = 0, None
        try:
            for frame in container.decode(stream):
                _check_frame(path, frame)
                if shape not in (None, (frame.height, frame.width)):
                    raise VideoError(path, f"frame size changes at frame {seen}")
                shape = (frame.height, frame.width)
                if wanted is None or seen in wanted:
                    yield frame.to_ndarray(format="rgb24")
                seen += 1
                if wanted is not None and seen > max(wanted):
                    return
        except av.error.FFmpegError as error:
            raise VideoError(path, f"truncated or corrupt: {error.strerror} after {seen} frames") from error
        if seen == 0:
            raise VideoError(path, "no frames")
        if wanted is not None:
            raise VideoError(path, f"truncated: {seen} frames, frame {max(wanted)} was wanted")
        _check_count(path, seen, stream.frames)


def read_frames(path: str | Path, indices: Sequence[int] | None = None) -> np.ndarray:
    """uint8 RGB [T, H, W, 3]: the frames of `indices`, in that order, or all. See iter_frames."""
    if indices is None:
        return np.stack(list(iter_frames(path)))
    ascending = sorted(set(indices))
    kept = dict(zip(ascending, iter_frames(path, ascending), strict=True))
    return np.stack([kept[index] for index in indices])


def _open(path: str | Path):
    if not Path(path).is_file():
        raise VideoError(path, "no such file")
    try:
        return av.open(str(path))
    except av.error.FFmpegError as error:
        raise VideoError(path, f"unreadable: {error.strerror}") from error


def _video_stream(path: str | Path, container):
    if not container.streams.video:
        raise VideoError(path, "no video stream")
    return container.streams.video[0]


def _check_frame(path: str | Path, frame) -> None:
    if frame.is_corrupt:
        raise VideoError(path, "truncated or corrupt: a frame is damaged")
    if frame.rotation:
        raise VideoError(path, f"rotated by {frame.rotation} degrees in its metadata; re-encode it upright")


def _check_count(path: str | Path, frames: int, promised: int) -> None:
    """`promised` is 0 for containers that do not say (Matroska, transport streams)."""
    if frames == 0:
        raise VideoError(path, "no frames")
    if frames < promised:
        raise VideoError(path, f"truncated: {frames} of {promised} frames")


def _wanted(indices: Sequence[int]) -> frozenset[int]:
    if not indices or min(indices) < 0:
        raise ValueError(f"indices {list(indices)} are not frame numbers")
    return frozenset(indices)
