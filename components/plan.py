"""`reelign doctor --profile P`: the resources that alignment needs, before anything is downloaded or started."""

import shutil

import psutil
import torch

from components.generator.budget import budget
from components.generator.costs import measured_rate
from components.params import Params

SHARED = {"transformer", "LoRA and Adam", "trunk, frozen", "what trains and Adam", "weights, float32"}
SHARED |= {"gradients and Adam of the tower"}  # sharded over GPUs while training
SHARE = 0.4  # of a measured matrix-product rate that training of a transformer is assumed to reach


def plan(params: Params, tflops: float | None, memory: float | None, gpus: int) -> bool:
    """Print the plan of a profile for `gpus` GPUs of `memory` GiB and `tflops` sustained TFLOP/s each; True if all fits.

    While training, weights are sharded over the GPUs (FSDP2); for sampling each GPU has all weights.
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
    fits = [show_memory(name, parts, memory) for name, parts in {"sampling": found.sampling, **found.methods}.items()]
    for name, whole in {"training": found.training, **found.rewards}.items():
        parts = {part: used / (gpus if part in SHARED else 1) for part, used in whole.items()}
        fits.append(show_memory(name, parts, memory))
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


def show_memory(what: str, parts: dict[str, float], memory: float) -> bool:
    total = sum(parts.values()) / 2**30
    print(f"  {what}: " + ", ".join(f"{name} {used / 2**30:.2f}" for name, used in parts.items()))
    print(f"    {fit(total, memory)}")
    return total <= memory


def fit(needed: float, there: float) -> str:
    return f"{needed:.2f} of {there:.1f}: " + ("fits" if needed <= there else f"DOES NOT FIT, {needed - there:.2f} too much")


def own_memory() -> tuple[float, str]:
    """GiB of this machine's GPU, or of its RAM."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / 2**30, torch.cuda.get_device_name()
    return psutil.virtual_memory().total / 2**30, "this machine's, no GPU"
