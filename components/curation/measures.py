"""Cheap true measures of a clip, in one pass that decodes each frame once and holds two of them in memory. Of the others
stay a few numbers each.

All are columns of the manifest and none is a verdict: thresholds come later, as rules in params. Luma is OpenCV's
(BT.601 weights, 0 to 255). Measures of detail (light, grain, flicker) are taken on whole frames. Those of movement
and looks are taken on small frames, where they are as good and several times cheaper.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.curation.thumbnails import THUMBNAIL, Thumbnails
from components.files.tables import text_of
from components.schemas import MEASURES_SCHEMA
from components.video.container import VideoError
from components.video.decode import ClipReader
from components.video.limits import LIMITS, Limits

LIGHT_EVERY = 8  # light and grain are measured on every eighth frame, the first among them
DARK, BRIGHT = 2, 253  # luma levels from which on detail is lost
NOISE_MASK = np.array([1, -2, 1], np.float32)  # Immerkær's mask is its outer product with itself
FLOW_SIDE = 128  # longer side in pixels at which optical flow is computed
FLOW_LEAST = 32  # pixels a side that DIS needs at FLOW_SIDE: four patches of 8; with less it reads outside the image
STILL = 0.02  # mean flow in those pixels a frame, below which there is no motion to be smooth
CUT_SIDE = 32  # pixels, evenly spread, of the longer side at which cuts are looked for
# A frame repeats the one before when none of 16 x 16 blocks changes by more than this many levels on average. The mean over
# the frame, as FFmpeg's freezedetect has it, misses small things that move and sees motion where an encoder refreshes.
FROZEN_BLOCKS, FROZEN_LEVELS = 16, 1


def measure_clip(row: dict, folder: str, optical_flow: bool, limits: Limits = LIMITS) -> dict:
    """One row of MEASURES_SCHEMA for the clip `row["clip"]` below `folder`; motion is null without `optical_flow`. A clip
    beyond `limits` is broken."""
    path, clip = Path(folder) / row["clip"], text_of(row["clip"])
    found = dict.fromkeys(MEASURES_SCHEMA.names) | {"clip": clip, "bytes": 0, "sha256": ""}
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would be waited for, a device has no end
            return found | {"broken": "unreadable: no regular file"}
        with open(path, "rb") as stream:
            found |= {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    except OSError as error:
        return found | {"broken": f"unreadable: {error.strerror}"}
    if clip != row["clip"]:
        return found | {"broken": "the name of its file is not UTF-8"}  # no table could name it to those who read it
    reader = ClipReader(path, limits)
    try:
        measures = measure_frames(reader, optical_flow, reader.count)
    except VideoError as error:
        return found | reader.facts | {"broken": error.why}
    fps = reader.facts["fps"]
    for name, each in (("motion", fps), ("longest_freeze", 1 / fps)):
        if measures[name] is not None:
            measures[name] *= each
    return found | reader.facts | measures


def measure_frames(
    frames: Iterable[np.ndarray], optical_flow: bool = True, count: Callable[[], int] | None = None
) -> dict[str, Any]:
    """Measures of uint8 RGB frames [H, W, 3], at least one; `motion` is for each frame and `longest_freeze` in frames.
    `count` gives the number of frames, where they are not in memory.

    Those that compare frames are None for a single one. `flicker` is the mean over consecutive frames of the mean
    absolute difference, over 255: VBench's score "temporal flickering" is 1 - flicker. Motion raises it too, so it is
    pure on still scenes and an upper bound on others.
    """
    import xxhash

    cv2.setNumThreads(1)  # clips run in parallel, not their pixels
    pixels = xxhash.xxh3_128()
    light, differences = array("d"), array("d")
    movement, cuts, freezes, thumbnails = Movement(), Cuts(), Freezes(), Thumbnails(count)
    before = small_before = None
    for number, frame in enumerate(frames):
        # What needs all of the frame comes first, while it is in the processor's cache.
        pixels.update(frame.data)
        if before is not None:
            differences.append(cv2.norm(frame, before, cv2.NORM_L1) / frame.size / 255)
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        cuts.add(frame)
        if number % LIGHT_EVERY == 0:
            light.extend(light_of(luma))
        small = shrink(luma, *size_within(luma, FLOW_SIDE))
        if small_before is not None:
            change = cv2.absdiff(small, small_before)
            blocks = cv2.resize(change, (FROZEN_BLOCKS, FROZEN_BLOCKS), interpolation=cv2.INTER_AREA)
            freezes.add(bool(blocks.max() <= FROZEN_LEVELS))
        thumbnails.add(shrink(small, THUMBNAIL, THUMBNAIL))
        if optical_flow:
            movement.add(small)
        before, small_before = frame, small
    light = np.mean(np.reshape(light, (-1, len(LIGHT))), axis=0).tolist()
    return dict(zip(LIGHT, light, strict=True)) | {
        "pixels": pixels.hexdigest(),
        "frozen_frames": freezes.repeats / freezes.frames if differences else None,
        "longest_freeze": float(freezes.longest) if differences else None,
        "flicker": float(np.mean(differences)) if differences else None,
        "largest_change": float(max(differences)) if differences else None,
        "cuts": cuts.count() if differences else None,
        "motion": movement.mean(),
        "motion_smoothness": movement.smoothness(),
        **thumbnails.measures(),
    }


LIGHT = ("contrast", "clipped_dark", "clipped_bright", "sharpness", "noise")


def light_of(luma: np.ndarray) -> list[float]:
    """The measures LIGHT of one frame of luma, uint8 [H, W].

    `noise` is J. Immerkær, "Fast Noise Variance Estimation" (1996), over 255: what a mask that cancels planes leaves.
    """
    dark = cv2.compare(luma, DARK, cv2.CMP_LE)  # pyright: ignore[reportArgumentType, reportCallIssue]
    bright = cv2.compare(luma, BRIGHT, cv2.CMP_GE)  # pyright: ignore[reportArgumentType, reportCallIssue]
    edges = cv2.norm(cv2.Laplacian(luma, cv2.CV_16S), cv2.NORM_L2SQR) / luma.size
    rest = cv2.norm(cv2.sepFilter2D(luma, cv2.CV_16S, NOISE_MASK, NOISE_MASK), cv2.NORM_L1) / luma.size
    return [
        cv2.meanStdDev(luma)[1].item() / 255,
        cv2.countNonZero(dark) / luma.size,
        cv2.countNonZero(bright) / luma.size,
        edges,
        (np.pi / 2) ** 0.5 / 6 * rest / 255,
    ]


class Movement:
    """Dense optical flow (DIS) from frame to frame of small luma, uint8 [H, W]."""

    def __init__(self):
        preset = cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST
        self.flow_between = cv2.DISOpticalFlow_create(preset)  # pyright: ignore[reportAttributeAccessIssue]
        self.before = self.flow_before = None
        self.lengths = array("d")  # mean over pixels, in diagonals of the frame
        self.turned = self.moved = 0.0

    def add(self, luma: np.ndarray) -> None:
        height, width = luma.shape
        below, right = max(0, FLOW_LEAST - height), max(0, FLOW_LEAST - width)
        if below or right:
            luma = cv2.copyMakeBorder(luma, 0, below, 0, right, cv2.BORDER_REPLICATE)
        if self.before is not None:
            flow = self.flow_between.calc(self.before, luma, None)[:height, :width]
            # Not cv2.magnitude: its last bit depends on where in memory the arrays lie.
            x, y = flow[..., 0], flow[..., 1]
            length = float(np.sqrt(x * x + y * y).mean(dtype=np.float64))
            self.lengths.append(length / float(np.hypot(height, width)))
            if self.flow_before is not None and length > STILL:
                self.turned += cv2.norm(flow, self.flow_before, cv2.NORM_L1)
                self.moved += cv2.norm(flow, cv2.NORM_L1) + cv2.norm(self.flow_before, cv2.NORM_L1)
            self.flow_before = flow
        self.before = luma

    def mean(self) -> float | None:
        """Mean flow, in diagonals of the frame for each frame."""
        return float(np.mean(self.lengths)) if self.lengths else None

    def smoothness(self) -> float | None:
        """1 - |f' - f| / (|f'| + |f|), summed over pixels and consecutive flows f, f' (L1 norms); 0 to 1."""
        return max(0.0, 1 - self.turned / self.moved) if self.moved else None  # rounding may go below


