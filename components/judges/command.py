"""Judge `command:PROGRAM`: a program of the team's own, run as `PROGRAM clips.csv scores.csv`.

components/reward/program.py has the rules. It writes Overall and any of VQ, MQ and TA. Finished scores are kept, by all
that they depend on: a killed run does not run the program again.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.files.atomic import atomic_write, discard
from components.files.text import read_json
from components.judges.files import with_files
from components.judges.protocol import REASON, Context, JudgedClip, JudgeFacts, in_order
from components.pipeline.stage import folder_digest
from components.reward.program import identity_of, run_program

OVERALL = "Overall"


class CommandJudge:
    """Scores of a program, in its own unit. Its dimensions beside Overall are known once it has scored."""

    def __init__(self, name: str, key: str, words: list[str], context: Context):
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
        others = [dimension for dimension in DIMENSIONS if dimension != OVERALL]
        items = [(clip.video, clip.prompt) for clip in clips]
        rows = run_program(self.facts.name, self.words, items, [OVERALL], others)
        self.context.state.mkdir(parents=True, exist_ok=True)
        atomic_write(file, json.dumps(rows))
        return rows
