"""A reward model's dtypes in turns: seconds a video, seconds of loading, peak memory, and how far scores move.

    python benchmarks/dtypes.py MODEL clips.csv        columns path and prompt; MODEL as of `reelign score --model`

`float32` is how every VideoReward was loaded before `reward.dtype`. Each measurement runs in a process of its own.
"""

import json
import resource
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from turns import middle, take_turns

from components.cli.reward import read_items
from components.config.types import Dtype
from components.reward.score import RewardModel
from components.reward.scores import Unscored

WAYS: tuple[Dtype, ...] = ("float32", "bfloat16")


def main(
    model: Path,
    csv: Path,
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    way: Annotated[Dtype | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print each way's figures, and the second's over the first's in the same turn."""
    if way is not None:
        print(json.dumps(measure(model, csv, threads, way)))
        return
    turns = take_turns(__file__, [str(model), str(csv), "--threads", str(threads)], WAYS, repeats)
    first = WAYS[0]
    for name in WAYS:
        seconds, peak, loading, overall = (middle(turns, name, key) for key in ("seconds", "peak", "loading", "overall"))
        faster, less = 1 / middle(turns, name, "seconds", first), middle(turns, name, "peak", first)
        print(
            f"{name:9} {seconds:7.2f} s a video, {faster:.2f}x; peak {peak / 2**30:.2f} GiB, {less:.2f} of {first}'s;"
            f" loading {loading:.1f} s; mean Overall {overall:.4f}"
        )


def measure(model: Path, csv: Path, threads: int, dtype: Dtype) -> dict[str, float]:
    """Figures of one way, after a first clip that is not counted."""
    torch.set_num_threads(threads)
    items = read_items([], None, csv)
    start = time.perf_counter()
    reward = RewardModel.load(model, dtype=dtype)
    loaded = time.perf_counter()
    reward.score(items[:1])
    warm = time.perf_counter()
    scores = reward.score(items)
    end = time.perf_counter()
    overall = [sum(score.normalised.values()) for score in scores if not isinstance(score, Unscored)]
    assert len(overall) == len(items), "a clip without a score has no time to measure"
    return {
        "loading": loaded - start,
        "seconds": (end - warm) / len(items),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "overall": float(np.mean(overall)),
    }


if __name__ == "__main__":
    typer.run(main)
