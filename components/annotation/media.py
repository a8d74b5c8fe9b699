"""Clips as annotators get them: copies under names, and with contents, that say nothing of where they come from."""

import os
from pathlib import Path

from components.errors import BadInput
from components.video.container import VideoError, file_url, open_file, video_stream
from components.video.decode import VideoInfo, probe

# What all common browsers play (and Label Studio leaves playing to the browser).
CODECS = ("h264", "vp9", "av1")
PIXEL_FORMATS = ("yuv420p", "yuvj420p")


def check_video(file: Path, row: int | None, path: Path) -> VideoInfo:
    """BadInput, naming `row` of `file`, for a video that cannot be read or that a browser would not play."""
    try:
        info = probe(path)
    except VideoError as error:
        raise BadInput(file, str(error), row=row, key="path") from error
    if info.codec not in CODECS or info.pixel_format not in PIXEL_FORMATS:
        why = f"{path}: browsers play H.264, VP9 and AV1 in yuv420p, not {info.codec} in {info.pixel_format}"
        raise BadInput(file, why, row=row, key="path")
    return info


def copy_blind(source: Path, target: Path) -> None:
    """Copy the pictures of a video, packet by packet, into a new MP4 file that appears whole or not at all.

    Left behind: titles, comments, encoder names and dates (generators and their front ends write the model's name there),
    and sound, which not every generator makes. The index comes first, so that a browser can start at once.
    """
    import av

    partial = target.with_suffix(".partial")
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with open_file(source) as given, av.open(file_url(partial), "w", format="mp4", options=options) as made:
        stream = video_stream(source, given)
        copied = made.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.size:  # the last, empty one ends the stream
                packet.stream = copied
                made.mux(packet)
    os.replace(partial, target)
