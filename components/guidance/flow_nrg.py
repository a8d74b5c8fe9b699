"""Flow-NRG: reward guidance while sampling (paper section 4.4 and appendix C).

The target is p(x0 | y) exp(r(x0, y))^w. For a rectified flow its velocity is

    v~ = v - w t / (1 - t) grad_x r(x_t, t, y)

with r a reward model that reads noisy latents. It applies after classifier-free guidance. Pure noise is skipped: the factor
is infinite at t = 1, and 999 where a scheduler cuts that to 0.999.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_map

from components.config.params import NrgParams
from components.errors import NonFinite
from components.generator.conditioning import Conditioning
from components.generator.family import Generator, TextEncoder
from components.generator.integration import PURE_NOISE, Velocity
from components.generator.sampler import ClassifierFree, Solver, solve
from components.generator.spec import SamplerSpec
from components.guidance.latent_reward import LatentReward, dimension_weights, latent_reward_once
from components.runtime.microbatches import in_microbatches


@dataclass(frozen=True)
class NrgSpec:
    """A generator guided by the latent reward model in the folder `reward`; weights of a job replace `guidance.weights`."""

    sampler: SamplerSpec
    guidance: NrgParams
    reward: str

    def __call__(self) -> tuple[Generator, Solver]:
        generator, _ = self.sampler()
        reward, params = latent_reward_once(self.sampler, self.reward), self.guidance
        if params.gradient_checkpointing:  # of the network whose passes have gradients
            (generator.model.transformer if reward.frozen else reward.trunk).enable_gradient_checkpointing()
        return generator, partial(
            solve, around=lambda flow, jobs: flow_nrg(flow, reward, flow.text, params, [job.weights for job in jobs])
        )

    def text_encoder(self) -> TextEncoder:
        return self.sampler.text_encoder()


def flow_nrg(
    flow: Velocity,
    reward: LatentReward,
    text: Conditioning,
    params: NrgParams,
    weights: Sequence[Mapping[str, float] | None] | None = None,
    shared: bool = True,
) -> Velocity:
    """`flow` (classifier-free guidance included) minus the gradient of the weighted reward.

    text: the prompts' conditioning, B rows. weights [B]: those of each clip; None uses params.weights. Active for
    start <= t <= stop, t < PURE_NOISE. `max_norm` bounds the norm of the guidance term, in units of the velocity's norm, per
    clip; null is the paper's formula. With all weights 0 the flow is returned unchanged.

    A reward model with a frozen trunk reads the tokens of the velocity's forward pass. Beyond plain sampling it costs its
    head and the backward pass through its blocks. `flow` must then be a ClassifierFree of the generator that it was trained
    on; with any other flow, set `shared` to False.
    """
    chosen = [params.weights if own is None else own for own in weights or [None] * len(text)]
    each = torch.stack([dimension_weights(reward, own, text.device) for own in chosen])
    if not each.any():
        return flow
    shareable: Any = flow  # a ClassifierFree, where `shared` is true

    def guided(x: torch.Tensor, t: float) -> torch.Tensor:
        if t >= PURE_NOISE or not params.start <= t <= params.stop:
            return flow(x, t)
        if shared and reward.frozen:
            v, gradient = velocity_and_gradient(shareable, reward, x, t, each)
        else:
            v = flow(x, t)
            gradient = in_microbatches(lambda x, text, each: reward_gradient(reward, x, t, text, each), x, text, each)
        return v - bounded(params.scale * t / (1 - t) * gradient, v, params.max_norm)

    return guided


def bounded(push: torch.Tensor, v: torch.Tensor, max_norm: float | None) -> torch.Tensor:
    """`push` [B, C, T', H', W'] scaled down per clip to a norm of at most `max_norm` times that of `v`."""
    if max_norm is None:
        return push
    length = push.flatten(1).norm(dim=1)
    most = max_norm * v.flatten(1).norm(dim=1)
    return push * (most / length.clamp(min=1e-12)).clamp(max=1).view(-1, *[1] * (push.ndim - 1))


def reward_gradient(
    reward: LatentReward, x: torch.Tensor, t: float, text: Conditioning, weights: torch.Tensor
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

    def keep(_block: torch.nn.Module, _inputs: tuple, output: Any) -> Any:
        kept.tokens = output if isinstance(output, torch.Tensor) else output[0]
        return tree_map(torch.Tensor.detach, output)  # some blocks return tokens of the text too

    def part(x: torch.Tensor, text: Conditioning, weights: torch.Tensor) -> torch.Tensor:
        times = x.new_full((len(x),), t)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(True)
            with_text = flow.model(leaf, times, text)
            total = (reward.read(kept.tokens) * weights).sum()
            gradient = finite(torch.autograd.grad(total, leaf)[0], t)
        return torch.stack([replace(flow, text=text).guided(x, t, with_text), gradient], dim=1)

    last = flow.model.family.blocks(flow.model.transformer)[reward.blocks - 1]
    hook = last.register_forward_hook(keep)
    try:
        v, gradient = in_microbatches(part, x, flow.text, weights).unbind(1)
        return v, gradient
    finally:
        hook.remove()


def finite(gradient: torch.Tensor, t: float) -> torch.Tensor:
    if not torch.isfinite(gradient).all():
        raise NonFinite(f"reward gradient at t = {t:.3f}")
    return gradient
