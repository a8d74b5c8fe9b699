"""Tensors of many clips as safetensors files of bounded size, memory-mapped: a row is read on access.

The metadata of each file names its origin, so that latents of two generators cannot be confused.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from components.errors import BadInput

SHARD_BYTES = 2**28


class Shards:
    """The rows of the tensor "rows" over all files of a folder, in the order of file names.

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
        self.parts = [load_file(file)["rows"] for file in files]  # memory-mapped: nothing is read yet
        self.places = [(part, row) for part in self.parts for row in range(len(part))]

    def __len__(self) -> int:
        return len(self.places)

    def __add__(self, other: "Shards") -> "Shards":
        """The rows of both, those of `other` last."""
        both = copy(self)
        both.parts, both.places = self.parts + other.parts, self.places + other.places
        return both

    @property
    def shape(self) -> torch.Size:
        """Shape of one row."""
        return self.parts[0].shape[1:]

    def __getitem__(self, rows: Sequence[int]) -> torch.Tensor:
        """[len(rows), ...], copied into memory."""
        return torch.stack([part[row] for part, row in (self.places[at] for at in rows)])


def check_origin(file: Path, metadata: dict[str, str], expected: dict[str, str]) -> None:
    """BadInput where the metadata of `file` differs from the `expected` origin."""
    for key, value in expected.items():
        if metadata.get(key) != value:
            raise BadInput(file, f"was made from {key} {metadata.get(key)}, expected {value}", key=key)


def save_shards(parts: Iterable[torch.Tensor], folder: Path, made_from: dict[str, str]) -> None:
    """Write the rows of all parts [n, ...] in order, as files of about SHARD_BYTES."""
    folder.mkdir(parents=True)
    kept: list[torch.Tensor] = []
    written = 0
    for part in parts:
        kept.append(part)
        if sum(tensor.nbytes for tensor in kept) >= SHARD_BYTES:
            written = _write(kept, folder, written, made_from)
    if kept:
        _write(kept, folder, written, made_from)


def _write(kept: list[torch.Tensor], folder: Path, place: int, made_from: dict[str, str]) -> int:
    save_file({"rows": torch.cat(kept).contiguous()}, folder / f"{place:05d}.safetensors", made_from)
    kept.clear()
    return place + 1
