"""The images that clips of prompts begin with, for a generator that draws from one: a column `image` beside the prompt.

A CSV names an image by its path from the CSV's folder. `image_digest` may pin its content, and does so in
prompts.csv of stage source: another image under the same name is refused. A prompt has one image.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.files.digests import file_digest
from components.preferences.paths import clip_path

IMAGE, DIGEST = "image", "image_digest"


@dataclass(frozen=True)
class FirstFrame:
    """path: from the working folder, or absolute."""

    path: str
    digest: str


def read_first_frames(file: Path, root: Path | None, column: str = "prompt") -> dict[str, FirstFrame]:
    """The image of each prompt that has one, by the text in `column`. root: folder that paths are in; None is any place,
    from the working folder.

    BadInput names the row of an image that is not there, that is not the one of its digest, or that is a prompt's second.
    """
    found: dict[str, FirstFrame] = {}
    rows: dict[str, tuple[int, str]] = {}
    for row, cells in read_rows(file, [column], [IMAGE, DIGEST]):
        given = cells.get(IMAGE, "")
        first, before = rows.setdefault(cells[column], (row, given))
        if given != before:
            why = f"'{given}', and row {first} has '{before}' for the same prompt: a prompt has one image"
            raise BadInput(file, why, row=row, key=IMAGE)
        if given and first == row:
            found[cells[column]] = first_frame(file, row, given, cells.get(DIGEST), root)
    return found


def first_frame(file: Path, row: int, given: str, digest: str | None, root: Path | None) -> FirstFrame:
    try:
        path = Path(given) if root is None else root / clip_path(given, root)
    except ValueError as error:
        raise BadInput(file, str(error), row=row, key=IMAGE) from error
    if not path.is_file():
        raise BadInput(file, f"no such image: {path}", row=row, key=IMAGE)
    there = file_digest(path)
    if digest and digest != there:
        raise BadInput(file, f"{path} is another image: its digest is {there}, not {digest}", row=row, key=DIGEST)
    return FirstFrame(str(path), there)


def refuse_images(path: Path, file: str) -> None:
    """BadInput where the CSV at `path`, which errors call `file`, names an image: those of a bucket are not fetched."""
    for row, cells in read_rows(path, [], [IMAGE], file):
        if cells.get(IMAGE):
            why = "images of a bucket are not fetched: use source.kind folder"
            raise BadInput(file, why, row=row, key=IMAGE)


def write_prompts_with_images(file: Path, prompts: Iterable[str], images: Mapping[str, FirstFrame]) -> None:
    """Write prompts.csv with the columns `prompt`, `image` (from the working folder) and `image_digest`."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["prompt", IMAGE, DIGEST])
        for prompt in prompts:
            own = images.get(prompt)
            writer.writerow([prompt, *(("", "") if own is None else (own.path, own.digest))])
