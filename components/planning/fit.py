"""`reelign doctor --profile P --memory M --fit`: settings with which every stage of a profile fits a GPU.

What already fits stays as it is. The batch of an optimizer step always does. While training, in this order: smaller
microbatches, gradient checkpointing, for the latent reward model clips read one by one, inputs of layers in the host's
memory. For sampling: checkpointing of guidance, clips decoded one by one, smaller batches, and last, as it alone changes
clips beyond rounding, decoding in tiles.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from components.config.params import Params
from components.config.types import TrainingParams
from components.errors import BadInput
from components.methods import ONLINE, trained
from components.planning.budget import Measured, budget_of
from components.planning.plan import on_each

GIB = 2**30
WAYS = ("whole", "sliced", "tiled")
LEVELS = ((False, False), (True, False), (True, True))  # gradient checkpointing, offload


@dataclass(frozen=True)
class Card:
    """GPUs that share the work, and bytes of each."""

    memory: float
    gpus: int

    def most(self, params: Params, measured: Measured, stages: set[str]) -> float:
        """The largest peak of these stages on a GPU."""
        found = budget_of(params, measured).memory
        phases = [(phase, parts) for stage in stages for phase, parts in found[stage].items()]
        return max(sum(on_each(phase, parts, self.gpus).values()) for phase, parts in phases)


def fitted(params: Params, measured: Measured, memory: float, gpus: int) -> Params:
    """The profile with settings that fit GPUs of `memory` GiB. BadInput names the stages that fit with none, and what they
    need at the least."""
    card, short = Card(memory * GIB, gpus), {}
    for stages, options in (
        ({"reward"}, sections(params, "reward", gpus)),
        ({f"align@{name}" for name in trained()}, alignments(params, gpus)),
        ({"latent_reward"}, latent_rewards(params, gpus)),
        (drawing_stages(params, measured), samplings(params)),
    ):
        params, least = first_that_fits(params, measured, card, stages, options)
        if least > card.memory:
            short[", ".join(sorted(stages))] = least
    rest = {"reward_bench", "relabel", "evaluate"}  # they score: nothing to change but reward.token_budget
    if (least := card.most(params, measured, rest)) > card.memory:
        short[", ".join(sorted(rest))] = least
    if short:
        needs = "; ".join(f"{names} needs {least / GIB:.1f}" for names, least in short.items())
        smallest = max(short.values()) / GIB
        why = f"{memory:g} GiB on each of {gpus} is too little, {smallest:.1f} GiB would fit ({needs})"
        raise BadInput("--memory", f"{why}; more --gpus share weights")
    return params


def first_that_fits(
    params: Params, measured: Measured, card: Card, stages: set[str], options: Iterator[dict[str, Any]]
) -> tuple[Params, float]:
    """The params with the first of the options that fits, and the peak; else with the one that needs least. The first option
    is the params' own, where the GPUs can share its batch."""
    best, least = params, math.inf
    for option in options:
        tried = Params.model_validate(merged(params.model_dump(), option))
        most = card.most(tried, measured, stages)
        if most < least:
            best, least = tried, most
        if most <= card.memory:
            break
    return best, least


def drawing_stages(params: Params, measured: Measured) -> set[str]:
    found = budget_of(params, measured).memory
    return {name for name, phases in found.items() if "sampling" in phases}


def levels(section: Any) -> list[tuple[bool, bool]]:
    """Those that need no more memory than the section's own."""
    return list(LEVELS[LEVELS.index((section.gradient_checkpointing, section.offload)) :])


def microbatches(training: TrainingParams, gpus: int) -> list[int]:
    """Sizes up to the params' own, or one a GPU, that divide the batch of an optimizer step and that the GPUs can share;
    largest first. BadInput where there is none."""
    batch, most = training.batch_size * training.accumulation, max(training.batch_size, gpus)
    sizes = [size for size in range(most, 0, -1) if batch % size == 0 and size % gpus == 0]
    if not sizes:
        raise BadInput("--gpus", f"{gpus} cannot share a batch of {batch} evenly")
    return sizes


def split(training: TrainingParams, size: int) -> dict[str, int]:
    return {"batch_size": size, "accumulation": training.batch_size * training.accumulation // size}


def sections(params: Params, name: str, gpus: int) -> Iterator[dict[str, Any]]:
    """Of a section that has `training`."""
    section = getattr(params, name)
    for again, offload in levels(section):
        for size in microbatches(section.training, gpus):
            yield {name: {"gradient_checkpointing": again, "offload": offload, "training": split(section.training, size)}}


def latent_rewards(params: Params, gpus: int) -> Iterator[dict[str, Any]]:
    """Clips read one by one come before the host's memory."""
    options, own = list(sections(params, "latent_reward", gpus)), params.latent_reward.clips_at_once
    near, far = ([each for each in options if each["latent_reward"]["offload"] == offload] for offload in (False, True))
    for rows, group in ((own, near), (1, near), (own, far), (1, far)):
        for each in group:
            yield {"latent_reward": each["latent_reward"] | {"clips_at_once": rows}}


def alignments(params: Params, gpus: int) -> Iterator[dict[str, Any]]:
    """Of all methods together, the online ones too: they share checkpointing, and no microbatch is above a common bound."""
    trainings = {own.params: getattr(params.align, own.params).training for own in trained().values()}
    online = {name: getattr(params.online, name).training for name in ONLINE}
    bounds = sorted({size for own in trainings.values() for size in microbatches(own, gpus)}, reverse=True)
    for again, offload in levels(params.align):
        for bound in bounds:
            own, others = (
                {name: {"training": split(one, at_most(one, bound, gpus))} for name, one in group.items()}
                for group in (trainings, online)
            )
            yield {"align": {"gradient_checkpointing": again, "offload": offload, **own}, "online": others}


def at_most(training: TrainingParams, bound: int, gpus: int) -> int:
    """The largest microbatch up to `bound`."""
    return next((size for size in microbatches(training, gpus) if size <= bound), gpus)


def samplings(params: Params) -> Iterator[dict[str, Any]]:
    own, sizes = params.sampling, [params.sampling.batch_size]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    ways = WAYS[WAYS.index(own.decode) :]
    exact = [(size, way) for size in sizes for way in ways if way != "tiled"]
    for size, way in exact + [(size, "tiled") for size in sizes]:
        for again in sorted({params.nrg.gradient_checkpointing, True}):
            yield {"sampling": {"batch_size": size, "decode": way}, "nrg": {"gradient_checkpointing": again}}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts, the second one's values in the first."""
    inner = {key: merged(values[key], own) if isinstance(own, dict) else own for key, own in changes.items()}
    return values | inner


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What differs in `after`, nested."""
    found = {}
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(before[key], dict):
            if inner := changes(before[key], value):
                found[key] = inner
        elif value != before[key]:
            found[key] = value
    return found


def edited(text: str, changed: dict[str, Any]) -> str:
    """A params file with these values, all else as it was, comments too. A value behind an anchor changes for all that use
    it."""
    places: dict[tuple[int, int], str] = {}
    collect(yaml.compose(text, yaml.SafeLoader), changed, places)
    for (start, end), value in sorted(places.items(), reverse=True):
        text = text[:start] + value + text[end:]
    return text


def collect(node: Any, changed: dict[str, Any], places: dict[tuple[int, int], str]) -> None:
    """Add where the values of `changed` are below a mapping, and their new text."""
    for key, value in node.value:
        if key.value in changed:
            new = changed[key.value]
            if isinstance(new, dict):
                collect(value, new, places)
            else:
                places[value.start_mark.index, value.end_mark.index] = yaml.safe_dump(new).splitlines()[0]
