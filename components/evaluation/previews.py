"""Clips as the report embeds them: small files unchanged, large ones as previews.

A page shows a hundred clips, each about a hundred pixels wide. Clips of 480p at the quality of samples would make it
hundreds of megabytes. A preview has all frames at the original rate; scores are those of the original clip.
"""

import base64
import tempfile
from pathlib import Path

import cv2

from components.video.decode import ClipReader, VideoInfo
from components.video.encode import write_video

EMBEDDED = 64_000  # bytes, the largest file that is embedded unchanged
SIDE = 320  # px, the longer one of a preview
CRF = 26  # x264's constant quality


def is_shrunk(path: str | Path) -> bool:
    return Path(path).stat().st_size > EMBEDDED


def data_uri(path: str | Path, info: VideoInfo) -> str:
    """Data URI of the clip or its preview, as source of a <video>. The same clip gives the same text."""
    if not is_shrunk(path):
        return _uri(Path(path))
    scale = min(1.0, SIDE / max(info.width, info.height))
    width, height = (max(2, 2 * round(side * scale / 2)) for side in (info.width, info.height))
    frames = (cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in ClipReader(path))
    with tempfile.TemporaryDirectory() as folder:
        preview = Path(folder) / "preview.mp4"
        write_video(preview, frames, info.fps, CRF)
        return _uri(preview)


def _uri(file: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()
