"""Judge `command:PROGRAM`: a program of the team's own, run as `PROGRAM clips.csv scores.csv`.

clips.csv has the columns clip (a number), path and prompt. The program writes scores.csv: clip, Overall, any of VQ, MQ and
TA, and `reason` for a clip without scores. The words of PROGRAM are split as a shell splits them; no shell runs it. Finished
scores are kept, by all that they depend on: a killed run does not run the program again.
"""

import hashlib
import json
import math
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.files.atomic import atomic_write, discard
from components.files.csv_tables import read_rows
from components.files.text import read_json
from components.judges.files import with_files
from components.judges.protocol import REASON, Context, JudgedClip, JudgeFacts, in_order
from components.pipeline.stage import folder_digest

OVERALL = "Overall"


class CommandJudge:
    """Scores of a program, in its own unit. Its dimensions beside Overall are known once it has scored."""

    def __init__(self, name: str, key: str, words: list[str], context: Context):
        if shutil.which(words[0]) is None:
            raise BadInput(name, f"no such program: {words[0]}")
        self.words, self.context = words, context
        self.facts = JudgeFacts(
            name=name,
            key=key,
            title=f"the program {Path(words[-1]).name}",
            identity=identity_of(words),
            dimensions=(OVERALL,),
            unit="its own",
            tie_width=1e-9,
        )

    def score(self, clips: Sequence[JudgedClip]) -> pd.DataFrame:
        with tempfile.TemporaryDirectory() as folder:
            files = with_files(clips, Path(folder))
            table = self._kept(files) if files else {}
        rows = [table[str(number)] for number in range(len(clips))]
        given = {name for row in rows for name in row if name in DIMENSIONS}
        self.facts = replace(self.facts, dimensions=in_order({OVERALL, *given}))
        return pd.DataFrame(rows, columns=[*self.facts.dimensions, REASON])

    def _kept(self, clips: list[JudgedClip]) -> dict[str, dict]:
        """The program's rows by number of the clip: kept ones, or new ones."""
        asked = [[folder_digest(clip.video), clip.prompt] for clip in clips]
        digest = hashlib.sha256(json.dumps([self.facts.identity, asked]).encode()).hexdigest()[:32]
        file = self.context.state / f"command-{digest}.json"
        if file.exists():
            try:
                return read_json(file, *(str(number) for number in range(len(clips))))
            except BadInput as error:
                discard(file, error)
        rows = self._run(clips)
        self.context.state.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(rows))
        return rows

    def _run(self, clips: list[JudgedClip]) -> dict[str, dict]:
        with tempfile.TemporaryDirectory() as folder:
            asked, made = Path(folder) / "clips.csv", Path(folder) / "scores.csv"
            table = [(number, str(Path(clip.video).resolve()), clip.prompt) for number, clip in enumerate(clips)]
            pd.DataFrame(table, columns=["clip", "path", "prompt"]).to_csv(asked, index=False)
            done = subprocess.run([*self.words, str(asked), str(made)], stderr=subprocess.PIPE, text=True, errors="replace")
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise BadInput(self.facts.name, f"ended with exit code {done.returncode}: {last}")
            if not made.exists():
                raise BadInput(self.facts.name, "wrote no scores.csv, the file of its last argument")
            return self._read(made, len(clips))

    def _read(self, made: Path, count: int) -> dict[str, dict]:
        """Rows by number; BadInput for one that is of no clip, comes twice or is missing, and for a score that is none."""
        name, rows = f"{self.facts.name}: scores.csv", {}
        others = [dimension for dimension in DIMENSIONS if dimension != OVERALL]
        for line, cells in read_rows(made, ["clip", OVERALL], [*others, REASON]):
            clip, reason = cells["clip"], cells.get(REASON)
            if clip in rows or clip not in map(str, range(count)):
                why = "comes twice" if clip in rows else "is no clip of clips.csv"
                raise BadInput(name, f"'{clip}' {why}", line, "clip")
            rows[clip] = {REASON: reason} if reason else {}
            for dimension in DIMENSIONS if not reason else ():
                if dimension in cells:
                    rows[clip][dimension] = number(name, line, dimension, cells[dimension])
        if missing := [clip for clip in map(str, range(count)) if clip not in rows]:
            raise BadInput(name, f"no row of clip {missing[0]}: a clip without scores has its reason", key="clip")
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
    """The words of a command; BadInput where quotes do not match."""
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise BadInput(name, f"cannot be split into words: {error}") from error
