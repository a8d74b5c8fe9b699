"""Stage `align@dpo`: Flow-DPO, direct preference optimisation of a rectified flow (paper section 4.2 and appendix C).

    x_t = (1 - t) x0 + t x1,   velocity = x1 - x0,   one noise x1 and one t for both clips of a pair
    inside = -beta_t / 2 * [ (|v_w - v_theta(x_t^w, t)|^2 - |v_w - v_ref(x_t^w, t)|^2)
                           - (|v_l - v_theta(x_t^l, t)|^2 - |v_l - v_ref(x_t^l, t)|^2) ]
    loss = -log sigmoid(inside)

The paper derives beta_t = beta (1 - t)^2 and then finds a constant beta better: the derived one vanishes at high noise,
where nothing keeps the model near the reference.

Three terms are not in the paper: ties, a weight per pair, and an sft_weight, plain flow matching on the chosen clips. With
`theta` 1, `sft_weight` 0 and weights of 1 the loss is the paper's.

A fixed beta saturates the sigmoid once the margins are wide: the gradient's factor, sigmoid(-inside), goes to 0. With
`gradient_factor` each batch has the beta, at most `beta`, at which that factor is on average this target (the aim of
SimpleTuner's auto beta, which follows a running mean; a batch's own value needs no state).

The frozen reference's errors come from a table (components/alignment/reference.py). A step is then one forward and one
backward pass of the policy.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.alignment.data import Pairs, load_candidates, load_pairs
from components.alignment.flow import by_timestep
from components.alignment.lora import adapters_off
from components.alignment.policy import BASE, new_policy, save_aligned
from components.alignment.reference import CACHE, make_grid, pair_errors, reference_errors
from components.config.params import DpoParams
from components.contracts import ALIGNMENT_PAIRS, CANDIDATES
from components.generator.family import VelocityModel
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.preferences.held_out import held_out
from components.reward.losses import rao_kupper
from components.runtime.training import EarlyStopping, fit

VALIDATION_BATCH = 32  # pairs a forward
Switch = Callable[[], AbstractContextManager[None]]
PairLoss = Callable[[torch.nn.Module, list[int], list[int]], tuple[torch.Tensor, dict[str, Any]]]


def beta_at(t: torch.Tensor, beta: float, schedule: str) -> torch.Tensor:
    """beta ("constant") or beta (1 - t)^2 ("squared"), [B]."""
    return torch.full_like(t, beta) if schedule == "constant" else beta * (1 - t) ** 2


def automatic_beta(margins: torch.Tensor, target: float, largest: float) -> torch.Tensor:
    """beta in (0, largest] at which sigmoid(-beta |margin|) of margins [B] has the mean `target`, which is below one half;
    `largest` where margins are too narrow for it."""
    wide = margins.detach().abs()
    low, high = wide.new_tensor(0.0), wide.new_tensor(largest)
    for _ in range(60):  # the mean falls as beta rises
        middle = (low + high) / 2
        above = torch.sigmoid(-middle * wide).mean() > target
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return high


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
    exactly log 2 (theta 1, no sft_weight).
    """
    chosen_change = chosen - reference_chosen
    rejected_change = rejected - reference_rejected
    beta = beta_at(t, params.beta, params.schedule)
    if params.gradient_factor is not None:
        margins = 0.5 * beta / params.beta * (rejected_change - chosen_change)
        beta = beta / params.beta * automatic_beta(margins, params.gradient_factor, params.beta)
    inside = -0.5 * beta * (chosen_change - rejected_change)
    tied = torch.as_tensor(tied, device=inside.device).expand_as(inside)
    losses = weights * rao_kupper(inside, (~tied).to(inside.dtype), params.theta) + params.sft_weight * chosen
    decided = inside[~tied]
    logs = {
        "implicit_accuracy": (decided > 0).float().mean(),
        "margin": decided.detach().mean(),
        **by_timestep("loss", losses, t),
        **by_timestep("chosen_change", chosen_change / reference_chosen, t),
        **by_timestep("rejected_change", rejected_change / reference_rejected, t),
    }
    if params.gradient_factor is not None:
        logs |= {"gradient_factor": torch.sigmoid(-decided.detach()).mean(), "beta": beta.mean()}
    return losses.mean(), logs


