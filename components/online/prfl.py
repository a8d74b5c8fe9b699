"""PRFL, process reward feedback learning: the latent reward's gradient at one sampling step (Tencent, 2025, 2511.21541).

    x_t:      the current policy's guided steps from noise, without gradients, to a random step between `first` and `last`
    x_t+dt    = x_t + v(x_t, t) dt, with gradients
    loss      = strength * relu(target - r(x_t+dt, t + dt, prompt)),   r the latent reward model, frozen

Every second step is flow matching on the chosen candidates, as stage align@sft does, which holds the policy to real clips.
No clip is decoded or scored: the latent reward model reads noisy latents. It is also what may be hacked, so the win rates
of held-out judges decide.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from components.alignment.data import load_candidates, load_pairs
from components.alignment.methods.flow_grpo import euler_times, guided
from components.alignment.regression import regression
from components.config.online import PrflParams
from components.config.params import SftParams
from components.contracts import BASE_GENERATOR, LATENT_REWARD
from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.family import VelocityModel
from components.generator.folder import load_transformer
from components.generator.parts import read_scheduler
from components.generator.prompts import TEXT, encode_ahead
from components.generator.spec import SamplerSpec
from components.guidance.latent_reward import LatentReward, dimension_weights, load_latent_reward
from components.pipeline.stage import Stage, folder_digest
from components.runtime.training import fit


def prfl_loss(rewards: torch.Tensor, params: PrflParams) -> torch.Tensor:
    """Loss of weighted rewards [B]; zero, with no gradient, from `target` on."""
    return params.strength * torch.relu(params.target - rewards).mean()


def train_prfl(stage: Stage, transformer: VelocityModel) -> list[dict[str, float]]:
    """Train `transformer`, a new policy; returns the logged rows.

    Reads data/candidates (prompts, and the chosen clips), the pairs and models/latent_reward. BadInput where that was
    trained for another generator, for a solver other than euler, and for steps beyond the last.
    """
    params, sampling, base = stage.params.online.prfl, stage.params.sampling, folder_digest(BASE_GENERATOR)
    dtype, device = stage.params.base_generator.dtype, transformer.device
    reward = load_latent_reward(LATENT_REWARD, load_transformer(BASE_GENERATOR, dtype).to(device), base)
    weights = dimension_weights(reward, params.weights, device)
    spec = SamplerSpec(BASE_GENERATOR, dtype=dtype)
    empty = encode_ahead(stage.state() / TEXT, spec, [sampling.negative_prompt])([sampling.negative_prompt]).to(device)
    times = euler_times(sampling, read_scheduler(Path(BASE_GENERATOR)))
    if params.last + 1 >= len(times):
        raise BadInput("params.yaml", f"sampling has steps 0 to {len(times) - 2}", key="online.prfl.last")
    candidates = load_candidates(base)
    pairs = load_pairs(candidates)
    winners = pairs.chosen[~pairs.tied.numpy()]
    shape = candidates.latents.shape

    def feedback(model: Any, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        step = int(torch.randint(params.first, params.last + 1, (), generator=draw))
        x1 = torch.randn((len(indices), *shape), generator=draw).to(device)
        text = candidates.text(winners[indices]).to(device)
        x = one_step_with_gradient(model, x1, times[: step + 2], text, empty, sampling.guidance_scale)
        rewards = weighted(reward, x, times[step + 1], text, weights)
        loss = prfl_loss(rewards, params)
        reached = (rewards.detach() >= params.target).float().mean()
        return loss, {"latent_reward": rewards.detach().mean(), "reached": reached}

    plain = SftParams(prompt_dropout=0.0, training=params.training)
    matching = regression(candidates, winners, plain, stage.params.align.timesteps, lambda errors, _: errors.mean())
    losses = [feedback, matching]
    return fit(stage, transformer, losses, len(winners), params.training, offload=stage.params.align.offload, name="prfl")


def one_step_with_gradient(
    model: VelocityModel, x1: torch.Tensor, times: list[float], text: Conditioning, empty: Conditioning, scale: float
) -> torch.Tensor:
    """x at the last of `times`, by Euler steps from noise x1 [B, C, T', H', W']; the gradient is that of the last step."""
    x = x1
    for place, (t, after) in enumerate(pairwise(times)):
        with torch.set_grad_enabled(place == len(times) - 2):
            x = x + (after - t) * guided(model, x, x.new_full((len(x),), t), text, empty, scale)
    return x


def weighted(reward: LatentReward, x: torch.Tensor, t: float, text: Conditioning, weights: torch.Tensor) -> torch.Tensor:
    """Rewards [B] of noisy latents at t: the dimensions' mean by `weights` [D]."""
    return (reward(x, x.new_full((len(x),), t), text) * weights).sum(1) / weights.sum()
