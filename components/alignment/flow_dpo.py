"""Flow-DPO: direct preference optimisation of a rectified flow (paper section 4.2 and appendix C).

    x_t = (1 - t) x0 + t x1,   velocity = x1 - x0,   one noise x1 and one t for both clips of a pair
    inside = -beta_t / 2 * [ (|v_w - v_theta(x_t^w, t)|^2 - |v_w - v_ref(x_t^w, t)|^2)
                           - (|v_l - v_theta(x_t^l, t)|^2 - |v_l - v_ref(x_t^l, t)|^2) ]
    loss = -log sigmoid(inside)

The paper derives beta_t = beta (1 - t)^2 and then finds a constant beta better: the derived one vanishes at high noise,
where the model is then pushed without a leash.
"""

import torch
import torch.nn.functional as F

from components.params import DpoParams


def squared_errors(velocity: torch.Tensor, predicted: torch.Tensor, reduction: str) -> torch.Tensor:
    """|velocity - predicted|^2 of each clip, [B] from [B, C, T', H', W']; "sum" as in the paper, or "mean"."""
    squares = (velocity - predicted).float().pow(2).flatten(1)
    return squares.sum(1) if reduction == "sum" else squares.mean(1)


def beta_at(t: torch.Tensor, beta: float, schedule: str) -> torch.Tensor:
    """beta ("constant") or beta (1 - t)^2 ("squared"), [B]."""
    return torch.full_like(t, beta) if schedule == "constant" else beta * (1 - t) ** 2


def flow_dpo_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    t: torch.Tensor,
    params: DpoParams,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and what to watch, from the squared errors [B] of policy and reference on both clips and t [B].

    At zero LoRA policy and reference agree and the loss is exactly log 2.
    """
    chosen_change = chosen - reference_chosen
    rejected_change = rejected - reference_rejected
    inside = -0.5 * beta_at(t, params.beta, params.schedule) * (chosen_change - rejected_change)
    logs = {
        "implicit_accuracy": (inside > 0).float().mean(),
        "margin": inside.detach().mean(),
        **change_by_timestep("chosen_change", chosen_change / reference_chosen, t),
        **change_by_timestep("rejected_change", rejected_change / reference_rejected, t),
    }
    return -F.logsigmoid(inside).mean(), logs


def change_by_timestep(name: str, change: torch.Tensor, t: torch.Tensor, bins: int = 3) -> dict[str, torch.Tensor]:
    """Mean of `change` [B] in equal bins of t; NaN where a batch has none there, which the training loop leaves out."""
    places = (t * bins).long().clamp(max=bins - 1)
    return {f"{name}/{b}": change.detach()[places == b].mean() for b in range(bins)}
