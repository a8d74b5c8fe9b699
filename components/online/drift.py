"""The hacking alarm along rounds: a round's clips beside those of round 1, which base drew.

Rounds have other prompts, so means over prompts are compared, unpaired. A signal raises the alarm where the change is beyond
its limit (params, section evaluate.hacking) and its 95% interval leaves out zero. What the alarm of stage `evaluate` adds,
held-out judges among them, has no part here: rounds see training prompts alone.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from components.config.params import HackingParams
from components.errors import BadInput
from components.evaluation.drift_signals import diversity, measure
from components.pipeline.stage import Stage
from components.video.container import VideoError
from components.video.decode import read_frames
from components.video.limits import Limits

SIGNALS = ("brightness", "saturation", "dynamic_degree", "diversity")
CLIPS = 2  # clips of each prompt: optical flow is slow, and diversity needs two


def measured(stage: Stage, table: pd.DataFrame, root: Path) -> pd.DataFrame:
    """The signals of drawn clips, columns SIGNALS in the units of `drift_signals`; NaN for clips that are not measured: all
    but CLIPS of a prompt, and prompts beyond those of a round.

    table: columns prompt_id and path, below `root`. A clip that cannot be read is BadInput.
    """
    found, limits = pd.DataFrame(np.nan, table.index, list(SIGNALS)), Limits.of(stage.params.limits)
    prompts = list(table.groupby("prompt_id").indices.values())[: stage.params.online.prompts]
    for places in stage.progress(prompts, "signals of drift"):
        looks = []
        for place in places[:CLIPS]:
            file = root / table["path"].iloc[place]
            try:
                signals = measure(read_frames(file, limits=limits))
            except VideoError as error:
                raise BadInput(file, error.why) from error
            found.iloc[place, :3] = [signals.brightness, signals.saturation, signals.motion]
            looks.append(signals.descriptor)
        if len(looks) == CLIPS:
            (found.iloc[places[:CLIPS], 3],) = diversity(np.stack(looks), np.zeros(CLIPS)).values()
    return found


def drift(first: pd.DataFrame, now: pd.DataFrame, limits: HackingParams) -> list[str] | None:
    """Reasons for the alarm, "name: figures"; empty without one, None where no signal can be compared. first, now: scores of
    two rounds with SIGNALS."""
    reasons, compared = [], False
    for name in SIGNALS:
        before, after = (of_prompts(table, name) for table in (first, now))
        if min(len(before), len(after)) < 2:
            continue
        compared = True
        mean, change = float(before.mean()), float(after.mean() - before.mean())
        interval = stats.ttest_ind(after, before, equal_var=False).confidence_interval()
        down, up = allowed(name, mean, limits)
        if (change < -down and interval.high < 0) or (change > up and interval.low > 0):
            reasons.append(f"{name}: {mean + change:.3g} instead of round 1's {mean:.3g}")
    return reasons if compared else None


def of_prompts(table: pd.DataFrame, name: str) -> np.ndarray:
    """Means of a signal over the measured clips of each prompt."""
    means = pd.Series(table.groupby("prompt_id")[name].mean()).to_numpy()
    return means[np.isfinite(means)]


def allowed(name: str, mean: float, limits: HackingParams) -> tuple[float, float]:
    """Largest change down and up from round 1's mean, in the signal's unit."""
    match name:
        case "brightness":
            return limits.brightness_shift, limits.brightness_shift
        case "saturation":
            return limits.saturation_shift * mean, limits.saturation_shift * mean
        case "dynamic_degree":
            return limits.dynamic_degree_drop * mean, np.inf
        case _:
            return limits.diversity_drop * mean, np.inf
