"""`reelign doctor --profile P`: the resources that alignment needs, before anything is downloaded or started."""

import shutil

import psutil
import torch

from components.config.params import Params
from components.planning.budget import TRAINING, Budget, Parts, Phases, budget
from components.planning.costs import measured_rate

# Parts that are sharded over GPUs while training.
SHARED = {"transformer", "LoRA and Adam", "trunk, frozen", "what trains and Adam", "frozen weights"}
SHARED |= {"weights of the tower", "gradients and Adam of the tower"}
SHARE = 0.4  # of a measured matrix-product rate that training of a transformer is assumed to reach


def plan(params: Params, tflops: float | None, memory: float | None, gpus: int) -> bool:
    """Print the plan of a profile for `gpus` GPUs of `memory` GiB and `tflops` sustained TFLOP/s each; True if all fits.

    While training, weights are sharded over the GPUs (FSDP2), and each has its part of a batch; for sampling each GPU has
    all weights.
    """
    found = budget(params)
    if memory is None:
        memory, told = own_memory()
    else:
        told = "as stated"
    if tflops is None:
        rate, said = SHARE * measured_rate(params.base_generator.dtype), f"{SHARE:.0%} of a matrix product's, measured here"
    else:
        rate, said = tflops * 1e12, "as stated"
    print(f"profile {params.profile}: {params.base_generator.folder}, {params.base_generator.dtype}, {clip_of(params)}\n")
    print("PARAMETERS")
    for name, number in found.parameters.items():
        print(f"  {name:<16} {number:>17,}")
    print(f"\nMEMORY on each of {gpus} with {memory:.1f} GiB ({told}), GiB; activations at most")
    fits = [show_memory(", ".join(names), phases, memory) for names, phases in alike(found, gpus)]
    print("  source, measure, curate, pairs, package: no model is loaded")
    disk = sum(found.disk.values()) / 2**30
    free = shutil.disk_usage(".").free / 2**30
    fits.append(disk <= free)
    parts = ", ".join(f"{name} {used / 2**30:.1f}" for name, used in found.disk.items())
    print(f"\nDISK, with DVC's copies, GiB: {parts}\n  {fit(disk, free)}")
    print(f"\nTIME at {rate / 1e12:.3g} TFLOP/s a GPU ({said})")
    for stage, number in found.operations.items():
        count = f"{found.steps[stage]} steps" if stage in found.steps else ""
        count = f"{found.draws[stage]} clips" if stage in found.draws else count
        print(f"  {stage:<16} {count:>11} {number / 1e15:>14,.2f} PFLOP {number / rate / gpus / 3600:>10,.2f} h")
    total = sum(found.operations.values())
    print(f"  {'together':<28} {total / 1e15:>14,.2f} PFLOP {total / rate / gpus / 3600:>10,.2f} h")
    return all(fits)


def clip_of(params: Params) -> str:
    sampling = params.sampling
    return f"{sampling.frames} frames of {sampling.height}x{sampling.width}"


def alike(found: Budget, gpus: int) -> list[tuple[list[str], Phases]]:
    """Stages in the order of the graph, those of equal memory together, on each of `gpus` GPUs."""
    groups: list[tuple[list[str], Phases]] = []
    for stage, phases in found.memory.items():
        own = {name: on_each(name, parts, gpus) for name, parts in phases.items()}
        for names, there in groups:
            if there == own:
                names.append(stage)
                break
        else:
            groups.append(([stage], own))
    return groups


def on_each(phase: str, parts: Parts, gpus: int) -> Parts:
    """Bytes of a phase on each GPU: while training they share weights and batch."""
    if phase != TRAINING:
        return parts
    return {part: used / (gpus if part in SHARED or part == "activations" else 1) for part, used in parts.items()}


def show_memory(what: str, phases: Phases, memory: float) -> bool:
    most = max(sum(parts.values()) for parts in phases.values()) / 2**30
    print(f"  {what}: {fit(most, memory)}")
    for name, parts in phases.items():
        print(f"    {name}: " + ", ".join(f"{part} {used / 2**30:.2f}" for part, used in parts.items() if used))
    return most <= memory


def fit(needed: float, there: float) -> str:
    return f"{needed:.2f} of {there:.1f}: " + ("fits" if needed <= there else f"DOES NOT FIT, {needed - there:.2f} too much")


def own_memory() -> tuple[float, str]:
    """GiB of this machine's GPU, or of its RAM."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 2**30, torch.cuda.get_device_name()
    return psutil.virtual_memory().total / 2**30, "this machine's, no GPU"
