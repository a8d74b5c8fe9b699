"""What a generator's velocity depends on besides latents and noise level: named tensors with a common batch axis."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

IMAGE = "image"  # how names of tensors begin that are of a clip's first frame, not of its prompt
Rows = int | slice | Sequence[int] | torch.Tensor


@dataclass(frozen=True)
class Conditioning:
    """Named tensors [B, ...] of the B rows of a batch: text embeddings, their masks, and whatever else a family reads.

    Rows of one name have one shape. Texts of unlike length are padded by the family, with a mask among the tensors where the
    model needs one. The names are the family's.
    """

    tensors: Mapping[str, torch.Tensor]

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"tensors of one batch differ in rows: {lengths}")
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, rows: Rows) -> "Conditioning":
        """The chosen rows, in their order; one number gives a batch of one."""
        chosen = [rows] if isinstance(rows, int) else rows
        return self._each(lambda tensor: tensor[chosen])

    def __iter__(self) -> Iterator["Conditioning"]:
        """The rows, each as a batch of one."""
        return iter(self.split(1))

    def __reduce__(self) -> tuple[Any, ...]:
        return Conditioning, (dict(self.tensors),)

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Conditioning":
        """On a device, and floating-point tensors in a dtype; masks of booleans and integers keep theirs."""
        return self._each(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))

    def repeat(self, times: int) -> "Conditioning":
        """The whole batch `times` times in a row."""
        return self._each(lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)))

    def expand(self, rows: int) -> "Conditioning":
        """The only row of this batch as `rows` equal rows, without a copy."""
        return self._each(lambda tensor: tensor.expand(rows, *tensor.shape[1:]))

    def split(self, rows: int) -> tuple["Conditioning", ...]:
        """Batches of `rows` rows in order; the last one may be shorter."""
        parts = {name: tensor.split(rows) for name, tensor in self.tensors.items()}
        return tuple(Conditioning(dict(zip(parts, part, strict=True))) for part in zip(*parts.values(), strict=True))

    def where(self, chosen: torch.Tensor, other: "Conditioning") -> "Conditioning":
        """This batch's row where `chosen` [B] is true, else the other's; a batch of one row serves for all rows. What this
        batch has no tensor for is the other's."""

        def pick(name: str) -> torch.Tensor:
            if name not in self.tensors:
                return other.tensors[name]
            here, there = self.tensors[name], other.tensors[name]
            return torch.where(chosen.view(-1, *[1] * (here.ndim - 1)), here, there)

        return Conditioning({name: pick(name) for name in other.tensors})

    def over(self, other: "Conditioning") -> "Conditioning":
        """This batch, and the other's tensors for names that this one has not."""
        return Conditioning({**other.tensors, **self.tensors})

    def of_prompt(self) -> "Conditioning":
        """Without the tensors of an image, whose names begin with IMAGE."""
        return Conditioning({name: own for name, own in self.tensors.items() if not name.startswith(IMAGE)})

    @staticmethod
    def cat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """The rows of all parts, in order."""
        names = list(parts[0].tensors)
        if any(set(part.tensors) != set(names) for part in parts):
            raise ValueError(f"parts have unlike tensors: {[sorted(part.tensors) for part in parts]}")
        return Conditioning({name: torch.cat([part.tensors[name] for part in parts]) for name in names})

    def _each(self, change: Any) -> "Conditioning":
        return Conditioning({name: change(tensor) for name, tensor in self.tensors.items()})
