"""Videos of a request: bytes in base64, a file below the allowed folder, a part of a form, or PNG frames."""

import base64
import binascii
import io
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from components.reward.inputs import Clip

MOST_PIXELS = 8192 * 4320  # of a frame
MOST_DECODED = 1 << 30  # bytes of the frames of a clip
FORMATS = ("PNG", "JPEG")


class Refused(Exception):
    """A video that is not read: the text is the reason why it has no score."""


def from_base64(text: str) -> bytes:
    """The bytes; Refused where it is no base64 or empty."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"the video is no base64: {error}") from error
    if not found:
        raise Refused("the video is empty")
    return found


def read_below(root: Path | None, path: str, most: int) -> bytes:
    """A file below `root`, absolute or relative to it. Refused for what lies elsewhere, through links too, for what is no
    file, and for more than `most` bytes.

    What was opened is what is checked: a name may change between a check and the reading of it.
    """
    if root is None:
        raise Refused("paths are not read here: send the video")
    try:
        place = (root / path).resolve(strict=True)
        if not place.is_relative_to(root):
            raise Refused("the path is not below the allowed folder")
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError) as error:  # missing; a NUL in it; a circle of links
        raise Refused("no such file below the allowed folder") from error
    try:
        state = os.fstat(descriptor)
        if not Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(root) or not stat.S_ISREG(state.st_mode):
            raise Refused("no such file below the allowed folder")
        if state.st_size > most:
            raise Refused(f"a file of {state.st_size} bytes; at most {most} are read")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)


def clip_of(frames: Sequence[str], fps: float) -> "Clip":
    """A clip of pictures in base64, all of one size, at `fps` frames a second. Sizes are checked before decoding."""
    from PIL import Image, UnidentifiedImageError

    from components.reward.inputs import Clip

    if not (math.isfinite(fps) and fps > 0):
        raise Refused(f"frame rate {fps} is not a positive number")
    if not frames:
        raise Refused("a video without frames")
    pictures, first, size = [], None, 0
    for number, text in enumerate(frames):
        try:
            with Image.open(io.BytesIO(from_base64(text)), formats=FORMATS) as picture:
                first = first or picture.size
                size += picture.width * picture.height * 3
                if picture.size != first:
                    raise Refused(f"frame {number} is {picture.width}x{picture.height}, the first {first[0]}x{first[1]}")
                if picture.width * picture.height > MOST_PIXELS or size > MOST_DECODED:
                    raise Refused(f"frames of more than {MOST_PIXELS} pixels, or of more than {MOST_DECODED} bytes together")
                pictures.append(np.asarray(picture.convert("RGB")))
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise Refused(f"frame {number} is no {' or '.join(FORMATS)} picture that can be read") from error
    return Clip(np.stack(pictures), fps)
