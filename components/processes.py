"""Processes that were launched together, and FSDP2, which shares out a model's weights among them: put together what it took
apart, and the other way round."""

import os
from copy import copy

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from components.errors import BadInput


def launched_together() -> PartialState:
    """This process among those that accelerate or torchrun launched with it.

    BadInput where accelerate takes each of them for one of its own, as it does without a GPU unless told otherwise: each
    would then do the whole work and write over the others'.
    """
    processes, launched = PartialState(), int(os.environ.get("WORLD_SIZE", "1"))
    if processes.num_processes != launched:
        why = f"{launched} processes were launched, each would run alone; without GPUs set it to true"
        raise BadInput("environment", why, key="ACCELERATE_USE_CPU")
    return processes


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself, put together where FSDP holds a part of it in each process; all must ask at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Whole:
    """A module as it was before FSDP2 took it over, so that it can be scored with, merged and saved afterwards.

    FSDP2 changes classes, hooks and parameters of modules in place and has no way back.
    """

    def __init__(self, module: nn.Module):
        base = set(vars(nn.Module())) - {"_parameters"}
        self.before = [
            (part, type(part), set(vars(part)), {key: copy(vars(part)[key]) for key in base}) for part in module.modules()
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, with the weights as they are now, whole in every process."""
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
    """A whole tensor, shared out among processes as `like` is."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
