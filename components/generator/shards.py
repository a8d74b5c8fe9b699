"""Latents and conditionings of many clips as safetensors files of bounded size, memory-mapped: a row is read on access.

The metadata of each file names its origin, so that latents of two generators cannot be confused.
"""

from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from components.errors import BadInput
from components.generator.conditioning import Conditioning

SHARD_BYTES = 2**28
ROWS = "rows"  # the only tensor of a file of latents

Named = dict[str, torch.Tensor]


class NamedShards:
    """The rows of named tensors over all files of a folder, in the order of file names.

    Raises BadInput when a file is missing, damaged, or has another origin than `made_from`.
    """

    def __init__(self, folder: Path, made_from: dict[str, str]):
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise BadInput(folder, "no *.safetensors in it")
        for place, file in enumerate(files):
            if file.stem != f"{place:05d}":
                raise BadInput(folder / f"{place:05d}.safetensors", "missing")
            try:
                with safe_open(file, "pt") as opened:
                    check_origin(file, opened.metadata() or {}, made_from)
            except SafetensorError as error:
                raise BadInput(file, f"no safetensors: {error}") from error
        self.parts: list[Named] = [load_file(file) for file in files]  # memory-mapped: nothing is read yet
        self.places = [(part, row) for part in self.parts for row in range(len(next(iter(part.values()))))]

    def __len__(self) -> int:
        return len(self.places)

    def __add__(self, other: Self) -> Self:
        """The rows of both, those of `other` last."""
        both = copy(self)
        both.parts, both.places = self.parts + other.parts, self.places + other.places
        return both

    def named(self, rows: Iterable[int]) -> Named:
        """Each tensor [number of rows, ...], copied into memory."""
        found = [self.places[at] for at in rows]
        return {name: torch.stack([part[name][row] for part, row in found]) for name in self.parts[0]}


class Shards(NamedShards):
    """Latents: rows of one tensor."""

    @property
    def shape(self) -> torch.Size:
        """Shape of one row."""
        return self.parts[0][ROWS].shape[1:]

    def __getitem__(self, rows: Iterable[int]) -> torch.Tensor:
        """[number of rows, ...], copied into memory."""
        return self.named(rows)[ROWS]


class ConditioningShards(NamedShards):
    """Conditionings: rows of the tensors that a generator's family names."""

    def __getitem__(self, rows: Iterable[int]) -> Conditioning:
        """The rows, copied into memory."""
        return Conditioning(self.named(rows))


def check_origin(file: Path, metadata: dict[str, str], expected: dict[str, str]) -> None:
    """BadInput where the metadata of `file` differs from the `expected` origin."""
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise BadInput(file, f"was made from {key} {metadata.get(key)}, expected {value}", key=key)


def save_shards(parts: Iterable[torch.Tensor], folder: Path, made_from: dict[str, str]) -> None:
    """Write the rows of all parts [n, ...] in order, as files of about SHARD_BYTES."""
    save_named(({ROWS: part} for part in parts), folder, made_from)


def save_conditioning(parts: Iterable[Conditioning], folder: Path, made_from: dict[str, str]) -> None:
    """Write the rows of all parts in order, as files of about SHARD_BYTES."""
    save_named((dict(part.tensors) for part in parts), folder, made_from)


def save_named(parts: Iterable[Named], folder: Path, made_from: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    kept: list[Named] = []
    written = 0
    for part in parts:
        kept.append({name: tensor.cpu() for name, tensor in part.items()})
        if sum(tensor.nbytes for named in kept for tensor in named.values()) >= SHARD_BYTES:
            written = _write(kept, folder, written, made_from)
    if kept:
        _write(kept, folder, written, made_from)


def _write(kept: list[Named], folder: Path, place: int, made_from: dict[str, str]) -> int:
    rows = {name: torch.cat([named[name] for named in kept]).contiguous() for name in kept[0]}
    save_file(rows, folder / f"{place:05d}.safetensors", made_from)
    kept.clear()
    return place + 1
