"""Clips in memory as files, for a judge that reads files only."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from components.judges.protocol import JudgedClip
from components.video.encode import write_video


def with_files(clips: Sequence[JudgedClip], folder: Path) -> list[JudgedClip]:
    """The clips, those in memory written below `folder` as MP4 of high quality."""
    found = []
    for number, clip in enumerate(clips):
        if clip.frames is not None:
            file = folder / f"{number:05d}.mp4"
            write_video(file, clip.frames, clip.fps or 1.0)
            clip = replace(clip, video=str(file), frames=None)
        found.append(clip)
    return found
