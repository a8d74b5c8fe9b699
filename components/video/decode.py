"""Read clips with PyAV, and say by name why one cannot be read. Frames are RGB as FFmpeg converts them by default."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

# FFmpeg also reads playlists (HLS, DASH, concat), which name other files and addresses to be opened. Strangers' bytes are
# only read as what holds its own pictures.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,h264,hevc,av1,obu,ivf,yuv4mpegpipe,nut,mxf"


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


@dataclass(frozen=True)
class Shown:
    """Number of frames, and place of each packet's time stamp in the order in which frames are shown; no places where
    packets have no time stamps of their own (a bare H.264 stream)."""

    frames: int
    places: dict[int, int]


def probe(path: str | Path) -> VideoInfo:
    """Read a clip's headers and its packets, decoding only the first frame. VideoError if it cannot be used."""
    return _look(path)[0]


class ClipReader:
    """A clip read once, from start to end: iterate over it for its frames, uint8 RGB [H, W, 3], one in memory at a time.

    `facts` fills as the pass goes on, also where it breaks off with VideoError: what the container says (container,
    codec, pixel_format, width, height), `rotation` in degrees with the first frame, and at the end what the packets say:
    frames, fps, duration and `rate_variation`, how much longer the longest gap between two frames is than the shortest,
    over the mean (0 is a constant rate; None where packets have no time stamps of their own or there is one frame).
    """

    def __init__(self, path: str | Path):
        self.path = path
        self.facts: dict[str, str | int | float | None] = {}

    def __iter__(self) -> Iterator[np.ndarray]:
        with _open(self.path) as container:
            stream = _video_stream(self.path, container)
            stream.thread_type = "NONE"  # callers run several clips at a time
            self.facts |= _facts_of_container(container, stream)
            seen, shape, times, reformatter = 0, None, [], VideoReformatter()
            try:
                for packet in container.demux(stream):
                    if packet.size > 0 and not packet.is_discard:
                        times.append(packet.pts)
                    for frame in packet.decode():
                        if not seen:
                            self.facts["rotation"] = frame.rotation
                        shape = _check_frame(self.path, frame, shape)
                        yield _rgb(frame, reformatter)
                        seen += 1
            except av.error.FFmpegError as error:
                raise VideoError(self.path, f"truncated or corrupt: {error.strerror} after {seen} frames") from error
            _check_count(self.path, seen, stream.frames)
            fps = _rate(self.path, stream)
            self.facts |= {
                "frames": seen,
                "fps": fps,
                "duration": seen / fps,
                "rate_variation": _rate_variation(times),
            }


def read_frames(path: str | Path, indices: Sequence[int] | None = None) -> np.ndarray:
    """uint8 RGB [T, H, W, 3]: the frames of `indices`, in that order, or all.

    An index counts frames in the order in which they are shown. Decoding starts at the first frame and stops after the
    last one wanted; frames in between that no other frame refers to are not decoded (about half of H.264 as x264 makes
    it), so damage that touches only them is not seen. VideoError when the clip breaks, changes size or ends before the
    last one wanted.
    """
    if indices is None:
        return np.stack(list(ClipReader(path)))
    try:
        with _open(path) as container:
            packets = container.demux(_video_stream(path, container))
            shown = _shown([packet.pts for packet in packets if packet.size > 0 and not packet.is_discard])
    except av.error.FFmpegError as error:
        raise VideoError(path, f"truncated or corrupt: {error.strerror}") from error
    return _decode(path, indices, shown)


def read_chosen(path: str | Path, choose: Callable[[VideoInfo], Sequence[int]]) -> np.ndarray:
    """The frames that `choose` names once it knows what the clip is like; as probe and then read_frames, with half of the
    reading."""
    info, shown = _look(path)
    return _decode(path, choose(info), shown)


def _look(path: str | Path) -> tuple[VideoInfo, Shown]:
    with _open(path) as container:
        stream = _video_stream(path, container)
        stream.thread_type = "NONE"  # as below; for one frame, starting threads takes longer than decoding
        times, first = [], None
        try:
            for packet in container.demux(stream):
                if packet.size > 0 and not packet.is_discard:
                    times.append(packet.pts)
                if first is None:
                    first = next(iter(packet.decode()), None)
        except av.error.FFmpegError as error:
            raise VideoError(path, f"truncated or corrupt: {error.strerror}") from error
        if first is None:
            raise VideoError(path, "no frames")
        _check_frame(path, first, None)
        _check_count(path, len(times), stream.frames)
        fps, frames = _rate(path, stream), len(times)
        facts = _facts_of_container(container, stream)
        return VideoInfo(**facts, fps=fps, frames=frames, duration=frames / fps), _shown(times)


