"""What SFT, Flow-RWR and Flow-DPO share: the straight path from clip to noise, its velocity, and a model's velocity error.

x_t = (1 - t) x0 + t x1,   velocity = x1 - x0,   x0 a clip's latents, x1 noise; t = 1 is pure noise
"""

import torch

from components.config.params import TimestepParams
from components.generator.conditioning import Conditioning

WHOLE_SPAN = (0.0, 1.0)
MARGIN = 1e-6  # of t, relative, by which draws keep clear of the ends of a span


def timesteps_at(u: torch.Tensor, params: TimestepParams, span: tuple[float, float] = WHOLE_SPAN) -> torch.Tensor:
    """t in [0, 1] at the quantiles `u` of a distribution: uniform (the paper's) or logit-normal (the authors' code).

    `shift` s moves every t towards noise, t -> s t / (1 + (s - 1) t), as sampling at high resolution does. span: the part of
    [0, 1] that the distribution is restricted to, the lower end included.
    """
    if span != WHOLE_SPAN:
        low, high = (quantile(end, params) for end in span)
        t = timesteps_at(low + (high - low) * u, params)
        return t.clamp(span[0] * (1 + MARGIN), span[1] * (1 - MARGIN) if span[1] < 1 else 1)
    t = u if params.distribution == "uniform" else torch.sigmoid(torch.special.ndtri(u))
    return params.shift * t / (1 + (params.shift - 1) * t)


def quantile(t: float, params: TimestepParams) -> float:
    """The u at which `timesteps_at` gives t."""
    unshifted = t / (params.shift - (params.shift - 1) * t)
    if params.distribution == "uniform" or unshifted in (0, 1):
        return unshifted
    return float(torch.special.ndtr(torch.logit(torch.tensor(unshifted, dtype=torch.float64))))


def noised(x0: torch.Tensor, x1: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t and the velocity x1 - x0; latents [B, C, T', H', W'], t [B]."""
    t = t.view(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * x1, x1 - x0


def squared_errors(target: torch.Tensor, predicted: torch.Tensor, reduction: str) -> torch.Tensor:
    """|target - predicted|^2 of each clip, [B] from [B, C, T', H', W']; "sum" as in the paper, or "mean". In float32 or
    more: bfloat16 has too few digits for a sum over a clip's latents."""
    difference = target - predicted
    squares = difference.to(torch.promote_types(difference.dtype, torch.float32)).pow(2).flatten(1)
    return squares.sum(1) if reduction == "sum" else squares.mean(1)


def flow_errors(
    model: torch.nn.Module, x0: torch.Tensor, x1: torch.Tensor, t: torch.Tensor, text: Conditioning, reduction: str
) -> torch.Tensor:
    """Squared velocity errors [B] of a VelocityModel, on its device; latents, noise [B, C, T', H', W'], t [B], text [B]."""
    device = next(model.parameters()).device
    x0, x1, t = (part.to(device) for part in (x0, x1, t))
    xt, target = noised(x0, x1, t)
    return squared_errors(target, model(xt, t, text.to(device)), reduction)


def by_timestep(name: str, values: torch.Tensor, t: torch.Tensor, bins: int = 3) -> dict[str, torch.Tensor]:
    """Mean of `values` [B] in equal bins of t; NaN for an empty bin, which the training loop leaves out."""
    places = (t * bins).long().clamp(max=bins - 1)
    return {f"{name}/{b}": values.detach()[places == b].mean() for b in range(bins)}
