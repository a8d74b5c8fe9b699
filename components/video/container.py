"""Open a file with PyAV, pick the track that a player shows, and say by name why there is none."""

import os
from pathlib import Path

import av.container
import av.error
from av.stream import Disposition

from components.video.limits import LIMITS, Limits

# FFmpeg also reads playlists (HLS, DASH, concat), which name other files and addresses to be opened. Strangers' bytes are
# only read as what holds its own pictures.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,h264,hevc,av1,obu,ivf,yuv4mpegpipe,nut,mxf"
# Video streams that are pictures about the clip: cover art, thumbnails for seeking.
PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# Bytes that other kinds of file start with, and what to say of them.
OTHER_KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer in place of the file; run `git lfs pull`"),
    (b"\x89PNG", "a still image (PNG)"),
    (b"\xff\xd8\xff", "a still image (JPEG)"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
)


class VideoError(Exception):
    """A clip cannot be read or written. `why` starts with what is wrong in a few words, and fits in a table cell."""

    def __init__(self, path: str | Path, why: str):
        super().__init__(f"{path}: {why}")
        self.path = Path(path)
        self.why = why

    def __reduce__(self):  # so that it crosses process borders: Exception would be rebuilt from its one text
        return VideoError, (self.path, self.why)


def file_url(path: str | Path) -> str:
    """A path as FFmpeg takes it. Without `file:` a name such as `Style: a.mp4` is an address of the protocol `Style`."""
    return f"file:{path}"


def open_file(path: str | Path, limits: Limits = LIMITS) -> av.container.InputContainer:
    """VideoError for what is no file, a larger one than `limits` has it, or no video in one of CONTAINERS."""
    if not os.path.isfile(path):
        raise VideoError(path, "is a folder" if os.path.isdir(path) else "no such file")
    if why := limits.refuse_file(os.path.getsize(path)):
        raise VideoError(path, why)
    # FFmpeg decodes first frames of some formats to know them: larger ones than these it leaves alone.
    options = {"format_whitelist": CONTAINERS, "max_pixels": str(limits.pixels)}
    try:
        # Titles and comments may be in any encoding, and are of no use here.
        return av.open(file_url(path), options=options, metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise VideoError(path, f"unreadable: {_other_kind(path) or error.strerror}") from error


def video_stream(path: str | Path, container: av.container.InputContainer, limits: Limits = LIMITS) -> av.VideoStream:
    """The video track that a player shows: the default one, or else the first. VideoError if there is none, or if its frames
    are larger than `limits` has it; its decoder refuses such frames too, where they come later."""
    tracks = [stream for stream in container.streams.video if not stream.disposition & PICTURES]
    if not tracks:
        raise VideoError(path, "no video stream")
    stream = next((track for track in tracks if track.disposition & Disposition.default), tracks[0])
    if stream.codec_context is None:
        raise VideoError(path, "no decoder for its video codec")
    if why := limits.refuse_frame(stream.codec_context.width, stream.codec_context.height):
        raise VideoError(path, why)
    stream.codec_context.options = {"max_pixels": str(limits.pixels)}
    return stream


def container_name(container: av.container.InputContainer) -> str:
    """FFmpeg's first name of the format, such as `mov` of MP4."""
    return container.format.name.split(",")[0]


def check_whole(path: str | Path, container: av.container.InputContainer, stream: av.VideoStream, packets: int) -> None:
    """VideoError where the file ends before its last packet. `packets`: how many were read.

    Of MP4 the index counts, as an edit list may leave packets of the track out. The header of an AVI counts repeated frames
    that have no bytes, and some writers one more: it is believed only where the file is shorter than it says. Others
    (Matroska, transport streams) do not say how many there are.
    """
    indexed = len(stream.index_entries)
    if packets < min(stream.frames, indexed):
        raise VideoError(path, f"truncated: {packets} of {indexed} frames")
    if packets < stream.frames and container_name(container) == "avi" and _is_cut_riff(path):
        raise VideoError(path, f"truncated: {packets} of {stream.frames} frames")


def _is_cut_riff(path: str | Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(8)
    return os.path.getsize(path) < 8 + int.from_bytes(head[4:8], "little")


def _other_kind(path: str | Path) -> str | None:
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:  # what FFmpeg says too
        return None
    if not head:
        return "empty file"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP, which FFmpeg's reader does not take; convert it to GIF or MP4"
    head = head.lstrip()
    return next((kind for start, kind in OTHER_KINDS if head[: len(start)].lower() == start.lower()), None)
