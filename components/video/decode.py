"""Read clips with PyAV; an error names the clip and the reason. Frames are RGB as FFmpeg converts them by default.

A frame is what a player shows, here and in all that reads clips by this module. What an edit list hides is none, nor what
can only be decoded with a part that was cut off. One frame is in memory at its own size; those that are kept may be
made smaller as they come.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av.error
import numpy as np
from av.video.reformatter import VideoReformatter

from components.video.container import VideoError, check_whole, container_name, open_file, video_stream
from components.video.limits import LIMITS, Limits
from components.video.timing import PacketScan, Timing, timing_of


@dataclass(frozen=True)
class VideoInfo:
    """What a clip is like: what its container says, and of its frames what a player shows."""

    container: str
    codec: str  # FFmpeg's name of the format, whichever decoder reads it
    pixel_format: str
    width: int
    height: int
    fps: float  # average over the clip, also where the rate varies
    frames: int
    duration: float  # seconds, frames / fps


@dataclass(frozen=True)
class PresentedFrames:
    """Number of frames, and place of each packet's time stamp in the order in which frames are shown; no places where
    only decoding tells which packets are frames."""

    frames: int
    places: dict[int | None, int]


GROWTH = 16  # frames, the least by which an array of frames grows
Change = Callable[[np.ndarray], np.ndarray]  # of one frame [H, W, 3]; all of a clip are given one shape


def probe(path: str | Path, limits: Limits = LIMITS) -> VideoInfo:
    """Read a clip's headers and its packets, decoding only the first frame where packets tell the number of frames.
    VideoError if it cannot be used."""
    return _look(path, limits)[0]


class ClipReader:
    """A clip read once, from start to end: iterate over it for its frames, uint8 RGB [H, W, 3], one in memory at a time.

    `facts` fills as the pass goes on, also where it breaks off with VideoError: what the container says (container,
    codec, pixel_format, width, height), `rotation` in degrees and `interlaced` with the first frame, and at the end the
    fields of Timing. VideoError too where the number of frames is not that of `count`, once that was called.
    """

    def __init__(self, path: str | Path, limits: Limits = LIMITS):
        self.path = path
        self.limits = limits
        self.counted: int | None = None
        self.facts: dict[str, Any] = {}
        self.interlaced = False

    def __iter__(self) -> Iterator[np.ndarray]:
        with open_file(self.path, self.limits) as container:
            stream = _single_threaded(video_stream(self.path, container, self.limits))
            self.facts |= _facts_of_container(container, stream)
            first, shape, times, durations, reformatter = None, None, [], [], VideoReformatter()
            scan = PacketScan(self.facts["codec"])
            try:
                for packet in _packets(self.path, container, stream, self.limits, scan):
                    for frame in packet.decode():
                        if first is None:
                            first = frame
                            self.facts["rotation"], self.interlaced = frame.rotation, frame.interlaced_frame
                        shape = _check_frame(self.path, frame, shape)
                        yield _rgb(frame, reformatter)
                        times.append(frame.pts)
                        durations.append(frame.duration or 0)
            except av.error.FFmpegError as error:
                raise _failure(self.path, stream, self.limits, error, f" after {len(times)} frames") from error
            check_whole(self.path, container, stream, scan.read)
            if first is None:
                raise VideoError(self.path, "no frames")
            if scan.counts(first):
                if len(times) < len(scan.times):
                    raise VideoError(self.path, f"truncated or corrupt: {len(times)} of {len(scan.times)} frames")
                times, durations = scan.shown()
            timing = _timing(self.path, container, stream, times, durations)
            if self.counted not in (None, timing.frames):
                raise VideoError(self.path, f"truncated or corrupt: {timing.frames} of {self.counted} frames")
            self.facts |= _facts_of_container(container, stream) | vars(timing)

    def count(self) -> int:
        """How many frames the clip has, found beside the pass that is under way."""
        self.counted = probe(self.path, self.limits).frames
        return self.counted


def read_frames(
    path: str | Path, indices: Sequence[int] | None = None, change: Change | None = None, limits: Limits = LIMITS
) -> np.ndarray:
    """uint8 RGB [T, H, W, 3]: the frames of `indices`, in that order, or all; each as `change` makes it when it is decoded.

    An index counts frames in the order in which they are shown. Decoding starts at the first frame and stops after the
    last one wanted; frames in between that no other frame refers to are not decoded (about half of H.264 as x264 makes
    it), so damage that touches only them is not seen. VideoError when the clip breaks, changes size or ends before the
    last one wanted.
    """
    if indices is None:
        return _joined(frame if change is None else change(frame) for frame in ClipReader(path, limits))
    return _decode(path, indices, _look(path, limits)[1], change, limits)


def read_chosen(
    path: str | Path,
    choose: Callable[[VideoInfo], Sequence[int]],
    change: Change | None = None,
    limits: Limits = LIMITS,
) -> np.ndarray:
    """The frames that `choose` names once it knows what the clip is like; as probe and then read_frames, with half of the
    reading."""
    info, shown = _look(path, limits)
    return _decode(path, choose(info), shown, change, limits)


def _joined(frames: Iterator[np.ndarray]) -> np.ndarray:
    """np.stack of one frame or more, whose number is unknown: they fill an array that grows in place, so that the clip is in
    memory once."""
    first = next(frames)
    kept, count = np.empty((GROWTH, *first.shape), first.dtype), 1
    kept[0] = first
    for frame in frames:
        if count == len(kept):
            kept.resize((count + max(GROWTH, count // 8), *first.shape), refcheck=False)
        kept[count] = frame
        count += 1
    kept.resize((count, *first.shape), refcheck=False)
    return kept


def _look(path: str | Path, limits: Limits) -> tuple[VideoInfo, PresentedFrames]:
    with open_file(path, limits) as container:
        # For one frame, starting threads takes longer than decoding.
        stream = _single_threaded(video_stream(path, container, limits))
        facts, first = _facts_of_container(container, stream), None
        scan = PacketScan(facts["codec"])
        try:
            for packet in _packets(path, container, stream, limits, scan):
                if first is None:
                    first = next(iter(packet.decode()), None)
        except av.error.FFmpegError as error:
            raise _failure(path, stream, limits, error) from error
        check_whole(path, container, stream, scan.read)
        if first is None:
            raise VideoError(path, "no frames")
        _check_frame(path, first, None)
        if scan.counts(first):
            times, durations = scan.shown()
            places: dict[int | None, int] = {time: place for place, time in enumerate(times)}
        else:
            (times, durations), places = _times_of_frames(path, limits), {}
        timing = _timing(path, container, stream, times, durations)
        facts = _facts_of_container(container, stream)  # the decoder may know better, once it has seen a frame
        info = VideoInfo(**facts, fps=timing.fps, frames=timing.frames, duration=timing.duration)
        return info, PresentedFrames(timing.frames, places)


def _times_of_frames(path: str | Path, limits: Limits) -> tuple[list[int | None], list[int]]:
    """Times and durations of all frames, decoded, in the order in which they are shown."""
    times, durations, shape = [], [], None
    with open_file(path, limits) as container:
        stream = _single_threaded(video_stream(path, container, limits))
        try:
            for packet in _packets(path, container, stream, limits):
                for frame in packet.decode():
                    shape = _check_frame(path, frame, shape)
                    times.append(frame.pts)
                    durations.append(frame.duration or 0)
        except av.error.FFmpegError as error:
            raise _failure(path, stream, limits, error, f" after {len(times)} frames") from error
    return times, durations


def _decode(
    path: str | Path, indices: Sequence[int], shown: PresentedFrames, change: Change | None, limits: Limits
) -> np.ndarray:
    if not len(indices) or min(indices) < 0:
        raise ValueError(f"indices {list(indices)} are not frame numbers")
    if max(indices) >= shown.frames:
        raise VideoError(path, f"truncated: {shown.frames} frames, no frame {max(indices)}")
    places: dict[int, list[int]] = {}  # in the result, by frame
    for place, index in enumerate(indices):
        places.setdefault(index, []).append(place)
    kept: np.ndarray | None = None
    # Opened anew, as not all that can be read can be wound back.
    with open_file(path, limits) as container:
        stream = _single_threaded(video_stream(path, container, limits))
        shape, reformatter = None, VideoReformatter()
        missing, decoded = set(places), 0
        try:
            for packet in _packets(path, container, stream, limits):
                # The last, empty packet asks for what is left.
                needed = not shown.places or packet.size == 0 or shown.places.get(packet.pts) in places
                stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
                for frame in packet.decode():
                    shape = _check_frame(path, frame, shape)
                    index = shown.places.get(frame.pts) if shown.places else decoded
                    decoded += 1
                    if index in places:
                        picture = _rgb(frame, reformatter) if change is None else change(_rgb(frame, reformatter))
                        if kept is None:
                            kept = np.empty((len(indices), *picture.shape), picture.dtype)
                        kept[places[index]] = picture
                        missing.discard(index)
                if not missing:
                    break
        except av.error.FFmpegError as error:
            after = f" after {len(places) - len(missing)} wanted frames"
            raise _failure(path, stream, limits, error, after) from error
    if missing or kept is None:
        raise VideoError(path, f"truncated or corrupt: frame {min(missing)} cannot be decoded")
    return kept


def _packets(path: str | Path, container, stream, limits: Limits, scan: PacketScan | None = None) -> Iterator[av.Packet]:
    """All packets to decode; the empty one at the end asks the decoder for what is left, the others `scan` sees too.
    VideoError as soon as there are more than `limits` has frames."""
    packets, read = container.demux(stream), 0
    while True:
        try:
            packet = next(packets, None)
        except IndexError as error:  # PyAV, where a damaged file brings up a track that its start did not have
            raise VideoError(path, "truncated or corrupt: a packet of no track") from error
        if packet is None:
            return
        if packet.size == 0 and packet.dts is not None:
            continue  # a frame without bytes: the one before stays; the decoder would take it for the end
        if packet.is_corrupt:
            raise VideoError(path, "truncated or corrupt: a packet is damaged")
        read += bool(packet.size)
        if why := limits.refuse_count(read):
            raise VideoError(path, why)
        if packet.size and scan is not None:
            scan.add(packet)
        yield packet


def _failure(path: str | Path, stream, limits: Limits, error: av.error.FFmpegError, after: str = "") -> VideoError:
    """What an error of the decoder means: a frame beyond `limits`, whose size it then has or has put to 0, or damage."""
    codec = stream.codec_context
    why = limits.refuse_frame(codec.width, codec.height)
    if why is None and not codec.width and isinstance(error, av.error.ArgumentError):
        why = f"a frame of more than {limits.pixels} pixels, the most that are read"
    return VideoError(path, why or f"truncated or corrupt: {error.strerror}{after}")


def _single_threaded(stream: av.VideoStream) -> av.VideoStream:
    stream.thread_type = "NONE"  # callers run several clips at a time
    return stream


def _timing(path: str | Path, container, stream, times: Sequence[int | None], durations: list[int]) -> Timing:
    if not times:
        raise VideoError(path, "no frames")
    timing = timing_of(times, durations, stream.time_base, stream.average_rate, container_name(container))
    if timing is None:
        raise VideoError(path, "no frame rate, and no time stamps to take it from")
    return timing


def _facts_of_container(container, stream) -> dict[str, Any]:
    codec = stream.codec_context
    return {
        "container": container_name(container),
        "codec": codec.codec.canonical_name,
        "pixel_format": codec.pix_fmt,
        "width": codec.width,
        "height": codec.height,
    }


def _rgb(frame, reformatter: VideoReformatter) -> np.ndarray:
    """uint8 [H, W, 3]. A `reformatter` that stays for the clip, and no copy where rows have no padding: together a third
    less time than frame.to_ndarray()."""
    # Left to itself FFmpeg starts threads for each frame: on a busy machine that costs many times the conversion.
    plane: Any = reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
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
