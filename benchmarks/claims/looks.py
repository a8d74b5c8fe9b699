"""First looks: what the demo's own finished clips show of a claim, before its study has run. They give no verdict.

They cost seconds, as all scores lie in the demo's tables, and they are of a single training. Intervals are over prompts
alone, and nothing is corrected.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from components.contracts import SAMPLE_SCORES, TRADEOFF
from components.evaluation.win_rates import Interval, mean_interval, points
from components.methods import BASE, METHODS

Looks = dict[int, dict[str, Interval]]  # by claim and words
RESAMPLES = 2000
ALIGNED = ("sft", "rwr", "dpo")


def looks(demo: Path) -> Looks:
    """Effects as in the claims: win rates less one half, and differences of them."""
    table = pd.read_parquet(demo / SAMPLE_SCORES).sort_values(["prompt_id", "seed"])
    samples = {str(name): part.reset_index(drop=True) for name, part in table.groupby("method")}
    settings = pd.read_parquet(demo / TRADEOFF).sort_values("clip")
    guided = {str(name): part.reset_index(drop=True) for name, part in settings.groupby("setting")}
    return {
        4: methods(samples),
        7: weights(guided),
        9: overstated(samples),
        11: sampling(samples, guided),
        12: motion(samples),
    }


def won(ours: pd.DataFrame, theirs: pd.DataFrame, column: str) -> np.ndarray:
    """Points of each clip less one half; the clips of both are of the same prompts and noise, in one order."""
    if ours.prompt_id.tolist() != theirs.prompt_id.tolist():
        raise ValueError("clips of two generators are not of the same prompts")
    return points(ours[column].to_numpy(), theirs[column].to_numpy()) - 0.5


def over_prompts(values: np.ndarray, table: pd.DataFrame) -> Interval:
    return mean_interval(values, table.prompt_id.to_numpy(), RESAMPLES, np.random.default_rng(0))


def methods(samples: dict[str, pd.DataFrame]) -> dict[str, Interval]:
    return {
        f"gold win rate of Flow-DPO against {METHODS[other].title}, Overall": over_prompts(
            won(samples["dpo"], samples[other], "gold_Overall"), samples[BASE]
        )
        for other in ("sft", "rwr", BASE)
    }


def weights(guided: dict[str, pd.DataFrame]) -> dict[str, Interval]:
    plain = guided["plain"]
    found = {}
    for name, more, less in (("TA", "0:0:1", "0.5:0.5:0"), ("VQ", "0.5:0.5:0", "0:0:1"), ("MQ", "0.5:0.5:0", "0:0:1")):
        sides = [won(guided[setting], plain, f"gold_{name}") for setting in (more, less)]
        found[f"gold win rate in {name}, weights {more} less {less}"] = over_prompts(sides[0] - sides[1], plain)
    return found


def overstated(samples: dict[str, pd.DataFrame]) -> dict[str, Interval]:
    base = samples[BASE]
    return {
        f"reward win rate less gold win rate of {METHODS[name].title}, Overall": over_prompts(
            won(samples[name], base, "reward_Overall") - won(samples[name], base, "gold_Overall"), base
        )
        for name in (*ALIGNED, "nrg", "best_of_n")
    }


def sampling(samples: dict[str, pd.DataFrame], guided: dict[str, pd.DataFrame]) -> dict[str, Interval]:
    """Flow-DPO's clips of the prompts and noise that stage tradeoff drew again."""
    plain, other = guided["plain"], guided["guidance 3.5"]
    own = samples["dpo"].assign(clip=lambda table: table.prompt_id + "_" + table.seed.astype(str))
    own = own.set_index("clip").loc[plain["clip"]].reset_index()
    return {
        "gold win rate of Flow-DPO against base, both at guidance 2, Overall": over_prompts(
            won(own, plain, "gold_Overall"), plain
        ),
        "gold win rate of base at guidance 3.5 against base at 2, Overall": over_prompts(
            won(other, plain, "gold_Overall"), plain
        ),
        "gold win rate of Flow-DPO at guidance 2 against base at 3.5, Overall": over_prompts(
            won(own, other, "gold_Overall"), plain
        ),
    }


def motion(samples: dict[str, pd.DataFrame]) -> dict[str, Interval]:
    return {
        f"share of clips slower than base's, {METHODS[name].title}": over_prompts(
            -won(samples[name], samples[BASE], "dynamic_degree"), samples[BASE]
        )
        for name in ALIGNED
    }
