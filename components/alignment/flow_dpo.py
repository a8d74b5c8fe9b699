"""Flow-DPO: direct preference optimisation of a rectified flow (paper section 4.2 and appendix C).

    x_t = (1 - t) x0 + t x1,   velocity = x1 - x0,   one noise x1 and one t for both clips of a pair
    inside = -beta_t / 2 * [ (|v_w - v_theta(x_t^w, t)|^2 - |v_w - v_ref(x_t^w, t)|^2)
                           - (|v_l - v_theta(x_t^l, t)|^2 - |v_l - v_ref(x_t^l, t)|^2) ]
    loss = -log sigmoid(inside)

The paper derives beta_t = beta (1 - t)^2 and then finds a constant beta better: the derived one vanishes at high noise,
where nothing keeps the model near the reference.

Three terms are not in the paper: ties, a weight per pair, and an anchor, plain flow matching on the chosen clips. With
`theta` 1, `anchor` 0 and weights of 1 the loss is the paper's.
"""

import torch

from components.alignment.flow import by_timestep
from components.params import DpoParams
from components.reward.losses import rao_kupper


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
    weights: torch.Tensor | float = 1.0,
    tied: torch.Tensor | bool = False,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and logged values, from the squared errors [B] of policy and reference on both clips and t [B].

    weights [B]: loss weight of each pair. tied [B]: pairs without a winner, whose likelihood is Rao and Kupper's probability
    of a tie (J. Chen et al., "On Extending Direct Preference Optimization to Accommodate Ties", 2024). It pulls the two
    clips' errors together and needs `params.theta` > 1. With a zero LoRA, policy and reference agree, and the loss is
    exactly log 2 (theta 1, no anchor).
    """
    chosen_change = chosen - reference_chosen
    rejected_change = rejected - reference_rejected
    inside = -0.5 * beta_at(t, params.beta, params.schedule) * (chosen_change - rejected_change)
    tied = torch.as_tensor(tied, device=inside.device).expand_as(inside)
    losses = weights * rao_kupper(inside, (~tied).to(inside.dtype), params.theta) + params.anchor * chosen
    decided = inside[~tied]
    logs = {
        "implicit_accuracy": (decided > 0).float().mean(),
        "margin": decided.detach().mean(),
        **by_timestep("loss", losses, t),
        **by_timestep("chosen_change", chosen_change / reference_chosen, t),
        **by_timestep("rejected_change", rejected_change / reference_rejected, t),
    }
    return losses.mean(), logs
