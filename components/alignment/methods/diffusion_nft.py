"""DiffusionNFT: on-policy alignment by the forward process, without log-probabilities (K. Zheng et al., 2025).

    u = x1 - x0 on a drawn clip x0, noise x1, x_t = (1 - t) x0 + t x1
    r = 1/2 + 1/2 clip((R - mean) / Z, -1, 1)        R against the other clips of its prompt
    loss = r |(1 - b) v_old + b v - u|^2 + (1 - r) |(1 + b) v_old - b v - u|^2

v_old is an average of earlier policies. A good clip (r near 1) pulls v towards its velocity, a bad one pushes v away
along the same line. With d = v - v_old the loss is

    |v_old - u|^2 + 2 b (2 r - 1) (v_old - u) . d + b^2 |d|^2

so its optimum is d = (2 r - 1) (u - v_old) / b: a small b learns more from a clip. Any solver may draw the clips.

Where v equals v_old throughout, the last term is zero and its gradient too: the loss is silently regression weighted by
2 r - 1, without a bound on d. The log has the distance of the two by timestep, and `frozen_old` is the alarm.
"""

from typing import Any

import numpy as np
import torch

from components.alignment.advantages import advantages
from components.alignment.data import Candidates
from components.alignment.flow import by_timestep, noised, squared_errors, timesteps_at
from components.alignment.lora import adapters_off
from components.alignment.weights import Weights, exchanged
from components.config.online import NftParams
from components.generator.family import VelocityModel
from components.pipeline.stage import Stage
from components.runtime.training import fit

EQUAL = 1e-14  # |v - v_old|^2 / |v_old|^2 up to this is rounding


def optimality(rewards: np.ndarray, prompts: np.ndarray, scale: float) -> np.ndarray:
    """r [N] in [0, 1] of clips with rewards [N] of `prompts` [N]."""
    return 0.5 + 0.5 * advantages(rewards, prompts, scale)


def nft_loss(
    velocity: torch.Tensor, old: torch.Tensor, target: torch.Tensor, r: torch.Tensor, t: torch.Tensor, beta: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and logged values, from velocities [B, C, T', H', W'] of policy, old policy and clip, r [B] and t [B]. Squares
    are means over a clip's latents."""
    positive = squared_errors(target, (1 - beta) * old + beta * velocity, "mean")
    negative = squared_errors(target, (1 + beta) * old - beta * velocity, "mean")
    losses = r * positive + (1 - r) * negative
    apart = squared_errors(old, velocity.detach(), "mean") / squared_errors(torch.zeros_like(old), old, "mean")
    logs = {"distance": apart.mean(), **by_timestep("distance", apart, t), **by_timestep("loss", losses, t)}
    return losses.mean(), logs


def train_nft(
    stage: Stage,
    transformer: VelocityModel,
    candidates: Candidates,
    rewards: np.ndarray,
    old: Weights,
    params: NftParams,
    name: str,
    before: int,
) -> list[dict[str, float]]:
    """Train on one round's clips with their rewards [N]; returns the logged rows.

    old: weights of v_old, fixed during the round. name, before: of `fit`. An alarm goes to the log and into the last row,
    `frozen_old`, where policy and old policy are equal at the end of the round.
    """
    timesteps = stage.params.align.timesteps
    r = torch.from_numpy(optimality(rewards, candidates.table.prompt_id.to_numpy(), params.scale)).float()

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        t = timesteps_at(torch.rand(len(indices), generator=draw), timesteps)
        x0 = candidates.latents[indices]
        x1 = torch.randn(x0.shape, generator=draw)
        x0, x1, t, chances = (part.to(transformer.device) for part in (x0, x1, t, r[indices]))
        xt, target = noised(x0, x1, t)
        text = candidates.text(indices).to(transformer.device)
        with exchanged(transformer, old):
            previous = model(xt, t, text)
        velocity = model(xt, t, text)
        loss, logs = nft_loss(velocity, previous, target, chances, t, params.beta)
        if params.anchor:
            with torch.no_grad(), adapters_off(transformer):
                base = model(xt, t, text)
            away = squared_errors(base, velocity, "mean")
            loss, logs = loss + params.anchor * away.mean(), logs | {"from_base": away.detach().mean()}
        return loss, logs

    rows = fit(
        stage, transformer, loss_fn, len(r), params.training, offload=stage.params.align.offload, name=name, before=before
    )
    if rows and rows[-1]["distance"] <= EQUAL:
        rows[-1]["frozen_old"] = 1.0
        stage.say(
            f"{name}: ALARM: v equals v_old, so the loss is weighted regression; more steps a round, or another old_decay"
        )
    return rows
