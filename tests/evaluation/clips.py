"""Clips that flicker, in several codecs."""

from pathlib import Path

import av
import numpy as np

from components.video.encode import write_video


def write(path: Path, frames: np.ndarray, codec: str, pixels: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


CODECS = {"ten_bit.mp4": ("libx264", "yuv420p10le"), "moving.gif": ("gif", "rgb8")}


def clip(path: Path, seed: int = 0, frames: int = 8, size: tuple[int, int] = (48, 64)) -> Path:
    """A blocky texture that moves and flickers, the more the higher the seed; as the name says, in H.264 or as in CODECS."""
    rng = np.random.default_rng(seed)
    height, width = size
    base = rng.integers(0, 256, (height // 8, width // 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    moved = np.stack([np.roll(base, seed * i, axis=1) for i in range(frames)])
    moved = np.clip(moved + rng.normal(0, 3 * seed, moved.shape), 0, 255).astype(np.uint8)
    if path.name in CODECS:
        write(path, moved, *CODECS[path.name])
    else:
        write_video(path, moved, 8 + seed)
    return path
