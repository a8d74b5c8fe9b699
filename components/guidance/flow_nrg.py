"""Flow-NRG: reward guidance while sampling (paper section 4.4 and appendix C).

The target is p(x0 | y) exp(r(x0, y))^w. For a rectified flow its velocity is

    v~ = v - w t / (1 - t) grad_x r(x_t, t, y)

with r a reward model that reads noisy latents. Classifier-free guidance comes first, then this; t = 1 is skipped, where the
factor is infinite and x_t holds nothing to judge.
"""

import torch

from components.errors import BadInput, NonFinite
from components.generator.sampler import Velocity
from components.guidance.latent_reward import LatentReward
from components.params import NrgParams


def flow_nrg(flow: Velocity, reward: LatentReward, text: torch.Tensor, params: NrgParams) -> Velocity:
    """`flow` (classifier-free guidance included) with the weighted reward's gradient taken off its velocity.

    text [B, L, E]: the prompts' embeddings. Acts for start <= t <= stop, t < 1. `max_norm` bounds the norm of what is
    taken off, in units of the velocity's own norm, clip by clip; null is the paper's formula as it stands.
    """
    weights = dimension_weights(reward, params, text)
    if not weights.any():
        return flow

    def guided(x: torch.Tensor, t: float) -> torch.Tensor:
        v = flow(x, t)
        if t == 1 or not params.start <= t <= params.stop:
            return v
        push = params.scale * t / (1 - t) * reward_gradient(reward, x, t, text, weights)
        if params.max_norm is not None:
            length = push.flatten(1).norm(dim=1)
            most = params.max_norm * v.flatten(1).norm(dim=1)
            push = push * (most / length.clamp(min=1e-12)).clamp(max=1).view(-1, 1, 1, 1, 1)
        return v - push

    return guided


def reward_gradient(
    reward: LatentReward, x: torch.Tensor, t: float, text: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """grad_x of the weighted sum of rewards, [B, C, T', H', W']; NonFinite when it is not."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        total = (reward(x, x.new_full((len(x),), t), text) * weights).sum()
        gradient = torch.autograd.grad(total, x)[0]
    if not torch.isfinite(gradient).all():
        raise NonFinite(f"reward gradient at t = {t:.3f}", 0)
    return gradient


def dimension_weights(reward: LatentReward, params: NrgParams, like: torch.Tensor) -> torch.Tensor:
    """Weights [D] in the order of the model's dimensions; an unlisted dimension weighs nothing."""
    for name in params.weights:
        if name not in reward.dimensions:
            raise BadInput(
                "params.yaml", f"the latent reward model has only {', '.join(reward.dimensions)}", key=f"weights.{name}"
            )
    return like.new_tensor([params.weights.get(name, 0.0) for name in reward.dimensions])
