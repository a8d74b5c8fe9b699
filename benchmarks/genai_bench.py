"""GenAI-Bench's judges against people's votes: the published four-class accuracies, and three classes beside them.

    python benchmarks/genai_bench.py FOLDER          votes.csv: idx, human_vote, and the answer of each judge

Four classes: left, right, tie, both bad. Three: a tie is a tie, good or bad. An answer that cannot be read is wrong, as in
the published table; how many were read is beside it. Intervals are over pairs, as the file names no prompts.
"""

import csv
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from components.statistics.accuracy import Estimate, share, tie_baselines
from components.statistics.intervals import as_text

# What a well-formed answer is in three classes; judges wrote much else.
ANSWERS = {"[[A>B]]": 1, "[[B>A]]": -1, "[[A=B=Good]]": 0, "[[A=B=Bad]]": 0}
VOTES = {"leftvote": "[[A>B]]", "rightvote": "[[B>A]]", "tievote": "[[A=B=Good]]", "bothbad_vote": "[[A=B=Bad]]"}
ROUNDS = 1000


def main(folder: Annotated[Path, typer.Argument(help="Folder with votes.csv.")]) -> None:
    with open(folder / "votes.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    people = [VOTES[row["human_vote"]] for row in rows]
    classes = np.array([ANSWERS[vote] for vote in people])
    print(f"{len(rows)} pairs; three classes: always a tie {tie_baselines(classes)['always_tie']:.1%}")
    print("| judge | read | four classes | three classes | without ties |\n|---|---|---|---|---|")
    judges = [name for name in rows[0] if name not in ("idx", "human_vote")]
    found = [(name, *figures([row[name] for row in rows], people, classes)) for name in judges]
    for name, read, *accuracies in sorted(found, key=lambda row: -row[2].value):
        print(f"| {name} | {read} | {' | '.join(map(percent, accuracies))} |")


def figures(answers: list[str], people: list[str], classes: np.ndarray) -> tuple[int, Estimate, Estimate, Estimate]:
    """How many answers were read; accuracy of four classes, of three, and over the pairs that people decided."""
    units = np.arange(len(answers))
    said = np.array([ANSWERS.get(answer, np.nan) for answer in answers])  # nan is no label's code
    four = np.array(answers) == np.array(people)
    three, decided = said == classes, classes != 0
    hits = [(four, units), (three, units), (three[decided], units[decided])]
    return int((~np.isnan(said)).sum()), *(share(hit, unit, np.random.default_rng(0), ROUNDS) for hit, unit in hits)


def percent(found: Estimate) -> str:
    return as_text(found.as_json(), lambda value: f"{100 * value:.2f}")


if __name__ == "__main__":
    typer.run(main)
