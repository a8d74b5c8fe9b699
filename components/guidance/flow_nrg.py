"""Flow-NRG: reward guidance while sampling (paper section 4.4 and appendix C).

The target is p(x0 | y) exp(r(x0, y))^w. For a rectified flow its velocity is

    v~ = v - w t / (1 - t) grad_x r(x_t, t, y)

with r a reward model that reads noisy latents. It applies after classifier-free guidance. t = 1 is skipped: the factor is
infinite there and x_t is pure noise.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from components.cores import in_parts
from components.errors import BadInput, NonFinite
from components.generator.sampler import ClassifierFree, Velocity
from components.generator.wan import velocity
from components.guidance.latent_reward import LatentReward
from components.params import NrgParams


def flow_nrg(
    flow: Velocity,
    reward: LatentReward,
    text: torch.Tensor,
    params: NrgParams,
    weights: Sequence[Mapping[str, float] | None] | None = None,
    shared: bool = True,
) -> Velocity:
    """`flow` (classifier-free guidance included) minus the gradient of the weighted reward.

    text [B, L, E]: the prompts' embeddings. weights [B]: those of each clip; None uses params.weights. Active for
    start <= t <= stop, t < 1. `max_norm` bounds the norm of the guidance term, in units of the velocity's norm, per clip;
    null is the paper's formula. With all weights 0 the flow is returned unchanged.

    A reward model with a frozen trunk reads the tokens of the velocity's forward pass. Beyond plain sampling it costs its
    head and the backward pass through its blocks. `flow` must then be a ClassifierFree of the generator that it was trained
    on; with any other flow, set `shared` to False.
    """
    chosen = [params.weights if own is None else own for own in weights or [None] * len(text)]
    each = torch.stack([dimension_weights(reward, own, text) for own in chosen])
    if not each.any():
        return flow

    def guided(x: torch.Tensor, t: float) -> torch.Tensor:
        if t == 1 or not params.start <= t <= params.stop:
            return flow(x, t)
        if shared and reward.frozen:
            v, gradient = velocity_and_gradient(flow, reward, x, t, each)
        else:
            v = flow(x, t)
            gradient = in_parts(lambda x, text, each: reward_gradient(reward, x, t, text, each), x, text, each)
        return v - bounded(params.scale * t / (1 - t) * gradient, v, params.max_norm)

    return guided


def bounded(push: torch.Tensor, v: torch.Tensor, max_norm: float | None) -> torch.Tensor:
    """`push` [B, C, T', H', W'] scaled down per clip to a norm of at most `max_norm` times that of `v`."""
    if max_norm is None:
        return push
    length = push.flatten(1).norm(dim=1)
    most = max_norm * v.flatten(1).norm(dim=1)
    return push * (most / length.clamp(min=1e-12)).clamp(max=1).view(-1, 1, 1, 1, 1)


def reward_gradient(
    reward: LatentReward, x: torch.Tensor, t: float, text: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """grad_x [B, C, T', H', W'] of the sum of rewards weighted by `weights` [B, D]; NonFinite when it is not finite."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        total = (reward(x, x.new_full((len(x),), t), text) * weights).sum()
        return finite(torch.autograd.grad(total, x)[0], t)


def velocity_and_gradient(
    flow: ClassifierFree, reward: LatentReward, x: torch.Tensor, t: float, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`flow`'s velocity, and reward_gradient from the tokens of the same pass. Tokens after the reward model's last block
    keep their graph back to x; the later blocks get them detached."""
    kept = threading.local()  # parts of the batch run in parallel threads

    def keep(_block: torch.nn.Module, _inputs: tuple, tokens: torch.Tensor) -> torch.Tensor:
        kept.tokens = tokens
        return tokens.detach()

    def part(x: torch.Tensor, text: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        times = x.new_full((len(x),), t)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            with_text = velocity(flow.transformer, leaf, times, text)
            total = (reward.read(kept.tokens) * weights).sum()
            gradient = finite(torch.autograd.grad(total, leaf)[0], t)
        return torch.stack([replace(flow, text=text).guided(x, times, with_text), gradient], dim=1)

    hook = flow.transformer.blocks[len(reward.trunk.blocks) - 1].register_forward_hook(keep)
    try:
        return in_parts(part, x, flow.text, weights).unbind(1)
    finally:
        hook.remove()


def finite(gradient: torch.Tensor, t: float) -> torch.Tensor:
    if not torch.isfinite(gradient).all():
        raise NonFinite(f"reward gradient at t = {t:.3f}")
    return gradient


def dimension_weights(reward: LatentReward, weights: Mapping[str, float], like: torch.Tensor) -> torch.Tensor:
    """Weights [D] in float32, on the device of `like`, in the order of the model's dimensions; 0 for unlisted ones."""
    for name in weights:
        if name not in reward.dimensions:
            raise BadInput(
                "params.yaml", f"the latent reward model has only {', '.join(reward.dimensions)}", key=f"weights.{name}"
            )
    values = [weights.get(name, 0.0) for name in reward.dimensions]
    return torch.tensor(values, dtype=torch.float32, device=like.device)  # text may be in half precision
