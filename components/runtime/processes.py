"""Processes that were launched together, and FSDP2, which shards a model's weights among them: gathering and sharding."""

import os
from copy import copy

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from components.errors import BadInput


def launched_together() -> PartialState:
    """State of this process among those that accelerate or torchrun launched with it.

    BadInput where accelerate treats each as a single process, as it does by default without a GPU: each would then do the
    whole work and overwrite the others' files.
    """
    processes, launched = PartialState(), int(os.environ.get("WORLD_SIZE", "1"))
    if processes.num_processes != launched:
        why = f"{launched} processes were launched, but each would run alone; without GPUs set it to true"
        raise BadInput("environment", why, key="ACCELERATE_USE_CPU")
    return processes


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
