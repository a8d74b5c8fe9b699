"""Flow matching on single clips, which SFT and Flow-RWR share: the squared velocity error of a clip at a random timestep."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from components.alignment.data import Candidates
from components.alignment.flow import WHOLE_SPAN, by_timestep, flow_errors, timesteps_at
from components.config.params import RwrParams, SftParams, TimestepParams
from components.runtime.training import LossFn


def regression(
    candidates: Candidates,
    places: np.ndarray,
    params: SftParams | RwrParams,
    timesteps: TimestepParams,
    loss: Callable[[torch.Tensor, list[int]], torch.Tensor],
    span: tuple[float, float] = WHOLE_SPAN,
) -> LossFn:
    """The loss of a batch of the clips at `places`; `loss(errors, indices)` weights their errors [B], each the mean over a
    clip's latents. span: noise levels of the transformers that train. A share of the prompts is dropped, as classifier-free
    guidance also samples without a prompt."""
    empty = candidates.empty_text()

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        rows = places[indices]
        t = timesteps_at(torch.rand(len(rows), generator=draw), timesteps, span)
        x0 = candidates.latents[rows]
        x1 = torch.randn(x0.shape, generator=draw)
        dropped = torch.rand(len(rows), generator=draw) < params.prompt_dropout
        text = empty.where(dropped, candidates.text(rows))
        errors = flow_errors(model, x0, x1, t, text, "mean")
        return loss(errors, indices), by_timestep("error", errors, t.to(errors.device))

    return loss_fn
