"""Judge `vbench:FOLDER`: result files of the package vbench on these very clips, in its mode custom_input.

A file's name and the two folders above it know a clip (dpo/videos/p00001_0.mp4). Values are normalised as VBench's
leaderboard does, and its weights make VQ, MQ and TA of the dimensions that the files have. Overall is the weighted mean of
VBench's Quality and Semantic scores, as far as the files have them.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from components.errors import BadInput
from components.judges.protocol import REASON, Context, JudgedClip, JudgeFacts, in_order
from components.judges.vbench import FLICKERING, RESULT_FILES, SEMANTIC, VBENCH, read_video_values
from components.pipeline.stage import folder_digest

PICTURE = ("aesthetic_quality", "imaging_quality")
MOTION = (FLICKERING, "motion_smoothness", "dynamic_degree", "subject_consistency", "background_consistency")
DIMENSIONS = {"VQ": PICTURE, "MQ": MOTION, "TA": tuple(SEMANTIC)}
TAIL = 3  # parts of a path that know a clip


class VBenchJudge:
    """Means of normalised values."""

    def __init__(self, name: str, key: str, folder: Path, context: Context):
        self.folder = folder
        self.values = read_values(folder)
        self.known = [name for name in VBENCH.dimensions if any(name in own for own in self.values.values())]
        given = [name for name, parts in DIMENSIONS.items() if set(parts) & set(self.known)]
        self.facts = JudgeFacts(
            name=name,
            key=key,
            title="VBench",
            identity=folder_digest(folder),
            dimensions=in_order([*given, "Overall"]),
            unit=f"normalised, of {', '.join(self.known)}",
            tie_width=1e-9,
            on_record=True,
        )

    def score(self, clips: Sequence[JudgedClip]) -> pd.DataFrame:
        return pd.DataFrame([self._row(clip) for clip in clips], columns=[*self.facts.dimensions, REASON])

    def _row(self, clip: JudgedClip) -> dict:
        own = self.values.get(tail(clip.video), {}) if clip.frames is None else {}
        if missing := [name for name in self.known if name not in own]:
            return {REASON: f"{self.folder} has no {missing[0]} of it"}
        row = {name: mean(own, parts) for name, parts in DIMENSIONS.items() if name in self.facts.dimensions}
        return row | {"Overall": overall(own)}


def read_values(folder: Path) -> dict[tuple[str, ...], dict[str, float]]:
    """Normalised values by clip, then dimension. BadInput for a folder without results, and a value that comes twice."""
    files = sorted(folder.rglob(RESULT_FILES)) if folder.is_dir() else []
    if not files:
        raise BadInput(folder, f"no {RESULT_FILES} in it: the package vbench writes them")
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for file in files:
        for dimension, path, value in read_video_values(file, VBENCH):
            own = found.setdefault(tail(path), {})
            if dimension in own:
                raise BadInput(file, f"a second value of {'/'.join(tail(path))}", key=dimension)
            own[dimension] = VBENCH.dimensions[dimension].normalise(value)
    return found


def tail(path: str) -> tuple[str, ...]:
    return Path(path).parts[-TAIL:]


def mean(own: dict[str, float], names: Sequence[str]) -> float:
    """Weighted mean over those of `names` that a clip has."""
    there = [name for name in names if name in own]
    weights = [VBENCH.dimensions[name].weight for name in there]
    return float(np.average([own[name] for name in there], weights=weights))


def overall(own: dict[str, float]) -> float:
    """Weighted mean of the scores of VBench's groups, each over the dimensions that a clip has."""
    groups = [group for group in VBENCH.groups.values() if set(group.dimensions) & own.keys()]
    scores = [mean(own, list(group.dimensions)) for group in groups]
    return float(np.average(scores, weights=[group.weight for group in groups]))
