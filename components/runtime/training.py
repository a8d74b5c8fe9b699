"""The common training loop of VideoReward, the generator, its alignment and the latent reward model.

accelerate handles device, precision and processes. This file guarantees that a run killed at any moment and restarted ends
with the same weights, bit for bit on a CPU: all randomness of a step comes from a generator seeded by (seed, step), and all
other state is in the checkpoint.

Several processes, each with its own device, share the batches of a stage that accelerate launches:

    accelerate launch --num_processes 8 -m components.reward.train     (then `dvc commit reward`)

`--config_file infra/accelerate/fsdp.yaml` also shards the weights (FSDP2). Params set the precision and override
accelerate's configuration. Machines need no common file system: the first process sends its checkpoint. Without GPUs:
`ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 -m components.reward.train`.
"""

import math
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.distributed.nn.functional import all_gather

from components.config.params import TrainingParams
from components.errors import BadInput, NonFinite
from components.files.atomic import whole_file
from components.pipeline.stage import Stage
from components.runtime.batches import Batches
from components.runtime.processes import UnshardedModule, from_first, full, launched_together, part_like

EXPLODED = 10  # a loss above this multiple of the first logged loss counts as exploded

LossFn = Callable[[Any, list[int], torch.Generator], tuple[torch.Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class EarlyStopping:
    """Early stopping when the validation metric `key` (higher is better) has not risen for `patience` validations in a row;
    the weights of its maximum are kept."""

    key: str
    patience: int


def fit(
    stage: Stage,
    module: nn.Module,
    loss_fn: LossFn | Sequence[LossFn],
    count: int,
    settings: TrainingParams,
    *,
    groups: list[dict[str, Any]] | None = None,
    lengths: Sequence[int] | None = None,
    validate: Callable[[nn.Module], dict[str, float]] | None = None,
    early_stopping: EarlyStopping | None = None,
    offload: bool = False,
    name: str = "train",
    before: int = 0,
) -> list[dict[str, float]]:
    """Train the parameters of `module` that require gradients for `settings.steps` optimizer steps.

    loss_fn(model, indices, generator): loss of the examples `indices` of [0, count), a scalar tensor, and other values to
        log. `model` is `module` as wrapped by accelerate. All randomness must come from `generator` (on the CPU). Each of
        several processes gets an equal part of a batch, and gradients are averaged: correct for a mean over examples. A loss
        with another mean, such as one over valid entries, must be computed from `gathered` outputs. Several losses take
        turns, a step each.
    groups: optimizer groups in torch's format ({"params", "lr"}); default: all trainable parameters at one rate.
    lengths: length of each example, where a batch is padded to its longest; batches then have similar lengths.
    validate: called every `settings.validate_every` steps and at the end, without gradients; logged as validation/*. All
        processes call it and must get the same figures.
    early_stopping: the validation metric for early stopping.
    offload: what is kept for the backward pass waits in the host's memory; with gradient checkpointing, inputs of layers.
    before: steps of earlier rounds, which the logged steps count on from.
    Returns the logged rows ({"step", "loss", ...}); a row with an EXPLODED loss has "exploded": 1.0. Raises NonFinite when
    a loss or gradient norm is not finite, BadInput when a batch cannot be split equally among the processes. With
    `ema_decay` the module ends with the averaged weights.
    """
    accelerator = start(settings)
    whole = UnshardedModule(module) if accelerator.is_fsdp2 else None
    groups = groups or [{"params": [p for p in module.parameters() if p.requires_grad], "lr": settings.learning_rate}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    model, optimizer = accelerator.prepare(module, optimizer)
    trainable = {key: p for key, p in module.named_parameters() if p.requires_grad}  # FSDP replaces them
    ema = {key: p.detach().clone() for key, p in trainable.items()} if settings.ema_decay else {}
    batches = Batches(count, settings.batch_size, stage.seed(name), None if lengths is None else np.array(lengths))
    losses = [loss_fn] if callable(loss_fn) else list(loss_fn)
    run = Run(stage, name, settings, accelerator, model, losses, batches, optimizer, rates, trainable, ema, offload, before)
    run.resume()

    model.train()
    progress, saved = run.progress, time.monotonic()
    for step in stage.progress(range(progress.step, settings.steps), name):
        run.backward(step)
        run.update(step)
        done, last = step + 1, step + 1 == settings.steps
        if done % settings.log_every and not last:
            continue
        row, due = run.logged(time.monotonic() - saved > settings.checkpoint_seconds)
        if validate and (last or done % settings.validate_every < settings.log_every):
            row |= run.validated(validate, early_stopping)
        run.record(row, done)
        if early_stopping and progress.waited >= early_stopping.patience:
            waited = f"no better {early_stopping.key} for {early_stopping.patience} validations"
            stage.say(f"{name}: {waited}, ends at step {done}")
            break
        if due and not last:
            run.save()
            saved = time.monotonic()
    run.keep_final_weights()
    if whole:
        whole.restore()
    model.eval()
    if rows := progress.rows:
        figures = ", ".join(f"{key} {value:.4g}" for key, value in rows[-1].items() if key != "step")
        stage.say(f"{name}: step {rows[-1]['step']}, {figures}")
    return progress.rows


def in_host_memory() -> AbstractContextManager[Any]:
    """Keep what a forward pass saves for the backward pass in the host's memory, which a GPU reads directly."""
    return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())


def start(settings: TrainingParams) -> Accelerator:
    """accelerate, checked: BadInput where the processes cannot share a batch equally, or FSDP is not version 2."""
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        gradient_accumulation_steps=settings.accumulation,
    )
    processes = launched_together().num_processes
    if settings.batch_size % processes:
        raise BadInput("params.yaml", f"{settings.batch_size} is no multiple of {processes} processes", key="batch_size")
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise BadInput("accelerate's configuration", "only version 2 of FSDP is supported", key="fsdp_version")
    return accelerator


@dataclass
class Progress:
    """State of training; with a `EarlyStopping` also the weights with the highest metric, unsharded, on the CPU."""

    step: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    figure: float = -math.inf
    waited: int = 0  # validations since then
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    def judge(self, figure: float, weights: Mapping[str, torch.Tensor]) -> None:
        self.waited += 1
        if figure > self.figure:
            self.figure, self.waited = figure, 0
            self.best = {key: full(weight.detach()).to("cpu", copy=True) for key, weight in weights.items()}


@dataclass
class Run:
    """A training run: what `fit` was called with, wrapped by accelerate, and its state."""

    stage: Stage
    name: str
    settings: TrainingParams
    accelerator: Accelerator
    model: nn.Module
    losses: list[LossFn]  # in turns
    batches: Batches
    optimizer: Any
    rates: list[float]  # of the optimizer's groups, before warm-up and schedule
    trainable: dict[str, nn.Parameter]
    ema: dict[str, torch.Tensor]  # average of the weights; empty without `ema_decay`
    offload: bool
    before: int  # steps of earlier rounds
    progress: Progress = field(default_factory=Progress)
    sums: dict[str, list[float]] = field(default_factory=dict)  # values since the last logged row

    def backward(self, step: int) -> None:
        """Add up the gradients of the step's microbatches. NonFinite for a loss that is not finite."""
        process, processes = self.accelerator.process_index, launched_together().num_processes
        loss_fn = self.losses[step % len(self.losses)]
        for micro in range(self.settings.accumulation):
            position = step * self.settings.accumulation + micro
            indices = self.batches.indices(position, process, processes)
            with self.accelerator.autocast(), in_host_memory() if self.offload else nullcontext():
                loss, logs = loss_fn(self.model, indices, self.batches.generator(position, process))
            if not torch.isfinite(loss):
                raise NonFinite(f"{self.name} loss ({loss.item()})", step)
            self.accelerator.backward(loss)
            for key, value in {"loss": loss.detach(), **logs}.items():
                self.sums.setdefault(key, []).append(float(value))

    def update(self, step: int) -> None:
        """One optimizer step at the step's learning rate, and the average of the weights. NonFinite for a gradient norm
        that is not finite."""
        factor = rate_factor(step, self.settings)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        found: Any = self.accelerator.clip_grad_norm_(list(self.trainable.values()), self.settings.max_grad_norm)
        norm = full(found)
        if not torch.isfinite(norm):
            raise NonFinite(f"{self.name} gradient norm", step)
        self.sums.setdefault("grad_norm", []).append(float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Warm-up of the average, so that early weights fade from it.
        decay = min(self.settings.ema_decay or 0.0, (1 + step) / (10 + step))
        for key, average in self.ema.items():
            average.lerp_(self.trainable[key].detach(), 1 - decay)

    def logged(self, due: bool) -> tuple[dict[str, float], bool]:
        """Means since the last row over all processes, and the first process's `due`: its clock decides for all when to
        save."""
        parts, dues = zip(*gather_object([(self.sums, due)]), strict=True)
        self.sums = {}
        return means(parts), dues[0]

    def validated(
        self, validate: Callable[[nn.Module], dict[str, float]], early_stopping: EarlyStopping | None
    ) -> dict[str, float]:
        """Validation metrics as columns of a row."""
        self.model.eval()
        with torch.no_grad():
            row = {f"validation/{key}": value for key, value in validate(self.model).items()}
        self.model.train()
        if early_stopping:
            self.progress.judge(row[f"validation/{early_stopping.key}"], self.ema or self.trainable)
        return row

    def record(self, row: dict[str, float], done: int) -> None:
        """Log a row after `done` steps, with a line where its loss has EXPLODED."""
        rows = self.progress.rows
        if rows and row["loss"] > EXPLODED * rows[0]["loss"]:
            row["exploded"] = 1.0
            self.stage.say(f"{self.name}: ALARM at step {done}: loss {row['loss']:.4g}, at first {rows[0]['loss']:.4g}")
        self.stage.log(row, self.before + done)
        rows.append({"step": self.before + done, **row})
        self.progress.step = done

    def keep_final_weights(self) -> None:
        """The trained weights: those of the best validation, else their average, else the last ones."""
        with torch.no_grad():
            for key, kept in (self.progress.best or self.ema).items():
                self.trainable[key].copy_(part_like(kept, self.trainable[key]))

    @property
    def checkpoint(self) -> Path:
        return self.stage.state() / f"{self.name}.pt"

    def save(self) -> None:
        """Write the checkpoint. All processes call it: with FSDP each has a shard."""
        moments = self.optimizer.state_dict()
        state = {
            "trainable": {key: full(p.detach()) for key, p in self.trainable.items()},
            "optimizer": moments
            | {"state": {i: {key: full(value) for key, value in kept.items()} for i, kept in moments["state"].items()}},
            "ema": {key: full(average) for key, average in self.ema.items()},
            "progress": vars(self.progress),
        }
        if self.accelerator.is_main_process:
            _save(self.checkpoint, state)

    def resume(self) -> None:
        """Continue from the checkpoint of a killed run, where there is one: that of the first process, on every node."""
        from_first(self.checkpoint)
        if (state := _load(self.checkpoint, self.stage.say)) is None:
            return
        with torch.no_grad():
            for key, p in self.trainable.items():
                p.copy_(part_like(state["trainable"][key], p))
            for key, average in self.ema.items():
                average.copy_(part_like(state["ema"][key], average))
        for i, p in enumerate(p for group in self.optimizer.param_groups for p in group["params"]):
            kept = state["optimizer"]["state"].get(i, {})
            kept |= {key: part_like(value, p) for key, value in kept.items() if value.shape == p.shape}
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        self.stage.say(f"{self.name}: resumes at step {self.progress.step}")


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


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """The logged rows as CSV, for plots."""
    import pandas as pd

    pd.DataFrame(rows).to_csv(path, index=False)


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
