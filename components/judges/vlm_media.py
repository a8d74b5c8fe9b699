"""Clips as parts of a chat message: pictures, or the file, as data addresses."""

import base64
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from components.files.digests import file_digest
from components.judges.protocol import JudgedClip
from components.judges.vlm_settings import VlmSettings
from components.video.container import VideoError
from components.video.decode import read_chosen
from components.video.encode import write_video
from components.video.limits import Limits

Part = dict[str, Any]
QUALITY = 95  # of JPEG
MIME = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif", ".mov": "video/quicktime"}


def clip_digest(clip: JudgedClip) -> str:
    """Digest of a clip's bytes. VideoError where the file cannot be read."""
    if clip.frames is not None:
        import xxhash

        shape = f"{clip.frames.shape} {clip.frames.dtype} {clip.fps}"
        return f"frames {shape} {xxhash.xxh3_128_hexdigest(clip.frames.tobytes())}"
    try:
        return file_digest(clip.video)
    except OSError as error:
        raise VideoError(clip.video, error.strerror or "cannot be read") from error


def media_parts(clip: JudgedClip, settings: VlmSettings, limits: Limits) -> list[Part]:
    """The parts that show a clip. VideoError where it cannot be read."""
    if settings.media == "video":
        return [video_part(clip, limits)]
    frames = chosen_frames(clip, settings.frames, limits)
    return [image_part(frame, settings.side) for frame in frames]


def chosen_frames(clip: JudgedClip, count: int, limits: Limits) -> np.ndarray:
    """Up to `count` frames, spread evenly, first and last among them."""
    if clip.frames is not None:
        return clip.frames[_spread(len(clip.frames), count)]
    return read_chosen(clip.video, lambda info: _spread(info.frames, count), limits=limits)


def image_part(frame: np.ndarray, side: int) -> Part:
    """A frame [H, W, 3] as a JPEG, made smaller where it is larger than `side`."""
    import cv2

    height, width = frame.shape[:2]
    if max(height, width) > side:
        scale = side / max(height, width)
        size = max(1, round(width * scale)), max(1, round(height * scale))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return {"type": "image_url", "image_url": {"url": _address("image/jpeg", coded.tobytes())}}


def video_part(clip: JudgedClip, limits: Limits) -> Part:
    """The file as it is, or a clip in memory as MP4."""
    if clip.frames is None:
        path = Path(clip.video)
        if (why := limits.refuse_file(path.stat().st_size)) is not None:
            raise VideoError(clip.video, why)
        mime, content = MIME.get(path.suffix.lower(), "video/mp4"), path.read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "clip.mp4"
            write_video(file, clip.frames, clip.fps or 8)
            mime, content = "video/mp4", file.read_bytes()
    return {"type": "video_url", "video_url": {"url": _address(mime, content)}}


def _address(mime: str, content: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _spread(frames: int, count: int) -> list[int]:
    return sorted({int(place) for place in np.rint(np.linspace(0, frames - 1, min(frames, count)))})
