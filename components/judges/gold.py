"""Judge `gold`: the gold judge of the shapes world (components/simulation/judge.py), on which nothing is trained."""

from collections.abc import Sequence

import pandas as pd

from components.contracts import DIMENSIONS
from components.judges.protocol import REASON, Context, JudgedClip, JudgeFacts
from components.pipeline.code_digest import JUDGING, sources_digest
from components.simulation.judge import judge
from components.video.container import VideoError
from components.video.decode import read_frames

MEASURES = ("prompt_right", "dynamic_degree", "speed_error")  # of the fitted track, beside the scores


class GoldJudge:
    """Scores in [0, 1]. Beside them a row has MEASURES, of the fitted track."""

    def __init__(self, key: str, context: Context):
        self.context = context
        self.facts = JudgeFacts(
            name="gold",
            key=key,
            title="the gold judge",
            identity=sources_digest(JUDGING),
            dimensions=DIMENSIONS,
            unit="gold units, 0 to 1",
            tie_width=1e-9,
            trusted=True,
        )

    def score(self, clips: Sequence[JudgedClip]) -> pd.DataFrame:
        rows = [self._row(clip) for clip in self.context.progress(clips, "judge", len(clips))]
        return pd.DataFrame(rows, columns=[*DIMENSIONS, *MEASURES, REASON])

    def _row(self, clip: JudgedClip) -> dict:
        try:
            frames = read_frames(clip.video, limits=self.context.limits) if clip.frames is None else clip.frames
            verdict = judge(frames, clip.prompt)
        except VideoError as error:
            return {REASON: error.why}
        except ValueError as error:
            return {REASON: str(error)}
        return verdict.scores() | {name: getattr(verdict, name) for name in MEASURES}