def dpo(stage: Stage) -> None:
    """Train a LoRA on the relabelled pairs.

    Reads: the base generator, the candidates' latents and text, the pairs. Writes: models/aligned/dpo. Fails with BadInput
    where latents or pairs are of other models. Resumes from the last checkpoint of `fit` and the finished parts of the
    reference's table.
    """
    base = folder_digest(BASE)
    transformer = new_policy(stage)
    pairs = load_pairs(load_candidates(base))
    files = {"pairs": folder_digest(ALIGNMENT_PAIRS)}
    files |= {name: folder_digest(CANDIDATES / name) for name in ("latents", "text", "candidates.parquet")}
    identity = {"base generator": base, "dtype": stage.params.base_generator.dtype, **files}
    rows, count = train_dpo(stage, transformer, pairs, stage.params.align.dpo, identity)
    record = {"method": "dpo", "base": base, "examples": count, "reward_model": pairs.labelled_by}
    save_aligned(stage, transformer, "models/aligned/dpo", rows, record)


def train_dpo(
    stage: Stage,
    transformer: VelocityModel,
    pairs: Pairs,
    settings: DpoParams,
    identity: dict[str, str] | None = None,
    cache: Path = CACHE,
    reference: Switch | None = None,
    name: str = "dpo",
    before: int = 0,
) -> tuple[list[dict[str, float]], int]:
    """Train on the pairs of all prompts that are not held out; returns the logged rows and the number of training pairs.

    The reference is `transformer` as passed in; a live reference is the base without the LoRA, which then must be new.
    identity: digests of everything that the reference's errors on `pairs` depend on. reference: switches `transformer` to
    the reference, whose errors are then computed at each step, and need no identity. name, before: of `fit`.
    """
    draws = stage.params.align.draws
    loss_of = pair_loss(stage, transformer, pairs, settings, identity or {}, cache, reference)
    held = np.zeros(len(pairs), bool)
    if settings.validation:
        held = held_out(pairs.table.prompt.to_numpy(), settings.validation, stage.rng("held out"), ALIGNMENT_PAIRS)
    train, validation = np.flatnonzero(~held), np.flatnonzero(held & ~pairs.tied.numpy()).tolist()

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        chosen_draws = torch.randint(draws, (len(indices),), generator=draw).tolist()
        return loss_of(model, train[indices].tolist(), chosen_draws)

    stage.say(f"{len(train)} pairs to train on, {len(validation)} to validate on")
    early_stopping = EarlyStopping("implicit_accuracy", settings.patience) if settings.patience else None
    check = partial(validate, loss_of=loss_of, validation=validation, draws=draws) if validation else None
    rows = fit(
        stage,
        transformer,
        loss_fn,
        len(train),
        settings.training,
        validate=check,
        early_stopping=early_stopping,
        offload=stage.params.align.offload,
        name=name,
        before=before,
    )
    return rows, len(train)


def pair_loss(
    stage: Stage,
    transformer: VelocityModel,
    pairs: Pairs,
    settings: DpoParams,
    identity: dict[str, str],
    cache: Path,
    switch: Switch | None,
) -> PairLoss:
    """The loss of pairs under draws of (noise, t) of a fixed grid, against the cached or live reference."""
    params = stage.params.align
    grid = make_grid(len(pairs), params.draws, params.timesteps, stage.seed("grid"), transformer.span)
    errors = partial(pair_errors, pairs=pairs, grid=grid, reduction=settings.reduction)
    cached = params.reference == "cached" and switch is None
    live = partial(adapters_off, transformer) if switch is None else switch
    if cached:  # the initial policy is the reference
        table = reference_errors(stage, transformer, pairs, grid, settings.reduction, identity, cache)

    def reference(model: torch.nn.Module, indices: list[int], draws: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if cached:
            return table[0, indices, draws], table[1, indices, draws]
        with torch.no_grad(), live():
            return errors(model, indices=indices, draws=draws)

    def loss_of(model: torch.nn.Module, indices: list[int], draws: list[int]) -> tuple[torch.Tensor, dict[str, Any]]:
        chosen, rejected = errors(model, indices=indices, draws=draws)
        known = (*reference(model, indices, draws), grid.t[indices, draws])
        known, weights, tied = [x.to(chosen.device) for x in known], pairs.weights[indices], pairs.tied[indices]
        return flow_dpo_loss(chosen, rejected, *known, settings, weights.to(chosen.device), tied.to(chosen.device))

    return loss_of


def validate(model: torch.nn.Module, loss_of: PairLoss, validation: list[int], draws: int) -> dict[str, float]:
    """Loss and implicit accuracy over all draws of the held-out pairs."""
    sums, cells = {"loss": 0.0, "implicit_accuracy": 0.0}, 0
    for draw in range(draws):
        for start in range(0, len(validation), VALIDATION_BATCH):
            part = validation[start : start + VALIDATION_BATCH]
            loss, logs = loss_of(model, part, [draw] * len(part))
            for key, value in {"loss": loss, "implicit_accuracy": logs["implicit_accuracy"]}.items():
                sums[key] += float(value) * len(part)
            cells += len(part)
    return {key: value / cells for key, value in sums.items()}


if __name__ == "__main__":
    stage_main("align@dpo", dpo)
