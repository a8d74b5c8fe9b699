"""The frozen reference's errors over a seeded grid of (t, noise) per pair, computed once.

Flow-DPO compares the policy's squared errors with the reference's. The reference never changes, so its errors on a fixed
grid are a table: filling it costs one forward a cell, after that a training step needs no reference pass. The table
belongs to one base model, one set of latents and pairs, and one grid; its name is their digest.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from components.alignment.data import Pairs
from components.alignment.flow_dpo import squared_errors
from components.generator.wan import velocity
from components.params import GridParams
from components.stage import SCRATCH, Stage

CACHE = SCRATCH / "cache" / "reference"
BATCH = 32  # pairs a forward


@dataclass(frozen=True)
class Grid:
    """t [N, K] in [0, 1] and a noise seed [N, K] for K draws of each of N pairs."""

    t: torch.Tensor
    seeds: np.ndarray

    def noise(self, pairs: list[int], draws: list[int], shape: torch.Size) -> torch.Tensor:
        """The noise x1 of these cells, [len(pairs), *shape]; the same for both clips of a pair."""
        return torch.stack(
            [
                torch.randn(shape, generator=torch.Generator().manual_seed(int(self.seeds[i, k])))
                for i, k in zip(pairs, draws, strict=True)
            ]
        )


def make_grid(pairs: int, params: GridParams, seed: int) -> Grid:
    rng = np.random.default_rng(seed)
    if params.timesteps == "uniform":
        # One draw in each of K equal slices of [0, 1], so that every pair sees low and high noise.
        t = (np.arange(params.draws) + rng.random((pairs, params.draws))) / params.draws
    else:
        t = 1 / (1 + np.exp(-rng.standard_normal((pairs, params.draws))))
    return Grid(torch.from_numpy(t).float(), rng.integers(0, 2**62, (pairs, params.draws)))


def noised(x0: torch.Tensor, x1: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t = (1 - t) x0 + t x1 and the velocity x1 - x0; latents [B, C, T', H', W'], t [B]."""
    t = t.view(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * x1, x1 - x0


def pair_errors(
    transformer: torch.nn.Module, pairs: Pairs, indices: list[int], draws: list[int], grid: Grid, reduction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared velocity errors [B] of chosen and rejected clips under shared noise and t, both in one forward."""
    x0 = torch.cat([pairs.chosen[indices], pairs.rejected[indices]])
    t = grid.t[indices, draws].repeat(2)
    x1 = grid.noise(indices, draws, x0.shape[1:]).repeat(2, 1, 1, 1, 1)
    xt, target = noised(x0, x1, t)
    errors = squared_errors(target, velocity(transformer, xt, t, pairs.text[indices].repeat(2, 1, 1)), reduction)
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
    """The table [2, N, K] (chosen, rejected): read where it exists for exactly this `identity`, else filled and kept.

    Filling goes on after a kill from the last finished part. The table outlives the stage: another beta or learning rate
    uses it again.
    """
    key = json.dumps({**identity, "reduction": reduction, "grid": digest_of(grid)}, sort_keys=True)
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if file.exists():
        stage.say(f"reference errors: {file} serves")
        return load_file(file)["errors"]
    parts_folder = file.with_suffix(".parts")
    parts_folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in stage.progress(range(0, len(pairs), BATCH), "reference errors"):
        part = parts_folder / f"{start:07d}.safetensors"
        if not part.exists():
            indices = list(range(start, min(start + BATCH, len(pairs))))
            cells = [
                torch.stack(pair_errors(transformer, pairs, indices, [draw] * len(indices), grid, reduction))
                for draw in range(grid.t.shape[1])
            ]
            _save(torch.stack(cells, dim=2), part)
        parts.append(load_file(part)["errors"])
    errors = torch.cat(parts, dim=1)
    _save(errors, file)
    shutil.rmtree(parts_folder)
    return errors


def digest_of(grid: Grid) -> str:
    return hashlib.sha256(grid.t.numpy().tobytes() + grid.seeds.tobytes()).hexdigest()[:16]


def _save(errors: torch.Tensor, file: Path) -> None:
    save_file({"errors": errors.contiguous()}, file.with_suffix(".partial"))
    os.replace(file.with_suffix(".partial"), file)
