"""A program of the team's own that scores clips, run as `PROGRAM clips.csv scores.csv`.

clips.csv has the columns clip (a number), path and prompt. The program writes scores.csv: clip, its scores, and `reason` for
a clip without scores. The words of PROGRAM are split as a shell splits them; no shell runs it.
"""

import hashlib
import json
import math
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.pipeline.stage import folder_digest

REASON = "reason"
ScoreRow = dict[str, float | str]  # scores by name, or REASON alone


def run_program(
    name: str, words: list[str], clips: Sequence[tuple[str, str]], needed: Iterable[str], others: Iterable[str] = ()
) -> dict[str, ScoreRow]:
    """The program's row of each clip (path, prompt), by its number as text. needed: scores that each has; others: that it
    may have. BadInput, of `name`, for a program that fails, and for a table that is not as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        asked, made = Path(folder) / "clips.csv", Path(folder) / "scores.csv"
        table = [(number, str(Path(path).resolve()), prompt) for number, (path, prompt) in enumerate(clips)]
        pd.DataFrame(table, columns=["clip", "path", "prompt"]).to_csv(asked, index=False)
        done = subprocess.run([*words, str(asked), str(made)], stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BadInput(name, f"ended with exit code {done.returncode}: {last}")
        if not made.exists():
            raise BadInput(name, "wrote no scores.csv, the file of its last argument")
        return _read(name, made, len(clips), list(needed), list(others))


def _read(name: str, made: Path, count: int, needed: list[str], others: list[str]) -> dict[str, ScoreRow]:
    """Rows by number; BadInput for one that is of no clip, comes twice or is missing, and for a score that is none."""
    file, rows = f"{name}: scores.csv", {}
    for line, cells in read_rows(made, ["clip", *needed], [*others, REASON]):
        clip, reason = cells["clip"], cells.get(REASON)
        if clip in rows or clip not in map(str, range(count)):
            why = "comes twice" if clip in rows else "is no clip of clips.csv"
            raise BadInput(file, f"'{clip}' {why}", line, "clip")
        rows[clip] = {REASON: reason} if reason else {}
        for score in () if reason else (*needed, *others):
            if score in cells:
                rows[clip][score] = number(file, line, score, cells[score])
    if missing := [clip for clip in map(str, range(count)) if clip not in rows]:
        raise BadInput(file, f"no row of clip {missing[0]}: a clip without scores has its reason", key="clip")
    return rows


def number(file: str, line: int, key: str, text: str | None) -> float:
    """A finite score; BadInput for all else."""
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(file, f"'{text}' is no finite number; a clip without scores has its reason", row=line, key=key)
    return value


def identity_of(words: list[str]) -> str:
    """Digest of the command line and of the files of this checkout that it names; what the program imports is not seen."""
    named = [Path(shutil.which(words[0]) or words[0]), *map(Path, words[1:])]
    own = [path for path in named if path.is_file() and path.resolve().is_relative_to(Path.cwd())]
    return hashlib.sha256(json.dumps([words, [folder_digest(path) for path in own]]).encode()).hexdigest()[:16]


def split(argument: str, name: str) -> list[str]:
    """The words of a command; BadInput where quotes do not match, and for a program that is not here."""
    try:
        words = shlex.split(argument)
    except ValueError as error:
        raise BadInput(name, f"cannot be split into words: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise BadInput(name, f"no such program: {words[0] if words else argument}")
    return words
