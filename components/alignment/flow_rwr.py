"""Flow-RWR: reward-weighted regression of a rectified flow (paper section 4.3).

    loss = E[ w(r) |v - v_theta(x_t, t)|^2 ],   w(r) = exp(r / temperature)

The paper leaves the scale of r open. Here r is the reward normalised over the validation set of the reward model, the
weight is clipped, and weights have mean one over the data set, so that the learning rate means the same as in SFT.
"""

import numpy as np
import torch

from components.params import RwrParams


def reward_weights(rewards: np.ndarray, params: RwrParams) -> np.ndarray:
    """Weights [N] of clips with normalised rewards [N]: exp(r / temperature), mean one, at most `clip` before that."""
    # The largest exponent is taken off first: only ratios count, and exp must not overflow.
    raw = np.exp((rewards - rewards.max()) / params.temperature)
    clipped = np.minimum(raw / raw.mean(), params.clip)
    return clipped / clipped.mean()


def flow_rwr_loss(errors: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean of squared velocity errors [B] (each the mean over a clip's latents)."""
    return (weights * errors).mean()
