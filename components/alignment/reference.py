"""The frozen reference's errors over a seeded grid of (t, noise) per pair, computed once.

Flow-DPO compares the policy's squared errors with the reference's. The reference never changes, so its errors on a fixed
grid are a table. Filling it costs one forward pass per cell; a training step then needs no reference pass. The table
belongs to one base model, one set of latents, texts and pairs, one grid and one version of the code; its file name is
their digest.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from components.alignment.data import Pairs
from components.alignment.flow import WHOLE_SPAN, flow_errors, timesteps_at
from components.config.params import TimestepParams
from components.files.atomic import discard, whole_file
from components.generator.shards import check_origin
from components.pipeline.code_digest import code_digest
from components.pipeline.stage import SCRATCH, Stage
from components.runtime.processes import from_first, launched_together, leads_node, send

CACHE = SCRATCH / "cache" / "reference"
MODULES = ("components.alignment.reference", "components.generator.folder")  # with the families
BATCH = 32  # pairs a forward


@dataclass(frozen=True)
class Grid:
    """t [N, K] in [0, 1] and a noise seed [N, K] for K draws of each of N pairs."""

    t: torch.Tensor
    seeds: np.ndarray

    def noise(self, pairs: list[int], draws: list[int], shape: torch.Size) -> torch.Tensor:
        """The noise x1 of these cells, [len(pairs), *shape]; the same for both clips of a pair, and on every device."""
        return torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(int(self.seeds[i, k])))
                for i, k in zip(pairs, draws, strict=True)
            ]
        )


def make_grid(pairs: int, draws: int, timesteps: TimestepParams, seed: int, span: tuple[float, float] = WHOLE_SPAN) -> Grid:
    """The draws of that many pairs. span: noise levels of the transformers that train."""
    rng = np.random.default_rng(seed)
    # Stratified: one draw in each of K equally likely slices, so that every pair sees low and high noise.
    u = (np.arange(draws) + rng.random((pairs, draws))) / draws
    t = timesteps_at(torch.from_numpy(u), timesteps, span).float()
    return Grid(t, rng.integers(0, 2**62, (pairs, draws)))


def pair_errors(
    transformer: torch.nn.Module, pairs: Pairs, indices: list[int], draws: list[int], grid: Grid, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared velocity errors [B] of chosen and rejected clips under shared noise and t, both in one forward pass."""
    x0 = pairs.latents(indices)
    x1 = grid.noise(indices, draws, x0.shape[1:])
    x1 = torch.cat([x1, x1])
    t = grid.t[indices, draws].repeat(2)
    errors = flow_errors(transformer, x0, x1, t, pairs.text(indices).repeat(2), reduction)
    chosen, rejected = errors.chunk(2)
    return chosen, rejected


@torch.no_grad()
def reference_errors(
    stage: Stage,
    transformer: torch.nn.Module,
    pairs: Pairs,
    grid: Grid,
    reduction: str,
    identity: dict[str, str],
    cache: Path = CACHE,
) -> torch.Tensor:
    """The table [2, N, K] (chosen, rejected): read where it exists for exactly this `identity`, else computed and cached.

    After a kill, filling resumes from the last finished part. Processes that were launched together share the parts, and
    nodes send them to each other. The cache outlives the stage: a run with another beta or learning rate reuses it. BadInput
    where the file's metadata differs from `identity`.
    """
    identity = {**identity, "reduction": reduction, "grid": digest_of(grid), "code": code_digest(MODULES)}
    file = cache / f"{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"
    processes = launched_together()
    from_first(file)
    if (kept := read_errors(file, identity)) is not None:
        stage.say(f"reference errors: read from {file}")
        return kept
    folder = file.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(pairs), BATCH)
    own = starts[processes.process_index :: processes.num_processes]
    for start in stage.progress(own, "reference errors"):
        part = _part(folder, start)
        if read_errors(part, identity) is None:
            indices = list(range(start, min(start + BATCH, len(pairs))))
            cells = [
                torch.stack(pair_errors(transformer, pairs, indices, [draw] * len(indices), grid, reduction))
                for draw in range(grid.t.shape[1])
            ]
            _save(torch.stack(cells, dim=2).cpu(), part, identity)
    processes.wait_for_everyone()
    send(folder, [_part(folder, start).name for start in own])
    errors = torch.cat([load_file(_part(folder, start))["errors"] for start in starts], dim=1)
    processes.wait_for_everyone()
    if leads_node():
        _save(errors, file, identity)
        shutil.rmtree(folder)
    return errors


def read_errors(file: Path, identity: dict[str, str]) -> torch.Tensor | None:
    """A table or a part of one; None where it is not there, or damaged: then it is removed. BadInput where it names another
    identity."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            check_origin(file, opened.metadata() or {}, identity)
        return load_file(file)["errors"]
    except SafetensorError as error:
        discard(file, error)
        return None


def digest_of(grid: Grid) -> str:
    return hashlib.sha256(grid.t.numpy().tobytes() + grid.seeds.tobytes()).hexdigest()[:16]


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:07d}.safetensors"


def _save(errors: torch.Tensor, file: Path, identity: dict[str, str]) -> None:
    with whole_file(file) as partial:
        save_file({"errors": errors.contiguous()}, partial, identity)
