"""Figures of a model with many alike layers from a few of them, as each of a run of alike layers adds the same.

A run is neighbours with the same classes, settings, shapes and dtypes. Three of them show what a pass holds at most and
what a layer keeps. A fourth shows what one layer adds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

KEPT = 3  # the first may have inputs without gradients, and what follows the last one is counted with it
LONG = 7  # layers of a run that stays whole, at most: no more than three and then four of them
PLAIN = (bool, int, float, str, tuple, type(None))

Lists = dict[str, list[list[nn.Module]]]  # runs of each list of layers, by the list's name in the network


def runs_of(network: nn.Module, layers: nn.ModuleList) -> Lists:
    """Of the network's own lists of layers, whose members are all in `layers`."""
    known, found = set(layers), {}
    for name, own in network.named_children():
        if isinstance(own, nn.ModuleList) and known.issuperset(own):
            runs: list[list[nn.Module]] = []
            last = None
            for layer in own:
                kind = kind_of(layer)
                if kind != last:
                    runs.append([])
                runs[-1].append(layer)
                last = kind
            found[name] = runs
    return found


def kind_of(layer: nn.Module) -> list[Any]:
    """Equal for layers that cost the same."""
    return [
        (
            name,
            type(part),
            {key: value for key, value in vars(part).items() if isinstance(value, PLAIN)},
            [(own, p.shape, p.dtype, p.requires_grad) for own, p in part.named_parameters(recurse=False)],
        )
        for name, part in layer.named_modules()
    ]


@contextmanager
def shortened(network: nn.Module, lists: Lists, longer: list[nn.Module] | None = None) -> Iterator[None]:
    """Leave KEPT layers of each long run in the network, of the run `longer` one more."""
    whole = {name: getattr(network, name) for name in lists}
    for name, runs in lists.items():
        kept = [run if len(run) <= LONG else run[: KEPT + (run is longer)] for run in runs]
        setattr(network, name, nn.ModuleList(layer for run in kept for layer in run))
    try:
        yield
    finally:
        for name, layers in whole.items():
            setattr(network, name, layers)


def summed(network: nn.Module, lists: Lists, count: Callable[[], int]) -> float:
    """What `count` gives for the whole network, where each layer of a run adds the same to it, such as operations."""
    with shortened(network, lists):
        total = few = count()
    for run in (run for runs in lists.values() for run in runs if len(run) > LONG):
        with shortened(network, lists, longer=run):
            total += (count() - few) * (len(run) - KEPT)
    return float(total)
