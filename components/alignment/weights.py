"""Copies of the trainable weights: the policy of the round before, and averages of policies."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from components.runtime.processes import full, part_like

Weights = dict[str, torch.Tensor]


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def copy_of(module: nn.Module) -> Weights:
    """The trainable weights of `module`, unsharded."""
    return {name: full(p.detach()).clone() for name, p in trainable(module).items()}


def put(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Write weights of copy_of into `module`."""
    with torch.no_grad():
        for name, p in trainable(module).items():
            p.data.copy_(part_like(weights[name], p))


def averaged(old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], decay: float) -> Weights:
    """decay * old + (1 - decay) * new; exactly `new` at decay 0."""
    return {name: new[name].clone() if decay == 0 else torch.lerp(new[name], old[name], decay) for name in new}


@contextmanager
def exchanged(module: nn.Module, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """`module` with other trainable weights inside the block, without gradients; afterwards it is as it was, bit for bit."""
    own = {name: p.detach().clone() for name, p in trainable(module).items()}
    put(module, weights)
    try:
        with torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for name, p in trainable(module).items():
                p.data.copy_(own[name])
