"""Prompts that a training run validates on. They are training prompts: the splits of split.py are above it."""

from pathlib import Path

import numpy as np

from components.errors import BadInput


def held_out(prompts: np.ndarray, share: float, rng: np.random.Generator, file: str | Path) -> np.ndarray:
    """Mask [N] of rows whose prompt is held out of training, at least one prompt. BadInput names `file` where there is a
    single prompt."""
    names = np.unique(prompts)
    if len(names) < 2:
        raise BadInput(file, "a single prompt cannot be split into training and validation")
    return np.isin(prompts, rng.choice(names, max(1, round(share * len(names))), replace=False))
