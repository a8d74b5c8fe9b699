"""Rewards against the other clips of the same prompt, which online methods learn from."""

import numpy as np


def advantages(rewards: np.ndarray, prompts: np.ndarray, scale: float) -> np.ndarray:
    """[N] in [-1, 1]: clip((R - mean) / (scale * spread), -1, 1), the mean over the clips of the prompt, and the spread the
    standard deviation of R - mean over all N clips. All zero where no two clips of a prompt differ."""
    groups = np.unique(prompts, return_inverse=True)[1]
    means = np.bincount(groups, rewards) / np.bincount(groups)
    centred = rewards - means[groups]
    spread = np.sqrt(np.mean(centred**2))
    if spread <= 1e-12 * max(1.0, float(np.abs(rewards).max())):  # rounding alone
        return np.zeros_like(centred)
    return np.clip(centred / (scale * spread), -1, 1)