class Cuts:
    """Hard cuts by PySceneDetect's AdaptiveDetector, which tests whether a change stands out from those around it.

    It finds none where no change reaches its MIN_CONTENT, so it is shown clips only from a little before the first such
    change on: its score of a frame costs several times what the same sum does in one call of OpenCV's for BLOCK frames.
    """

    MIN_CONTENT = 15.0  # least mean change of hue, saturation and value, in levels; PySceneDetect's default
    BLOCK = 64
    BEFORE = 8  # frames of the block before that stay; the detector compares a change with two on either side

    def __init__(self):
        self.frames: list[np.ndarray] = []
        self.first = self.seen = self.found = 0  # number of frames[0]; how many of frames were looked at; cuts
        self.detector = None

    def add(self, frame: np.ndarray) -> None:
        """The next frame, uint8 RGB [H, W, 3]. It is made small without averaging, as PySceneDetect does it too."""
        self.frames.append(cv2.resize(frame, size_within(frame, CUT_SIDE), interpolation=cv2.INTER_NEAREST))
        if len(self.frames) - self.seen == self.BLOCK:
            self._look()

    def count(self) -> int:
        """Cuts of all frames, two at least."""
        self._look()
        return self.found

    def _look(self) -> None:
        if self.detector is None and self._largest_change() >= self.MIN_CONTENT - 1:
            from scenedetect.detectors import AdaptiveDetector

            self.detector = AdaptiveDetector(min_scene_len=2, min_content_val=self.MIN_CONTENT)
            self.seen = 0
        if self.detector is not None:
            from scenedetect import FrameTimecode

            for at, frame in enumerate(self.frames[self.seen :], start=self.first + self.seen):
                # The rate has no say: all lengths are in frames.
                bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
                self.found += len(self.detector.process_frame(FrameTimecode(at, 24.0), bgr))
        self.first += len(self.frames[: -self.BEFORE])
        self.frames = self.frames[-self.BEFORE :]
        self.seen = len(self.frames)

    def _largest_change(self) -> float:
        frames = self.frames[max(0, self.seen - 1) :]
        if len(frames) < 2:
            return 0.0
        # The frames are one tall image here: one call for all of them.
        hsv = cv2.cvtColor(np.concatenate(frames), cv2.COLOR_RGB2HSV).reshape(len(frames), -1)
        changes = cv2.reduce(cv2.absdiff(hsv[1:], hsv[:-1]), 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F)
        return float(changes.max())


class Freezes:
    """Runs of frames that repeat the one before."""

    def __init__(self):
        self.frames = self.repeats = self.run = self.longest = 0

    def add(self, repeats: bool) -> None:
        """Whether the next frame does."""
        self.frames += 1
        self.repeats += repeats
        self.run = self.run + 1 if repeats else 0
        self.longest = max(self.longest, self.run)


def size_within(image: np.ndarray, side: int) -> tuple[int, int]:
    """Width and height of `image` [H, W, ...] when its longer side is at most `side` pixels."""
    height, width = image.shape[:2]
    scale = min(1, side / max(height, width))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrink(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """`image` [H, W] by averages of its pixels; halved first, for which OpenCV is ten times as fast as for odd ratios."""
    while image.shape[0] >= 2 * height and image.shape[1] >= 2 * width and not (image.shape[0] % 2 or image.shape[1] % 2):
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
