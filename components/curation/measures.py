"""Cheap true measures of a clip, in one pass over its frames with two of them in memory.

All are columns of the manifest and none is a verdict: thresholds come later, as rules in params. Luma is OpenCV's
(BT.601 weights, 0 to 255).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from components.curation.manifest import CLIPS_SCHEMA
from components.video.decode import VideoError, iter_frames, probe

DARK, BRIGHT = 2, 253  # luma levels from which on detail is lost
BLACK_LUMA, BLACK_SHARE = 0.10 * 255, 0.98  # a frame is black: FFmpeg's blackdetect, default thresholds
FROZEN = 0.001  # mean absolute difference, 0 to 1, below which a frame repeats: FFmpeg's freezedetect, -60 dB
FLOW_SIDE = 128  # longer side in pixels at which optical flow is computed
HASHES = 4


def measure_clip(row: dict, folder: str) -> dict:
    """One row of the manifest for the clip `row["clip"]` below `folder`: status `ok` or `broken`."""
    path = Path(folder) / row["clip"]
    with open(path, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    found = dict.fromkeys(CLIPS_SCHEMA.names) | {"clip": row["clip"], "bytes": path.stat().st_size, "sha256": sha256}
    try:
        info = probe(path)
        measures = measure_frames(iter_frames(path), info.fps)
    except VideoError as error:
        return found | {"status": "broken", "reason": error.why}
    return found | asdict(info) | measures | {"status": "ok"}


def measure_frames(frames: Iterable[np.ndarray], fps: float) -> dict[str, float | str | None]:
    """Measures of uint8 RGB frames [H, W, 3], at least one. Those that compare frames are None for a single one.

    `flicker` is the mean over consecutive frames of the mean absolute difference, over 255: VBench's score "temporal
    flickering" is 1 - flicker. Motion raises it too, so it is pure on still scenes and an upper bound on others.
    """
    cv2.setNumThreads(1)  # clips run in parallel, not their pixels
    sums = dict.fromkeys(("brightness", "clipped_dark", "clipped_bright", "sharpness", "black_frames"), 0.0)
    differences, flows, thumbnails = [], [], []
    before = before_small = None
    for frame in frames:
        luma = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        sums["brightness"] += float(luma.mean()) / 255
        sums["clipped_dark"] += float((luma <= DARK).mean())
        sums["clipped_bright"] += float((luma >= BRIGHT).mean())
        sums["sharpness"] += float(cv2.Laplacian(luma, cv2.CV_32F).var())
        sums["black_frames"] += float((luma < BLACK_LUMA).mean() >= BLACK_SHARE)
        thumbnails.append(cv2.resize(luma, (32, 32), interpolation=cv2.INTER_AREA))
        small = _flow_size(luma)
        if before is not None:
            differences.append(float(cv2.absdiff(frame, before).mean()) / 255)
            flows.append(_flow(before_small, small))
        before, before_small = frame, small
    count = len(thumbnails)
    places = np.rint(np.linspace(0, count - 1, HASHES)).astype(int)
    return {name: total / count for name, total in sums.items()} | {
        "flicker": float(np.mean(differences)) if differences else None,
        "motion": float(np.mean(flows)) * fps if flows else None,
        "frozen_frames": float(np.mean([value < FROZEN for value in differences])) if differences else None,
        "phash": "".join(perceptual_hash(thumbnails[place]) for place in places),
    }


def perceptual_hash(thumbnail: np.ndarray) -> str:
    """64 bits in hex: signs of the 8x8 lowest DCT coefficients of luma [32, 32] against their median ("pHash")."""
    low = cv2.dct(thumbnail.astype(np.float32))[:8, :8].ravel()
    # The first coefficient is the mean brightness: it must not pull the median of the others.
    return np.packbits(low > np.median(low[1:])).tobytes().hex()


def _flow_size(luma: np.ndarray) -> np.ndarray:
    scale = FLOW_SIDE / max(luma.shape)
    if scale >= 1:
        return luma
    height, width = (max(1, round(side * scale)) for side in luma.shape)
    return cv2.resize(luma, (width, height), interpolation=cv2.INTER_AREA)


def _flow(before: np.ndarray, after: np.ndarray) -> float:
    """Mean length of Farneback's optical flow between luma [H, W], in diagonals of the frame."""
    flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    return float(np.hypot(flow[..., 0], flow[..., 1]).mean()) / float(np.hypot(*before.shape))
