"""SFT: plain flow matching on the chosen clips (the paper's baseline).

loss = E[ |v - v_theta(x_t, t)|^2 ] over the winners
"""

import torch


def sft_loss(errors: torch.Tensor) -> torch.Tensor:
    """Mean of squared velocity errors [B] (each the mean over a clip's latents)."""
    return errors.mean()
