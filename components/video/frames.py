"""Which frames of a clip a model sees, and at what size: one plan for curation, training, scoring and serving.

The rules are those of Qwen2-VL's video preprocessing as VideoReward uses it (vision_process.py of VideoAlign). A reward
model of a published checkpoint gets the same pixels here as there.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

FRAME_FACTOR = 2  # Qwen2-VL merges two frames into one temporal patch
MIN_FRAMES = 4
MAX_FRAMES = 768
MAX_ASPECT_RATIO = 200
# "multi_pts": at 8 frames a second, 4 moments of 6 frames each.
MOMENTS, MOMENT_FRAMES, MOMENT_FPS = 4, 6, 8


@dataclass(frozen=True)
class FramePlan:
    """Frames by rate (`fps`) or by count (`frames`), exactly one of them; size in pixels a frame.

    `factor` divides both sides of a resized frame: patch size x spatial merge (28 in Qwen2-VL). `sampling` "multi_pts" is
    the published code's other way: short moments of consecutive frames, whatever fps and frames say.
    """

    fps: float | None
    frames: int | None
    min_pixels: int
    max_pixels: int
    factor: int
    sampling: Literal["uniform", "multi_pts"] = "uniform"

    def __post_init__(self) -> None:
        if (self.fps is None) == (self.frames is None):
            raise ValueError("a frame plan needs fps or frames, one of them")
        if not (self.fps is None or self.fps > 0) or not (self.frames is None or self.frames >= FRAME_FACTOR):
            raise ValueError(f"fps {self.fps} or frames {self.frames} is too small")
        if self.min_pixels <= 0 or self.max_pixels <= 0:
            raise ValueError(f"min_pixels {self.min_pixels} and max_pixels {self.max_pixels} must be positive")

    def __str__(self) -> str:
        """Short text that scores are stamped with, such as `2fps 100352-200704px/28` or `8frames ...`."""
        rate = f"{self.fps:g}fps" if self.fps is not None else f"{self.frames}frames"
        if self.sampling == "multi_pts":
            rate = "multi_pts"
        return f"{rate} {self.min_pixels}-{self.max_pixels}px/{self.factor}"

    def count(self, total_frames: int, source_fps: float) -> int:
        """How many frames: an even number of at most `total_frames`. ValueError if the clip has too few.

        By rate: total / source_fps * fps, within [4, min(768, total made even)], to the nearest multiple of 2. By
        count: `frames` to the nearest multiple of 2. Halves go to the even multiple, as Python's round does.
        """
        if total_frames < FRAME_FACTOR:
            raise ValueError(f"{total_frames} frame(s); at least {FRAME_FACTOR} are needed")
        if self.frames is not None:
            wanted = _round_to(self.frames, FRAME_FACTOR)
            if wanted > total_frames:
                raise ValueError(f"{total_frames} frames; the plan has {wanted}")
            return wanted
        assert self.fps is not None  # where `frames` is None
        if not source_fps > 0:
            raise ValueError(f"frame rate {source_fps} is not positive")
        most = min(MAX_FRAMES, total_frames) // FRAME_FACTOR * FRAME_FACTOR
        return _round_to(min(max(total_frames / source_fps * self.fps, MIN_FRAMES), most), FRAME_FACTOR)

    def indices(self, total_frames: int, source_fps: float) -> list[int]:
        """Indices of the frames to keep, spread evenly, first and last included, halves rounded to even; or those of the
        moments. ValueError if the clip has too few.

        Evenly by number and not by time, as the reference has it: where the rate varies, `source_fps` is the average, and
        more frames are kept of the stretches that have more of them.
        """
        if self.sampling == "multi_pts":
            return _moments(total_frames, source_fps)
        count = self.count(total_frames, source_fps)
        return [int(index) for index in np.rint(np.linspace(0, total_frames - 1, count))]

    def rate(self, kept: int, total_frames: int, source_fps: float) -> float:
        """Frames a second of the `kept` ones of a clip, as backbones count time; of moments, within each."""
        return float(MOMENT_FPS) if self.sampling == "multi_pts" else kept / total_frames * source_fps

    def resize(self, height: int, width: int) -> tuple[int, int]:
        """Size (height, width) to give a frame; see smart_resize."""
        return smart_resize(height, width, self.factor, self.min_pixels, self.max_pixels)


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Nearest size of multiples of `factor` with nearly the same aspect ratio and an area within the range.

    Formula of Qwen2-VL's image processor. Scaling up to `min_pixels` rounds up, and may so end above `max_pixels` where
    the two are close: the reference does the same. ValueError for an aspect ratio above 200.
    """
    if max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise ValueError(f"{width}x{height} has an aspect ratio above {MAX_ASPECT_RATIO}")
    new_height, new_width = max(factor, _round_to(height, factor)), max(factor, _round_to(width, factor))
    if new_height * new_width > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / scale / factor) * factor)
        new_width = max(factor, math.floor(width / scale / factor) * factor)
    elif new_height * new_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * scale / factor) * factor
        new_width = math.ceil(width * scale / factor) * factor
    return new_height, new_width


def resize_frame(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize uint8 [H, W, 3] to uint8 [height, width, 3]: bicubic with antialias in float, clamped, rounded.

    The float kernel is what the reference rounds from; torch's uint8 kernel and Pillow differ from it by one level in
    about a tenth of the values. One channel at a time gives the same, and of 8K is 0.13 GB in float where all are 0.4.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame is {frame.dtype} {frame.shape}, not uint8 [H, W, 3]")
    if frame.shape[:2] == (height, width):
        return frame  # what the kernel would give as well
    import torch  # here, as frame plans are also made where torch is not

    resized = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        pixels = torch.from_numpy(np.ascontiguousarray(frame[..., channel]))[None, None].float()
        pixels = torch.nn.functional.interpolate(
            pixels, (height, width), mode="bicubic", antialias=True, align_corners=False
        )
        resized[..., channel] = pixels[0, 0].clamp_(0, 255).round_().to(torch.uint8).numpy()
    return resized


def _moments(total_frames: int, source_fps: float) -> list[int]:
    count = int(total_frames * MOMENT_FPS // source_fps)
    if not MOMENT_FRAMES < count <= total_frames:
        raise ValueError(
            f"{total_frames} frames at {source_fps:g} a second; multi_pts needs {MOMENT_FRAMES + 1} at 8 a second"
        )
    even = np.rint(np.linspace(0, total_frames - 1, count))
    half = MOMENT_FRAMES // 2
    middles = np.rint(np.linspace(half, count - 1 - half, MOMENTS)).astype(int)
    return [int(even[at]) for middle in middles for at in range(middle - half, middle + half)]


def _round_to(value: float, factor: int) -> int:
    return round(value / factor) * factor
