"""Signals of the hacking alarm from a clip's pixels: exposure, saturation, motion, and a thumbnail descriptor.

None of them measures quality. They detect drift of a generator from its base in ways that reward models are known to
favour.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # BT.601
THUMBNAIL_FRAMES, THUMBNAIL_SIZE = 4, 8


@dataclass(frozen=True)
class Signals:
    """Measures of one clip."""

    brightness: float  # mean luma, 0 black to 1 white
    saturation: float  # mean chroma (largest minus smallest of R, G, B) of `thumbnails`, 0 grey to 1 pure
    motion: float  # px a frame, see `motion`
    descriptor: np.ndarray  # float32 [THUMBNAIL_FRAMES * THUMBNAIL_SIZE * THUMBNAIL_SIZE * 3] in [0, 1], see `thumbnails`


def measure(frames: np.ndarray) -> Signals:
    """Measure a clip [T, H, W, 3] uint8 RGB of at least two frames."""
    pixels = frames.astype(np.float32) / 255
    small = thumbnails(frames)
    # Chroma of thumbnails, not of pixels: noise has high chroma, and a method that removes noise must not raise an alarm.
    colours = small.reshape(-1, 3)
    return Signals(
        brightness=float((pixels @ LUMA).mean()),
        saturation=float((colours.max(axis=1) - colours.min(axis=1)).mean()),
        motion=motion(frames),
        descriptor=small,
    )


def motion(frames: np.ndarray) -> float:
    """Mean speed (px a frame) of the fastest twentieth of the pixels, by dense optical flow (Farneback 2003).

    The fastest 5% follow VBench's dynamic degree (there with RAFT): a small object that moves over a still background
    counts as motion.
    """
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    window = int(np.clip(min(grey[0].shape) // 2, 5, 15))
    fastest = []
    for before, after in itertools.pairwise(grey):
        settings = (0.5, 3, window, 3, 5, 1.1, 0)
        flow = cv2.calcOpticalFlowFarneback(before, after, None, *settings)  # pyright: ignore[reportArgumentType, reportCallIssue]
        speed = np.sort(np.hypot(flow[..., 0], flow[..., 1]), axis=None)
        fastest.append(speed[-max(1, speed.size // 20) :].mean())
    return float(np.mean(fastest))


def thumbnails(frames: np.ndarray) -> np.ndarray:
    """A few evenly spaced frames shrunk to thumbnails, flattened: distances between looks compare layout and colour."""
    chosen = frames[np.linspace(0, len(frames) - 1, THUMBNAIL_FRAMES).round().astype(int)]
    small = [cv2.resize(frame, (THUMBNAIL_SIZE, THUMBNAIL_SIZE), interpolation=cv2.INTER_AREA) for frame in chosen]
    return (np.stack(small).astype(np.float32) / 255).ravel()


def diversity(looks: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
    """Diversity of the seeds of a prompt: prompt -> mean pairwise RMS distance of its looks, in [0, 1].

    Args:
        looks: [N, D] one row per clip.
        prompts: [N]. A prompt with a single clip has no diversity and is left out.
    """
    spread = {}
    for prompt in np.unique(prompts):
        own = looks[prompts == prompt]
        if len(own) > 1:
            first, second = np.triu_indices(len(own), k=1)
            spread[prompt] = float(np.sqrt(((own[first] - own[second]) ** 2).mean(axis=1)).mean())
    return spread
