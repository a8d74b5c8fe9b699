"""Thumbnails of luma of a clip, one after the other: what a perceptual hash is made of, in the memory of a few.

A hash is of the mean over each quarter of the clip, so that a copy with a frame more or less has the same. Where quarters
end is known at the clip's end only: the first KEPT thumbnails are kept, and a longer clip's frames are counted beside.
"""

from collections.abc import Callable

import cv2
import numpy as np

THUMBNAIL = 32  # pixels a side
HASHES = 4  # perceptual hashes a clip
KEPT = 4096  # thumbnails of 1 kB each
FLAT = 2.0  # standard deviation of luma below which a thumbnail's hash would be of noise
BLACK_LUMA, WHITE_LUMA, BLANK_SHARE = 25, 230, 0.98  # a blank thumbnail: FFmpeg's blackdetect, default thresholds
MIRRORED = np.resize(np.array([1, -1], np.float32), 8)  # what left to right does to the columns of a DCT


class Thumbnails:
    """count: gives the number of frames of the clip; asked for once, of a clip that has more than KEPT. Without it all
    thumbnails are kept, as of frames that are in memory anyway."""

    def __init__(self, count: Callable[[], int] | None = None):
        self.count = count
        self.kept: list[np.ndarray] = []
        self.parts: Parts | None = None
        self.number = self.luma = self.black = self.white = 0

    def add(self, thumbnail: np.ndarray) -> None:
        """The next one, uint8 [32, 32]."""
        self.number += 1
        self.luma += int(cv2.sumElems(thumbnail)[0])
        black = cv2.compare(thumbnail, BLACK_LUMA, cv2.CMP_LT)  # pyright: ignore[reportArgumentType, reportCallIssue]
        white = cv2.compare(thumbnail, WHITE_LUMA, cv2.CMP_GT)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self.black += share(black) >= BLANK_SHARE
        self.white += share(white) >= BLANK_SHARE
        if self.parts is not None:
            self.parts.add(thumbnail)
            return
        self.kept.append(thumbnail)
        if self.count is not None and len(self.kept) > KEPT:
            self._share_out(self.count())

    def measures(self) -> dict[str, float | str | None]:
        """Brightness, shares of blank frames, hashes; of one thumbnail at least."""
        phash, phash_mirrored = hash_parts(self._share_out(self.number).means())
        return {
            "brightness": self.luma / (self.number * THUMBNAIL**2) / 255,
            "black_frames": self.black / self.number,
            "white_frames": self.white / self.number,
            "phash": phash,
            "phash_mirrored": phash_mirrored,
        }

    def _share_out(self, frames: int) -> "Parts":
        if self.parts is None:
            self.parts = Parts(frames)
            for thumbnail in self.kept:
                self.parts.add(thumbnail)
            self.kept.clear()
        return self.parts


class Parts:
    """Sums of `frames` thumbnails in min(HASHES, frames) parts of like length, the longer ones first."""

    def __init__(self, frames: int):
        number = min(HASHES, frames)
        self.sizes = [frames // number + (part < frames % number) for part in range(number)]
        self.sums = np.zeros((number, THUMBNAIL, THUMBNAIL), np.int64)
        self.part = self.inside = 0

    def add(self, thumbnail: np.ndarray) -> None:
        # A clip that has more than was counted is refused at its end.
        if self.inside == self.sizes[self.part] and self.part + 1 < len(self.sizes):
            self.part, self.inside = self.part + 1, 0
        self.sums[self.part] += thumbnail
        self.inside += 1

    def means(self) -> list[np.ndarray]:
        """float32 [32, 32] of each."""
        return [total.astype(np.float32) / np.float32(size) for total, size in zip(self.sums, self.sizes, strict=True)]


def share(mask: np.ndarray) -> float:
    """Of elements that are not 0."""
    return cv2.countNonZero(mask) / mask.size


def hash_parts(parts: list[np.ndarray]) -> tuple[str, str] | tuple[None, None]:
    """HASHES hashes in hex of mean thumbnails float32 [32, 32], and those of the mirror image; None where there is no
    detail."""
    parts = parts + [parts[-1]] * (HASHES - len(parts))
    if all(part.std() < FLAT for part in parts):
        return None, None
    coefficients = [low_frequencies(part) for part in parts]
    return "".join(map(signs, coefficients)), "".join(signs(low * MIRRORED) for low in coefficients)


def low_frequencies(thumbnail: np.ndarray) -> np.ndarray:
    """The 8x8 lowest DCT coefficients of luma [32, 32]."""
    return cv2.dct(thumbnail.astype(np.float32))[:8, :8]


def signs(low: np.ndarray) -> str:
    """A perceptual hash ("pHash"): 64 bits in hex, which coefficients [8, 8] are above their median."""
    low = low.ravel()
    # The first coefficient is the mean brightness: it must not pull the median of the others, of which there are 63.
    return np.packbits(low > np.partition(low[1:], 31)[31]).tobytes().hex()