def _decode(path: str | Path, indices: Sequence[int], shown: Shown) -> np.ndarray:
    if not len(indices) or min(indices) < 0:
        raise ValueError(f"indices {list(indices)} are not frame numbers")
    if max(indices) >= shown.frames:
        raise VideoError(path, f"truncated: {shown.frames} frames, frame {max(indices)} was wanted")
    kept: dict[int, np.ndarray] = {}
    # Opened anew, as not all that can be read can be wound back.
    with _open(path) as container:
        stream = _video_stream(path, container)
        stream.thread_type = "NONE"
        shape, reformatter = None, VideoReformatter()
        wanted, decoded = set(indices), 0
        try:
            for packet in container.demux(stream):
                # The last, empty packet asks for what is left.
                needed = not shown.places or packet.size == 0 or shown.places.get(packet.pts) in wanted
                stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
                for frame in packet.decode():
                    shape = _check_frame(path, frame, shape)
                    index = shown.places.get(frame.pts) if shown.places else decoded
                    decoded += 1
                    if index in wanted:
                        kept[index] = _rgb(frame, reformatter)
                if len(kept) == len(wanted):
                    break
        except av.error.FFmpegError as error:
            raise VideoError(path, f"truncated or corrupt: {error.strerror} after {len(kept)} wanted frames") from error
    missing = sorted(set(indices) - kept.keys())
    if missing:
        raise VideoError(path, f"truncated or corrupt: frame {missing[0]} cannot be decoded")
    return np.stack([kept[index] for index in indices])


def _shown(times: list[int | None]) -> Shown:
    if None in times or len(set(times)) < len(times):
        return Shown(len(times), {})
    return Shown(len(times), {time: index for index, time in enumerate(sorted(times))})


def _open(path: str | Path):
    if not Path(path).is_file():
        raise VideoError(path, "no such file")
    try:
        return av.open(str(path), options={"format_whitelist": CONTAINERS})
    except av.error.FFmpegError as error:
        raise VideoError(path, f"unreadable: {error.strerror}") from error


def _video_stream(path: str | Path, container):
    if not container.streams.video:
        raise VideoError(path, "no video stream")
    return container.streams.video[0]


def _facts_of_container(container, stream) -> dict[str, str | int]:
    codec = stream.codec_context
    return {
        "container": container.format.name.split(",")[0],
        "codec": codec.name,
        "pixel_format": codec.pix_fmt,
        "width": codec.width,
        "height": codec.height,
    }


def _rate(path: str | Path, stream) -> float:
    """Frames a second, on average."""
    if not stream.average_rate:
        raise VideoError(path, "no frame rate")
    return float(stream.average_rate)


def _rate_variation(times: list[int | None]) -> float | None:
    """(longest - shortest) / mean gap between the time stamps of packets. A difference of one tick of the clock, as of 30
    frames a second in milliseconds, is no variation."""
    if None in times or len(set(times)) < 2:
        return None
    gaps = np.diff(sorted(times))
    difference = int(gaps.max() - gaps.min())
    return difference / float(gaps.mean()) if difference > 1 else 0.0


def _rgb(frame, reformatter: VideoReformatter) -> np.ndarray:
    """uint8 [H, W, 3]. A `reformatter` that stays for the clip, and no copy where rows have no padding: together a third
    less time than frame.to_ndarray()."""
    # Left to itself FFmpeg starts threads for each frame: on a busy machine that costs many times the conversion.
    plane = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return np.ascontiguousarray(rows[:, : 3 * plane.width]).reshape(plane.height, plane.width, 3)


def _check_frame(path: str | Path, frame, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of a frame, which must be those of the frame before (`shape`, None at the first)."""
    if frame.is_corrupt:
        raise VideoError(path, "truncated or corrupt: a frame is damaged")
    if frame.rotation:
        raise VideoError(path, f"rotated by {frame.rotation} degrees in its metadata; re-encode it upright")
    if shape not in (None, (frame.height, frame.width)):
        raise VideoError(path, f"the frame size changes from {shape[1]}x{shape[0]} to {frame.width}x{frame.height}")
    return frame.height, frame.width


def _check_count(path: str | Path, frames: int, promised: int) -> None:
    """`promised` is 0 for containers that do not say (Matroska, transport streams)."""
    if frames == 0:
        raise VideoError(path, "no frames")
    if frames < promised:
        raise VideoError(path, f"truncated: {frames} of {promised} frames")
