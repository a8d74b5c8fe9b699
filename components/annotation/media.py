"""Clips as annotators get them: copies under names, and with contents, that say nothing of where they come from."""

import tempfile
from pathlib import Path

from components.errors import BadInput
from components.files.atomic import whole_file
from components.video.container import VideoError, file_url, open_file, video_stream
from components.video.decode import VideoInfo, probe

# What all common browsers play (and Label Studio leaves playing to the browser).
CODECS = ("h264", "vp9", "av1")
PIXEL_FORMATS = ("yuv420p", "yuvj420p")


def check_video(file: Path, row: int | None, path: Path) -> VideoInfo:
    """BadInput, naming `row` of `file`, for a video that cannot be read, that a browser would not play, or of which a copy
    would show other frames."""
    try:
        info = probe(path)
        if info.codec not in CODECS or info.pixel_format not in PIXEL_FORMATS:
            why = f"browsers play H.264, VP9 and AV1 in yuv420p, not {info.codec} in {info.pixel_format}"
            raise VideoError(path, why)
        with tempfile.TemporaryDirectory() as folder:
            copy_blind(path, Path(folder) / "copy.mp4")
            copied = probe(Path(folder) / "copy.mp4").frames
        if copied != info.frames:  # an edit list that hides frames between those shown
            raise VideoError(path, f"a copy would show {copied} frames where it shows {info.frames}; re-encode it")
    except VideoError as error:
        raise BadInput(file, str(error), row=row, key="path") from error
    return info


def copy_blind(source: Path, target: Path) -> None:
    """Copy the pictures of a video, packet by packet, into a new MP4 file that appears whole or not at all.

    Left behind: titles, comments, encoder names and dates (generators and their front ends write the model's name there),
    cover art, sound, which not every generator makes, and what an edit list hides behind the last frame shown. The index
    comes first, so that a browser can start at once. VideoError where MP4 cannot hold the packets.
    """
    import av.error

    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    try:
        with (
            whole_file(target, sync=False) as partial,
            open_file(source) as given,
            av.open(file_url(partial), "w", format="mp4", options=options) as made,
        ):
            stream = video_stream(source, given)
            # Opaque: PyAV would look for an encoder named as the decoder, and there is none of AV1's (libdav1d).
            copied = made.add_stream_from_template(stream, opaque=True)
            held = []
            for packet in given.demux(stream):
                if not packet.size:  # the last one, which ends the stream
                    continue
                packet.stream = copied
                held.append(packet)
                if not packet.is_discard:
                    made.mux(held)
                    held = []
    except av.error.FFmpegError as error:
        raise VideoError(source, f"cannot be copied into MP4: {error.strerror}") from error
