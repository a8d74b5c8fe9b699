"""Labels of new simulated annotators on pairs of the demo, for judges that the demo's reward model has nothing of."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from components.contracts import DIMENSIONS
from components.files.tables import read_table, write_table
from components.preferences.agreement import decide_part
from components.preferences.pairs import pair_row
from components.schemas import PAIRS_SCHEMA
from components.simulation.annotators import NOISE_FACTORS, Annotator, annotate
from components.simulation.judge import judge
from components.simulation.zoo import view_of
from components.video.decode import read_frames


def two_annotators(
    rng: np.random.Generator, noise: Mapping[str, float], tie: Mapping[str, float], factor: float = 1.0, lapse: float = 0.1
) -> list[Annotator]:
    """Two annotators around `factor` times the noise."""
    low, high = factor * min(NOISE_FACTORS), factor * max(NOISE_FACTORS)
    return [
        Annotator(
            f"held out {n}", {name: value * rng.uniform(low, high) for name, value in noise.items()}, dict(tie), lapse=lapse
        )
        for n in range(2)
    ]


def label_again(
    demo: Path, folder: Path, people: Sequence[Annotator], rng: np.random.Generator, counts: Mapping[str, int]
) -> None:
    """data/pairs/judge below `folder`: `counts` pairs of each split of the demo, labelled by these people alone."""
    known: dict[tuple[str, str], dict[str, float]] = {}
    for split, count in counts.items():
        rows = read_table(demo / f"data/pairs/{split}.parquet", PAIRS_SCHEMA)
        made = []
        for number in sorted(rng.choice(len(rows), min(count, len(rows)), replace=False)):
            row = rows[number]
            scores = [scored(known, demo, row[f"path_{side}"], row["prompt"]) for side in "AB"]
            sides = [{"path": row[f"path_{side}"], "model": row[f"model_{side}"]} for side in "AB"]
            views = []
            for person in people:
                answers, ratings = annotate(*scores, person, rng)
                views.append(view_of(row["prompt"], *sides, person.name, answers, ratings))
            found = pair_row(views, *decide_part(views)) | {"pair_id": row["pair_id"], "rows": row["rows"]}
            made += [found] if any(found[name] is not None for name in DIMENSIONS) else []
        write_table(folder / f"data/pairs/judge/{split}.parquet", made, PAIRS_SCHEMA)


def scored(known: dict[tuple[str, str], dict[str, float]], demo: Path, path: str, prompt: str) -> dict[str, float]:
    """Gold scores of a source clip, each judged once."""
    if (path, prompt) not in known:
        known[path, prompt] = dict(judge(read_frames(demo / "data/source/videos" / path), prompt).scores())
    return known[path, prompt]
