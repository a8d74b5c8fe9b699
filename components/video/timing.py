"""When the frames of a clip are shown: how many there are, their rate and the clip's duration, from packets and time stamps.

Headers are wrong in many files. A browser's recording has no rate, a recording of variable rate has the highest one, an AVI
counts a frame too many. Time stamps are what a player follows, and they win where the two contradict each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av

# Containers that store how long each frame is shown. In others FFmpeg makes packets' durations from the header's rate.
STORED_DURATIONS = ("mov", "avi", "gif", "apng")
# Codecs of which a packet that is shown is one frame. In others (MPEG-4 part 2 packs two, or none) only decoding can tell.
ONE_FRAME_A_PACKET = ("h264", "hevc", "vvc", "av1", "vp8", "vp9", "prores", "dnxhd", "mjpeg", "ffv1", "gif", "apng", "png")
CONTRADICTION = 0.005  # of the duration: a rate that differs less is the header's
TILING = 0.05  # durations that together are this near to the time stamps (a frame or two may be lost) are right
LAST_GAPS = 3  # gaps before the last frame, whose mean is how long that is shown where nothing else says it


@dataclass(frozen=True)
class Timing:
    """`fps` is the average, frames / duration; `duration` is in seconds. `rate_variation` is how much longer the longest
    gap between two frames is than the shortest, over the mean (0 is a constant rate; None where frames have no time stamps
    or there is one)."""

    frames: int
    fps: float
    duration: float
    rate_variation: float | None


@dataclass
class PacketScan:
    """What the packets of a video stream say of its frames. `times` and `durations` (ticks of the stream's clock, in the
    order of packets) are of packets that are shown; `all_count` is false where their number need not be that of frames, or
    one of `times` is None."""

    codec: str
    read: int = 0
    times: list[Any] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    all_count: bool = True
    _first: int | None = None
    _before: int | None = None

    def __post_init__(self) -> None:
        self.all_count = self.codec in ONE_FRAME_A_PACKET

    def add(self, packet: av.Packet) -> None:
        """The next packet. An edit list (`is_discard`) or the codec may say that its frame is never shown."""
        pts, dts = packet.pts, packet.dts
        if not self.read:
            self._first = pts
            self.all_count &= packet.is_keyframe  # a stream cut anywhere starts with frames that cannot be decoded
        self.read += 1
        if pts is None or dts is None or self._first is None:
            self.all_count = False  # no time stamps
        elif pts < self._first or (self._before is not None and dts < self._before):
            self.all_count = False  # frames that lean on what was cut off, or two recordings joined
        self._before = dts
        if not (packet.is_discard or is_hidden(self.codec, packet)):
            self.times.append(pts)
            self.durations.append(packet.duration or 0)

    def counts(self, first: av.VideoFrame) -> bool:
        """Whether each packet that is shown is one frame, at its time. `first`: the stream's first frame."""
        return self.all_count and not first.interlaced_frame and len(set(self.times)) == len(self.times)

    def shown(self) -> tuple[list[int], list[int]]:
        """Times and durations in the order in which frames are shown, where `counts`."""
        order = sorted(range(len(self.times)), key=self.times.__getitem__)
        return [self.times[at] for at in order], [self.durations[at] for at in order]


def is_hidden(codec: str, packet: av.Packet) -> bool:
    """Whether a packet of VP8 or VP9 holds only a frame that others refer to, which is never shown (RFC 6386, 9.1; VP9
    bitstream specification, 6.2 and annex B)."""
    if codec not in ("vp8", "vp9") or not packet.size:
        return False
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] & 0x10
    if data[-1] & 0xE0 == 0xC0:  # a superframe: hidden frames and the one that is shown
        return False
    flags = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]  # profile 3 has a bit more before show_existing_frame
    return not flags & 0x08 and not flags & 0x02


def timing_of(
    times: Sequence[int | None], durations: Sequence[int], tick: Fraction, header_rate: Fraction | None, container: str
) -> Timing | None:
    """The timing of frames shown at `times` for `durations` (both in ticks of `tick` seconds, in the order in which they
    are shown), or None where nothing says how fast. The header's rate stays where it does not contradict the time stamps."""
    frames, fps = len(times), float(header_rate or 0)
    stamps = [time for time in times if time is not None]
    stamped = len(stamps) == len(times)
    gaps = [after - before for before, after in pairwise(stamps)] if stamped else []
    if stamped and min(gaps, default=0) >= 0:
        ticks = sum(gaps) + _last_duration(gaps, durations, container)
        if ticks and not (header_rate and _agrees(frames, ticks, tick, header_rate)):
            fps = float(frames / (ticks * tick))
    return Timing(frames, fps, frames / fps, _variation(stamps) if stamped else None) if fps else None


def _last_duration(gaps: Sequence[int], durations: Sequence[int], container: str) -> int | Fraction:
    """Ticks that the last frame is shown."""
    last = durations[-1]
    if not gaps:
        return last
    right = container in STORED_DURATIONS or abs(sum(durations[:-1]) - sum(gaps)) <= TILING * sum(gaps)
    # MP4 files of some writers have a last frame of no duration, or of one tick.
    if right and last and 2 * last >= min(gaps):
        return last
    tail = gaps[-LAST_GAPS:]
    return Fraction(sum(tail), len(tail))


def _agrees(frames: int, ticks: int | Fraction, tick: Fraction, rate: Fraction) -> bool:
    """Whether `frames` at `rate` take `ticks`, but for CONTRADICTION and rounding: where a frame lasts no whole number of
    ticks, the first and the last time stamp are rounded."""
    whole, rest = divmod(rate.denominator * tick.denominator, rate.numerator * tick.numerator)
    exact = frames * (whole + rest / (rate.numerator * tick.numerator))
    return abs(exact - ticks) <= max(CONTRADICTION * ticks, 2 if rest else 0)


def _variation(times: Sequence[int]) -> float | None:
    """A difference of one tick of the clock, as of 30 frames a second in milliseconds, is no variation."""
    gaps = [after - before for before, after in pairwise(sorted(times))]
    if not any(gaps):
        return None
    difference = max(gaps) - min(gaps)
    return difference / (sum(gaps) / len(gaps)) if difference > 1 else 0.0
