"""The common training loop of VideoReward, the generator, its alignment and the latent reward model.

accelerate handles device, precision and processes. This file guarantees that a run killed at any moment and restarted ends
with the same weights, bit for bit on a CPU: all randomness of a step comes from a generator seeded by (seed, step), and all
other state is in the checkpoint.

Several processes, each with its own device, share the batches of a stage that accelerate launches:

    accelerate launch --num_processes 8 -m components.reward.train     (then `dvc commit reward`)

`--config_file infra/accelerate/fsdp.yaml` also shards the weights (FSDP2). Params set the precision and override
accelerate's configuration. Processes on several machines need a common file system. Without GPUs: `ACCELERATE_USE_CPU=true
torchrun --nproc-per-node 2 -m components.reward.train`.
"""

import math
import pickle
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.distributed.nn.functional import all_gather

from components.errors import BadInput, NonFinite
from components.files import whole_file
from components.params import TrainingParams
from components.processes import Whole, full, launched_together, part_like
from components.stage import Stage

WINDOW = 32  # batches among which examples are exchanged to group similar lengths

EXPLODED = 10  # a loss above this multiple of the first logged loss counts as exploded

LossFn = Callable[[nn.Module, list[int], torch.Generator], tuple[torch.Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class Watch:
    """Early stopping when the validation metric `key` (higher is better) has not risen for `patience` validations in a row;
    the weights of its maximum are kept."""

    key: str
    patience: int


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
    watch: Watch | None = None,
    name: str = "train",
) -> list[dict[str, float]]:
    """Train the parameters of `module` that require gradients for `settings.steps` optimizer steps.

    loss_fn(model, indices, generator): loss of the examples `indices` of [0, count), a scalar tensor, and other values to
        log. `model` is `module` as wrapped by accelerate. All randomness must come from `generator` (on the CPU). Each of
        several processes gets an equal part of a batch, and gradients are averaged: correct for a mean over examples. A loss
        with another mean, such as one over valid entries, must be computed from `gathered` outputs.
    groups: optimizer groups in torch's format ({"params", "lr"}); default: all trainable parameters at one rate.
    lengths: length of each example, where a batch is padded to its longest; batches then have similar lengths.
    validate: called every `settings.validate_every` steps and at the end, without gradients; logged as validation/*. All
        processes call it and must get the same figures.
    watch: the validation metric for early stopping.
    Returns the logged rows ({"step", "loss", ...}); a row with an EXPLODED loss has "exploded": 1.0. Raises NonFinite when
    a loss or gradient norm is not finite, BadInput when a batch cannot be split equally among the processes. With
    `ema_decay` the module ends with the averaged weights.
    """
    seed = stage.seed(name)
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        gradient_accumulation_steps=settings.accumulation,
    )
    processes = launched_together().num_processes
    if settings.batch_size % processes:
        raise BadInput("params.yaml", f"{settings.batch_size} is no multiple of {processes} processes", key="batch_size")
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise BadInput("accelerate's configuration", "only version 2 of FSDP is supported", key="fsdp_version")
    whole = Whole(module) if accelerator.is_fsdp2 else None
    groups = groups or [{"params": [p for p in module.parameters() if p.requires_grad], "lr": settings.learning_rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
    sizes = None if lengths is None else np.array(lengths)
    rates = [group["lr"] for group in optimizer.param_groups]
    model, optimizer = accelerator.prepare(module, optimizer)
    trainable = {key: p for key, p in module.named_parameters() if p.requires_grad}  # FSDP replaces them
    ema = {key: p.detach().clone() for key, p in trainable.items()} if settings.ema_decay else {}

    checkpoint = stage.state() / f"{name}.pt"
    progress = Progress()
    if (kept := _load(checkpoint, stage.say)) is not None:
        progress = _restore(kept, trainable, optimizer, ema)
        stage.say(f"{name}: resumes at step {progress.step}")
    rows = progress.rows

    model.train()
    saved = time.monotonic()
    sums: dict[str, list[float]] = {}
    for step in stage.progress(range(progress.step, settings.steps), name):
        factor = rate_factor(step, settings)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        for micro in range(settings.accumulation):
            position = step * settings.accumulation + micro
            indices = batch_indices(position, settings.batch_size, count, seed, sizes)
            indices = indices[accelerator.process_index :: processes]
            generator = torch.Generator().manual_seed(_fold(seed, position, accelerator.process_index))
            with accelerator.autocast():
                loss, logs = loss_fn(model, indices, generator)
            if not torch.isfinite(loss):
                raise NonFinite(f"{name} loss ({loss.item()})", step)
            accelerator.backward(loss)
            for key, value in {"loss": loss.detach(), **logs}.items():
                sums.setdefault(key, []).append(float(value))
        norm = full(accelerator.clip_grad_norm_(list(trainable.values()), settings.max_grad_norm))
        if not torch.isfinite(norm):
            raise NonFinite(f"{name} gradient norm", step)
        sums.setdefault("grad_norm", []).append(float(norm))
        optimizer.step()
        optimizer.zero_grad()
        # Warm-up of the average, so that early weights fade from it.
        decay = min(settings.ema_decay or 0.0, (1 + step) / (10 + step))
        for key, average in ema.items():
            average.lerp_(trainable[key].detach(), 1 - decay)

        done = step + 1
        last = done == settings.steps
        if done % settings.log_every == 0 or last:
            # The first process's clock decides for all processes when to save.
            parts, due = zip(*gather_object([(sums, time.monotonic() - saved > settings.checkpoint_seconds)]), strict=True)
            row = means(parts)
            sums = {}
            if validate and (last or done % settings.validate_every < settings.log_every):
                model.eval()
                with torch.no_grad():
                    row |= {f"validation/{key}": value for key, value in validate(model).items()}
                model.train()
                if watch:
                    progress.judge(row[f"validation/{watch.key}"], ema or trainable)
            if rows and row["loss"] > EXPLODED * rows[0]["loss"]:
                row["exploded"] = 1.0
                stage.say(f"{name}: ALARM at step {done}: loss {row['loss']:.4g}, at first {rows[0]['loss']:.4g}")
            stage.log(row, done)
            rows.append({"step": done, **row})
            progress.step = done
            if watch and progress.waited >= watch.patience:
                stage.say(f"{name}: no better {watch.key} for {watch.patience} validations, ends at step {done}")
                break
            if due[0] and not last:
                state = _state(trainable, optimizer, ema, progress)  # collective: each process may have a shard
                if accelerator.is_main_process:
                    _save(checkpoint, state)
                saved = time.monotonic()
    with torch.no_grad():
        for key, kept in (progress.best or ema).items():
            trainable[key].copy_(part_like(kept, trainable[key]))
    if whole:
        whole.restore()
    model.eval()
    if rows:
        stage.say(
            f"{name}: step {rows[-1]['step']}, " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items() if k != "step")
        )
    return rows


@dataclass
class Progress:
    """State of training; with a `Watch` also the weights with the highest metric, unsharded, on the CPU."""

    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    figure: float = -math.inf
    waited: int = 0  # validations since then
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def judge(self, figure: float, weights: dict[str, torch.Tensor]) -> None:
        self.waited += 1
        if figure > self.figure:
            self.figure, self.waited = figure, 0
            self.best = {key: full(weight.detach()).to("cpu", copy=True) for key, weight in weights.items()}


def gathered(part: torch.Tensor) -> torch.Tensor:
    """[B, ...] of all processes in order, from [B / processes, ...] of each; with a single process the tensor itself.

    A loss of gathered outputs is that of the whole batch in every process, whatever mean it uses. The backward pass sums
    the gradients of all processes' losses for a part, and the mean over processes is then the whole batch's gradient.
    """
    if PartialState().num_processes == 1:
        return part
    return torch.cat(all_gather(part))


def means(parts: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """Mean of each logged quantity over steps and processes. A quantity undefined for a batch (without a decided pair, say)
    is NaN there and left out."""
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {key: float(np.nanmean(values)) for key, values in joined.items() if not np.isnan(values).all()}


def rate_factor(step: int, settings: TrainingParams) -> float:
    """Linear warm-up, then constant or a cosine to a tenth."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress))


def batch_indices(position: int, batch_size: int, count: int, seed: int, lengths: np.ndarray | None = None) -> list[int]:
    """Examples of the `position`-th batch: epochs are concatenated independent permutations, so a step needs no history.

    With `lengths` [count] each epoch is sorted into batches of similar lengths; see like_lengths.
    """
    start = position * batch_size
    indices = []
    for epoch in range(start // count, (start + batch_size - 1) // count + 1):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        if lengths is not None:
            # The first batch within this epoch; the one before it is shared with the last epoch.
            order = like_lengths(order, lengths, batch_size, first=-epoch * count % batch_size)
        indices += order[max(0, start - epoch * count) : start + batch_size - epoch * count].tolist()
    return indices


def like_lengths(order: np.ndarray, lengths: np.ndarray, batch_size: int, first: int) -> np.ndarray:
    """An epoch's order [N] with examples exchanged among the batches of a window, so that each batch, from index `first`
    on, has similar lengths. Batches shared with the epochs before and after are unchanged.

    Batches of a window are sorted by their earliest example: long ones are not all last, and equal lengths leave the order
    unchanged.
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


def _state(trainable: dict, optimizer: Any, ema: dict, progress: Progress) -> dict[str, Any]:
    moments = optimizer.state_dict()
    return {
        "trainable": {key: full(p.detach()) for key, p in trainable.items()},
        "optimizer": moments
        | {"state": {i: {key: full(value) for key, value in kept.items()} for i, kept in moments["state"].items()}},
        "ema": {key: full(average) for key, average in ema.items()},
        "progress": vars(progress),
    }


def _save(path: Path, state: dict[str, Any]) -> None:
    # To an open file: given a name, torch loses the disk's error.
    with whole_file(path) as partial, open(partial, "wb") as stream:
        torch.save(state, stream)


def _load(path: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """A checkpoint; None where there is none, or a damaged one: training begins anew then, and the next one replaces it."""
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        say(f"{path}: cannot be read ({type(error).__name__}); training begins anew")
        return None


def _restore(state: dict[str, Any], trainable: dict, optimizer: Any, ema: dict) -> Progress:
    with torch.no_grad():
        for key, p in trainable.items():
            p.copy_(part_like(state["trainable"][key], p))
        for key, average in ema.items():
            average.copy_(part_like(state["ema"][key], average))
    for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        kept = state["optimizer"]["state"].get(i, {})
        kept |= {key: part_like(value, p) for key, value in kept.items() if value.shape == p.shape}
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
