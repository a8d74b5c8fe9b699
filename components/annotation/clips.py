"""What can be compared: clips.csv, and pairs of two of its clips that share a prompt.

clips.csv has the columns path, prompt and model (the generator; may be empty). It may be the file that
`reelign score --csv` reads.
"""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.preferences.paths import clip_path, stored_file
from components.preferences.schema import Pair, pair_of, read_prompt
from components.preferences.split import prompt_key

PAIR_COLUMNS = ("path_A", "path_B", "prompt", "model_A", "model_B", "uncertainty")


@dataclass(frozen=True)
class Clip:
    """A row of clips.csv (None: a clip from elsewhere); `path` is relative to the folder of videos."""

    row: int | None
    path: str
    prompt: str
    model: str

    @property
    def key(self) -> str:
        return prompt_key(self.prompt)


def read_clips(file: Path, videos: Path) -> list[Clip]:
    """All clips, in order. BadInput names row and key of a path that is twice there, missing, or leaves `videos` (by a
    link too), of an empty prompt, and of a prompt that an earlier row has with other white space, case or Unicode form."""
    root = videos.resolve()
    clips: dict[str, Clip] = {}
    written: dict[str, Clip] = {}
    for row, cells in read_rows(file, ["path", "prompt", "model"]):
        try:
            path = clip_path(cells["path"], videos)
        except ValueError as error:
            raise BadInput(file, str(error), row=row, key="path") from error
        path = stored_file(videos, path) or path
        if path in clips:
            raise BadInput(file, f"{path} is in row {clips[path].row} already", row=row, key="path")
        if not (videos / path).is_file():
            raise BadInput(file, f"no such video: {videos / path}", row=row, key="path")
        if not (videos / path).resolve().is_relative_to(root):
            raise BadInput(file, f"{videos / path} is a link that leaves the folder", row=row, key="path")
        clip = Clip(row, path, read_prompt(file, row, cells), cells["model"])
        first = written.setdefault(clip.key, clip)
        if first.prompt != clip.prompt:
            why = f"row {first.row} has this prompt with other white space, case or Unicode form"
            raise BadInput(file, why, row=row, key="prompt")
        clips[path] = clip
    if not clips:
        raise BadInput(file, "no clips")
    return list(clips.values())


def by_prompt(clips: Iterable[Clip]) -> dict[str, list[Clip]]:
    """Clips by prompt, prompts and the clips of each sorted, so that the order of rows does not count."""
    groups: dict[str, list[Clip]] = {}
    for clip in sorted(clips, key=lambda clip: (clip.key, clip.path)):
        groups.setdefault(clip.key, []).append(clip)
    return groups


def all_pairs(clips: Iterable[Clip]) -> Iterator[tuple[Clip, Clip]]:
    """Every two clips of a prompt, of one generator too: a generator to be aligned is compared with itself."""
    for group in by_prompt(clips).values():
        yield from combinations(group, 2)


def name_of(pair: tuple[Clip, Clip]) -> Pair:
    """As Annotation.pair."""
    return pair_of(pair[0].prompt, pair[0].path, pair[1].path)


def generators(pair: tuple[Clip, Clip]) -> tuple[str, str]:
    """The two models, sorted; the same ones whichever clip comes first."""
    one, other = sorted(clip.model for clip in pair)
    return one, other


def read_pairs(file: Path, clips: Iterable[Clip]) -> list[tuple[Clip, Clip]]:
    """The pairs of a CSV with the columns path_A and path_B, in order (which is A does not count); others are not read.

    BadInput names row and key of a clip that clips.csv has not, of two clips that are one or have different prompts, and
    of a pair that an earlier row has.
    """
    known = {clip.path: clip for clip in clips}
    pairs: dict[Pair, tuple[Clip, Clip]] = {}
    rows: dict[Pair, int] = {}
    for row, cells in read_rows(file, ["path_A", "path_B"]):
        for column in ("path_A", "path_B"):
            if cells[column] not in known:
                raise BadInput(file, f"{cells[column]} is not in the list of clips", row=row, key=column)
        pair = known[cells["path_A"]], known[cells["path_B"]]
        if pair[0] is pair[1]:
            raise BadInput(file, "a clip is compared with itself", row=row, key="path_B")
        if pair[0].key != pair[1].key:
            raise BadInput(file, f"prompts differ: '{pair[0].prompt}' and '{pair[1].prompt}'", row=row, key="path_B")
        name = name_of(pair)
        if name in pairs:
            raise BadInput(file, f"this pair is in row {rows[name]} already", row=row, key="path_A")
        pairs[name], rows[name] = pair, row
    if not pairs:
        raise BadInput(file, "no pairs")
    return list(pairs.values())


def write_pairs(file: Path, pairs: Iterable[tuple[Clip, Clip]], uncertainty: Iterable[float]) -> None:
    """Write PAIR_COLUMNS, which read_pairs reads."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(PAIR_COLUMNS)
        for (one, other), value in zip(pairs, uncertainty, strict=True):
            writer.writerow([one.path, other.path, one.prompt, one.model, other.model, f"{value:.6f}"])
