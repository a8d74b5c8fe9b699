"""The one training loop: VideoReward, the generator, its alignment and the latent reward model all train here.

accelerate carries device, precision and processes; this file keeps what the project promises: a run killed at any moment
and started again ends with the same weights, bit for bit on a CPU, because everything random in a step comes from
a generator seeded by (seed, step) and everything else is in the checkpoint.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from components.errors import NonFinite
from components.params import TrainingParams
from components.stage import Stage

WINDOW = 32  # batches between which examples are exchanged, so that like lengths come together

LossFn = Callable[[nn.Module, list[int], torch.Generator], tuple[torch.Tensor, dict[str, Any]]]


def fit(
    stage: Stage,
    module: nn.Module,
    loss_fn: LossFn,
    count: int,
    settings: TrainingParams,
    *,
    groups: list[dict[str, Any]] | None = None,
    lengths: Sequence[int] | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    name: str = "train",
) -> list[dict[str, float]]:
    """Train the parameters of `module` that require gradients for `settings.steps` optimizer steps.

    loss_fn(model, indices, generator): loss of the examples `indices` of [0, count), a scalar tensor, and what to log
        beside it. `model` is `module` as accelerate wrapped it. All randomness must come from `generator` (on the CPU).
    groups: optimizer groups as torch takes them ({"params", "lr"}); default: all trainable parameters at one rate.
    lengths: how long each example is, where a batch is padded to its longest: batches are then of like lengths.
    validate: called every `settings.validate_every` steps and at the end, without gradients; logged as validation/*.
    Returns the logged rows ({"step", "loss", ...}). Raises NonFinite when a loss or gradient norm is not finite.
    With `ema_decay` the module ends with the averaged weights.
    """
    seed = stage.seed(name)
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        gradient_accumulation_steps=settings.accumulation,
    )
    trainable = {key: p for key, p in module.named_parameters() if p.requires_grad}
    groups = groups or [{"params": list(trainable.values()), "lr": settings.learning_rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
    sizes = None if lengths is None else np.array(lengths)
    rates = [group["lr"] for group in optimizer.param_groups]
    model, optimizer = accelerator.prepare(module, optimizer)
    ema = {key: p.detach().clone() for key, p in trainable.items()} if settings.ema_decay else {}

    checkpoint = stage.state() / f"{name}.pt"
    first, rows = 0, []
    if checkpoint.exists():
        first, rows = _restore(checkpoint, trainable, optimizer, ema)
        stage.say(f"{name}: going on from step {first}")

    model.train()
    saved = time.monotonic()
    sums: dict[str, list[float]] = {}
    for step in stage.progress(range(first, settings.steps), name):
        factor = rate_factor(step, settings)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        for micro in range(settings.accumulation):
            position = step * settings.accumulation + micro
            indices = batch_indices(position, settings.batch_size, count, seed, sizes)
            indices = indices[accelerator.process_index :: accelerator.num_processes]
            generator = torch.Generator().manual_seed(_fold(seed, position, accelerator.process_index))
            with accelerator.autocast():
                loss, logs = loss_fn(model, indices, generator)
            if not torch.isfinite(loss):
                raise NonFinite(f"{name} loss ({loss.item()})", step)
            accelerator.backward(loss)
            for key, value in {"loss": loss.detach(), **logs}.items():
                sums.setdefault(key, []).append(float(value))
        norm = accelerator.clip_grad_norm_(list(trainable.values()), settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise NonFinite(f"{name} gradient norm", step)
        sums.setdefault("grad_norm", []).append(float(norm))
        optimizer.step()
        optimizer.zero_grad()
        # The warm-up of the average: a start far from the data must not stay in it.
        decay = min(settings.ema_decay or 0.0, (1 + step) / (10 + step))
        for key, average in ema.items():
            average.lerp_(trainable[key].detach(), 1 - decay)

        done = step + 1
        last = done == settings.steps
        if done % settings.log_every == 0 or last:
            # A quantity that has no value in a batch (no decided pair in it, say) is NaN there and left out of the mean.
            row = {key: float(np.nanmean(v)) for key, v in sums.items() if not np.isnan(v).all()}
            sums.clear()
            if validate and (last or done % settings.validate_every < settings.log_every):
                model.eval()
                with torch.no_grad():
                    row |= {f"validation/{key}": value for key, value in validate(model).items()}
                model.train()
            stage.log(row, done)
            rows.append({"step": done, **row})
            if time.monotonic() - saved > settings.checkpoint_seconds and not last:
                _save(checkpoint, trainable, optimizer, ema, done, rows)
                saved = time.monotonic()
    for key, average in ema.items():
        trainable[key].data.copy_(average)
    model.eval()
    if rows:
        stage.say(
            f"{name}: step {rows[-1]['step']}, " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items() if k != "step")
        )
    return rows


def rate_factor(step: int, settings: TrainingParams) -> float:
    """Linear warm-up, then constant or a cosine to a tenth."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def batch_indices(position: int, batch_size: int, count: int, seed: int, lengths: np.ndarray | None = None) -> list[int]:
    """Examples of the `position`-th batch: epochs are fresh permutations laid end to end, so a step needs no history.

    With `lengths` [count] each epoch is sorted into batches of like lengths; see like_lengths.
    """
    start = position * batch_size
    indices = []
    for epoch in range(start // count, (start + batch_size - 1) // count + 1):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        if lengths is not None:
            # The first batch that lies in this epoch alone; the one before it is shared with the last epoch.
            order = like_lengths(order, lengths, batch_size, first=-epoch * count % batch_size)
        indices += order[max(0, start - epoch * count) : start + batch_size - epoch * count].tolist()
    return indices


def like_lengths(order: np.ndarray, lengths: np.ndarray, batch_size: int, first: int) -> np.ndarray:
    """An epoch's order [N] with examples exchanged among the batches of a window, so that each batch, from place `first`
    on, is of like lengths. What is shared with the epochs before and after stays where it is.

    Batches of a window come in the order of their earliest example: long ones are not all last, and where all lengths are
    equal the order stays as it is.
    """
    order = order.copy()
    last = first + (len(order) - first) // batch_size * batch_size
    for start in range(first, last, WINDOW * batch_size):
        window = order[start : min(start + WINDOW * batch_size, last)]
        batches = np.argsort(lengths[window], kind="stable").reshape(-1, batch_size)
        batches = batches[np.argsort(batches.min(1))]
        order[start : start + len(window)] = window[batches.ravel()]
    return order


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """The logged rows as CSV, for plots."""
    import pandas as pd

    pd.DataFrame(rows).to_csv(path, index=False)


def _fold(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _save(path: Path, trainable: dict, optimizer: Any, ema: dict, step: int, rows: list) -> None:
    # In place of the old one only when it is whole: a kill while writing must leave the old.
    partial = path.with_suffix(".partial")
    state = {
        "trainable": {key: p.detach() for key, p in trainable.items()},
        "optimizer": optimizer.state_dict(),
        "ema": ema,
        "step": step,
        "rows": rows,
    }
    torch.save(state, partial)
    os.replace(partial, path)


def _restore(path: Path, trainable: dict, optimizer: Any, ema: dict) -> tuple[int, list]:
    state = torch.load(path, weights_only=True, map_location="cpu")
    with torch.no_grad():
        for key, p in trainable.items():
            p.copy_(state["trainable"][key])
        for key, average in ema.items():
            average.copy_(state["ema"][key])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["rows"]
