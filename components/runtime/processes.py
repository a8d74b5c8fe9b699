"""Processes that were launched together: files from node to node, and FSDP2, which shards a model's weights among them."""

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env
from torch import distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from components.errors import BadInput
from components.files.atomic import whole_file

CHUNK = 1 << 24  # bytes of a file that are in memory at once


def launched_together() -> PartialState:
    """State of this process among those that accelerate or torchrun launched with it.

    BadInput where accelerate treats each as a single process, as it does by default without a GPU: each would then do the
    whole work and overwrite the others' files.
    """
    processes, launched = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")), int(os.environ.get("WORLD_SIZE", "1"))
    if processes.num_processes != launched:
        why = f"{launched} processes were launched, but each would run alone; without GPUs set it to true"
        raise BadInput("environment", why, key="ACCELERATE_USE_CPU")
    return processes


def nodes() -> int:
    """Machines, or pods, that the processes were launched on."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def from_first(path: Path) -> None:
    """Make a file or folder on every node that of the first process; it is removed where the first has none. All processes
    call it."""
    if nodes() == 1:
        return
    first = launched_together().is_main_process
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path][: path.exists()]
    if not first and leads_node():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    send(path.parent, [str(file.relative_to(path.parent)) for file in files] if first else [])


def send(folder: Path, names: Sequence[str]) -> None:
    """Copy files that this process has in `folder` to `folder` of the other nodes. All processes call it, each with its own
    files; afterwards every node has all."""
    if nodes() == 1:
        return
    state, node = launched_together(), os.environ["GROUP_RANK"]
    mine = [(state.process_index, node, name, (folder / name).stat().st_size) for name in names]
    for process, owner, name, size in gather_object(mine):
        parts = _parts(folder / name, size, process)
        if owner != node and leads_node():
            with whole_file(folder / name, sync=False) as partial, open(partial, "wb") as stream:
                for part in parts:
                    stream.write(part.cpu().numpy().data)
        else:
            deque(parts, maxlen=0)
    state.wait_for_everyone()


def _parts(file: Path, size: int, process: int) -> Iterator[torch.Tensor]:
    """The bytes of a file that the process has, on every process."""
    state = PartialState()
    with open(file, "rb") if state.process_index == process else nullcontext() as stream:
        for start in range(0, size, CHUNK):
            part = torch.empty(min(CHUNK, size - start), dtype=torch.uint8)
            if stream:
                stream.readinto(part.numpy().data)
            part = part.to(state.device)
            distributed.broadcast(part, src=process)
            yield part


def leads_node() -> bool:
    """Whether this is the first process of its node."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor, gathered where FSDP shards it; a collective call of all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class UnshardedModule:
    """The state of a module before FSDP2 wraps it, for scoring, merging and saving afterwards.

    FSDP2 changes classes, hooks and parameters of modules in place and cannot undo it.
    """

    def __init__(self, module: nn.Module):
        base = set(vars(nn.Module())) - {"_parameters"}
        self.before = [
            (part, type(part), set(vars(part)), {key: copy(vars(part)[key]) for key in base}) for part in module.modules()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the module with its current weights, unsharded in every process."""
        made: dict[nn.Parameter, nn.Parameter] = {}  # tied weights stay tied
        for part, kind, keys, base in self.before:
            for name, p in part._parameters.items():
                if p is not None:
                    made[p] = made[p] if p in made else nn.Parameter(full(p.detach()), p.requires_grad)
                    part._parameters[name] = made[p]
            part.__class__ = kind
            for key in set(vars(part)) - keys:
                del vars(part)[key]
            vars(part).update(base)


def part_like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shard a whole tensor among processes like `like`."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
