"""Stage `align@{sft,rwr,dpo}`: fine-tune the base generator's LoRA on relabelled candidates.

Only the transformer is in memory: latents and text embeddings come from `candidates`, and the frozen reference's errors
from a table. A step is then one forward and one backward pass of the policy.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from diffusers import WanTransformer3DModel

from components.alignment.candidates import FOLDER
from components.alignment.data import PAIRS, Candidates, Pairs, load_candidates, load_pairs, load_rewards
from components.alignment.flow import by_timestep, flow_errors, timesteps_at
from components.alignment.flow_dpo import flow_dpo_loss
from components.alignment.flow_rwr import flow_rwr_loss, reward_weights
from components.alignment.lora import adapters_off, add_lora, make_lean, save_lora
from components.alignment.reference import CACHE, make_grid, pair_errors, reference_errors
from components.alignment.sft import sft_loss
from components.generator.wan import load_transformer
from components.params import SftParams, TimestepParams
from components.preferences.split import held_out
from components.stage import Stage, folder_digest, run_stage, write_json
from components.training import LossFn, Watch, fit, write_rows

BASE = "models/base_generator"
VALIDATION_BATCH = 32  # pairs a forward


def align(method: str, stage: Stage) -> None:
    params = stage.params.align
    settings = getattr(params, method)
    base = folder_digest(BASE)
    transformer = load_transformer(BASE, stage.params.base_generator.dtype).to(PartialState().device)
    add_lora(transformer, params.lora, seed=stage.seed("lora"))
    make_lean(transformer, params)
    candidates = load_candidates(base)
    pairs = load_pairs(candidates)

    if method == "dpo":
        names = ("latents", "text", "candidates.parquet")
        files = {"pairs": folder_digest(PAIRS)} | {name: folder_digest(FOLDER / name) for name in names}
        identity = {"base generator": base, "dtype": stage.params.base_generator.dtype, **files}
        rows, count = dpo(stage, transformer, pairs, identity)
    elif method == "rwr":
        rewards = load_rewards(candidates)
        weights = torch.from_numpy(reward_weights(rewards, candidates.table.prompt_id.to_numpy(), settings)).float()
        everything, count = np.arange(len(rewards)), len(rewards)
        loss_fn = regression(candidates, everything, settings, params.timesteps, partial(weighted, weights))
        rows = fit(stage, transformer, loss_fn, count, settings.training, name=method)
    else:
        winners, count = pairs.chosen[~pairs.tied.numpy()], int((~pairs.tied).sum())
        loss_fn = regression(candidates, winners, settings, params.timesteps, lambda errors, indices: sft_loss(errors))
        rows = fit(stage, transformer, loss_fn, count, settings.training, name=method)

    # The reward model's version is the one that labelled the training pairs.
    record = {"method": method, "base": base, "examples": count, "reward_model": pairs.table.reward_model.iloc[0]}
    save_aligned(stage, transformer, f"models/aligned/{method}", rows, record)


def save_aligned(
    stage: Stage, transformer: WanTransformer3DModel, place: str, rows: list[dict[str, float]], record: dict[str, Any]
) -> None:
    """Write and register a LoRA with its training log and its origin."""
    folder = stage.output(place)
    save_lora(transformer, folder)
    write_rows(folder / "training.csv", rows)
    write_json(folder / "alignment.json", record)
    stage.register(f"reelign-{stage.params.profile}-aligned-{record['method']}", place, record)


def dpo(
    stage: Stage, transformer: WanTransformer3DModel, pairs: Pairs, identity: dict[str, str], cache: Path = CACHE
) -> tuple[list[dict[str, float]], int]:
    """Train on the pairs of all prompts that are not held out; returns the logged rows and the number of training pairs.

    The reference is `transformer` as passed in; a live reference is the base without the LoRA, which then must be new.
    identity: digests of everything that the reference's errors on `pairs` depend on.
    """
    params = stage.params.align
    settings = params.dpo
    grid = make_grid(len(pairs), params.draws, params.timesteps, stage.seed("grid"))
    errors = partial(pair_errors, pairs=pairs, grid=grid, reduction=settings.reduction)
    if params.reference == "cached":  # the initial policy is the reference
        table = reference_errors(stage, transformer, pairs, grid, settings.reduction, identity, cache)

    def reference(model: torch.nn.Module, indices: list[int], draws: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if params.reference == "cached":
            return table[0, indices, draws], table[1, indices, draws]
        with torch.no_grad(), adapters_off(transformer):
            return errors(model, indices=indices, draws=draws)

    def loss_of(model: torch.nn.Module, indices: list[int], draws: list[int]) -> tuple[torch.Tensor, dict[str, Any]]:
        chosen, rejected = errors(model, indices=indices, draws=draws)
        known = (*reference(model, indices, draws), grid.t[indices, draws])
        known, weights, tied = [x.to(chosen.device) for x in known], pairs.weights[indices], pairs.tied[indices]
        return flow_dpo_loss(chosen, rejected, *known, settings, weights.to(chosen.device), tied.to(chosen.device))

    held = np.zeros(len(pairs), bool)
    if settings.validation:
        held = held_out(pairs.table.prompt.to_numpy(), settings.validation, stage.rng("held out"), PAIRS)
    train, validation = np.flatnonzero(~held), np.flatnonzero(held & ~pairs.tied.numpy()).tolist()

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        draws = torch.randint(params.draws, (len(indices),), generator=draw).tolist()
        return loss_of(model, train[indices].tolist(), draws)

    def validate(model: torch.nn.Module) -> dict[str, float]:
        """Loss and implicit accuracy over all draws of the held-out pairs."""
        sums, cells = {"loss": 0.0, "implicit_accuracy": 0.0}, 0
        for draw in range(params.draws):
            for start in range(0, len(validation), VALIDATION_BATCH):
                part = validation[start : start + VALIDATION_BATCH]
                loss, logs = loss_of(model, part, [draw] * len(part))
                for key, value in {"loss": loss, "implicit_accuracy": logs["implicit_accuracy"]}.items():
                    sums[key] += float(value) * len(part)
                cells += len(part)
        return {key: value / cells for key, value in sums.items()}

    stage.say(f"{len(train)} pairs to train on, {len(validation)} to validate on")
    watch = Watch("implicit_accuracy", settings.patience) if settings.patience else None
    check = validate if validation else None
    rows = fit(stage, transformer, loss_fn, len(train), settings.training, validate=check, watch=watch, name="dpo")
    return rows, len(train)


def weighted(weights: torch.Tensor, errors: torch.Tensor, indices: list[int]) -> torch.Tensor:
    return flow_rwr_loss(errors, weights[indices].to(errors.device))


def regression(
    candidates: Candidates,
    places: np.ndarray,
    params: SftParams,
    timesteps: TimestepParams,
    loss: Callable[[torch.Tensor, list[int]], torch.Tensor],
) -> LossFn:
    """Flow matching on single clips; `loss(errors, indices)` weights them (SFT, Flow-RWR). A share of the prompts is
    dropped, as classifier-free guidance also samples without a prompt."""
    empty = candidates.empty_text()

    def loss_fn(model: torch.nn.Module, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        rows = places[indices]
        t = timesteps_at(torch.rand(len(rows), generator=draw), timesteps)
        x0 = candidates.latents[rows]
        x1 = torch.randn(x0.shape, generator=draw)
        dropped = torch.rand(len(rows), generator=draw) < params.prompt_dropout
        text = torch.where(dropped.view(-1, 1, 1), empty, candidates.text(rows))
        errors = flow_errors(model, x0, x1, t, text, "mean")
        return loss(errors, indices), by_timestep("error", errors, t.to(errors.device))

    return loss_fn


if __name__ == "__main__":
    run_stage(f"align@{sys.argv[1]}", partial(align, sys.argv[1]))
