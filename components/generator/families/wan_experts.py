"""The two transformers of a Wan 2.2 A14B pipeline as one network: each step is one expert's, by its noise level.

    t >= boundary_ratio: transformer (high noise), below: transformer_2 (low noise)

While sampling one of them is in memory: the other is read when its steps begin.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate.utils.memory import clear_device_cache
from torch import nn

from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.family import HIGH_NOISE, LOW_NOISE, SECOND_PART, Network, below
from components.generator.lora_file import find_file
from components.runtime.processes import launched_together

PARTS = {HIGH_NOISE: "transformer", LOW_NOISE: SECOND_PART}  # of the folder
Run = Callable[[Network, torch.Tensor, torch.Tensor, Conditioning], torch.Tensor]


class WanExperts(nn.Module):
    """Experts by name, HIGH_NOISE first. read: gives one that is not in memory, and the other leaves it; None where all that
    are needed are there."""

    def __init__(self, boundary: float, experts: Mapping[str, Network], read: Callable[[str], Network] | None = None):
        super().__init__()
        self.boundary, self.read, self.lock = boundary, read, threading.Lock()
        self.experts = nn.ModuleDict(experts)
        self._no_split_modules = getattr(self.first, "_no_split_modules", None)  # the layers that FSDP shards

    @property
    def networks(self) -> Mapping[str, Network]:
        """Those in memory, by name."""
        return dict(self.experts.items())

    @property
    def first(self) -> Network:
        return next(iter(self.experts.values()))

    @property
    def config(self) -> Mapping[str, object]:
        """Of both: they are of one shape."""
        return self.first.config

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    @property
    def span(self) -> tuple[float, float]:
        """The noise levels of the experts in memory."""
        return (0.0 if LOW_NOISE in self.experts else self.boundary, 1.0 if HIGH_NOISE in self.experts else self.boundary)

    def expert(self, name: str) -> Network:
        """The expert, read where it is not in memory; then it is the only one there."""
        with self.lock:  # parts of a batch run in parallel threads
            if name not in self.experts:
                if self.read is None:
                    raise BadInput("params.yaml", f"only the {self.span} noise levels are trained", key="align.experts")
                self.experts.clear()
                clear_device_cache(garbage_collection=True)
                self.experts[name] = self.read(name)
            return self.experts[name]

    def forward(self, run: Run, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """run(expert, latents, t, conditioning) of each row [B, ...] by its own expert."""
        low = below(t, self.boundary)
        output: torch.Tensor | None = None
        for name, own in ((HIGH_NOISE, ~low), (LOW_NOISE, low)):
            if own.all() and not self._all_take_part():
                return run(self.expert(name), latents, t, conditioning)
            rows = own.nonzero().flatten()
            if not len(rows):
                if name not in self.experts or not self._all_take_part():
                    continue
                rows = rows.new_zeros(1)
            found = run(self.expert(name), latents[rows], t[rows], conditioning[rows])
            if output is None:
                output = found.new_zeros(len(latents), *found.shape[1:])
            # A row of the other expert's counts nothing.
            output = output.index_add(0, rows, found if own.any() else 0 * found)
        assert output is not None
        return output

    def _all_take_part(self) -> bool:
        """Whether every expert runs for every batch: processes that share weights or average gradients stay in step."""
        return torch.is_grad_enabled() and len(self.experts) > 1 and launched_together().num_processes > 1


def lora_files(lora: Path) -> dict[str, Path]:
    """The LoRA of each expert: files named *high_noise* and *low_noise* in a folder, or one such file. BadInput where a file
    is of no expert: both have layers of the same names."""
    found = {}
    for name in PARTS:
        files = sorted(lora.glob(f"*{name}*.safetensors")) if lora.is_dir() else [lora] * (name in lora.name)
        if len(files) > 1:
            raise BadInput(lora, f"holds {len(files)} files of {name}, {files[0].name} and others: name the file")
        if files:
            found[name] = find_file(files[0])
    if not lora.exists():
        raise BadInput(lora, "no such file")
    if not found:
        wanted = " or ".join(f"*{name}*.safetensors" for name in PARTS)
        raise BadInput(lora, f"is of which transformer? Name its file {wanted}")
    return found
