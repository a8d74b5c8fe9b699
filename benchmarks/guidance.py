"""Reward guidance against plain sampling: time and peak memory of a step, in one run.

    python benchmarks/guidance.py                      two small transformers on the CPU
    python benchmarks/guidance.py --size 1.3b          Wan 2.1's 1.3B architecture with random weights, on a GPU

    plain           classifier-free guidance alone
    own_trunk       Flow-NRG by a model with tuned blocks of its own: a pass more, there and back
    shared_trunk    Flow-NRG by a model on frozen blocks: it reads the tokens of the velocity's own pass
    whole_model     own_trunk with all blocks of the generator

Trunks have a quarter of the blocks. Each measurement has a process of its own; the ways take turns.
"""

import json
import resource
import statistics
import subprocess
import sys
from typing import Annotated

import psutil
import torch
import typer
from alignment import SHAPES, timed
from diffusers import WanTransformer3DModel

from components.generator.sampler import ClassifierFree
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import LatentReward, first_blocks
from components.params import NrgParams

WAYS = ("plain", "own_trunk", "shared_trunk", "whole_model")
STEPS = {"tiny": 20, "mid": 6, "1.3b": 10}
NRG = NrgParams(weights={"VQ": 0.2, "MQ": 0.2, "TA": 0.6}, scale=30.0, start=0.0, stop=1.0, max_norm=0.1)

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def main(
    size: Annotated[str, typer.Option(help="Transformers to measure, of tiny, mid and 1.3b.")] = "tiny,mid",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    way: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print seconds and peak memory of a sampling step, as they are and against plain sampling."""
    if way is not None:
        print(json.dumps(measure(size, way)))
        return
    for name in size.split(","):
        turns = [{way: in_own_process(name, way) for way in WAYS} for _ in range(repeats)]
        plain = turns[0]["plain"]
        print(f"{name}: {plain['parameters'] / 1e6:.1f}M parameters, {plain['blocks']} blocks, on {plain['device']}")
        for way in WAYS:
            seconds, peak = (statistics.median(turn[way][key] for turn in turns) for key in ("seconds", "peak"))
            slower, more = (
                statistics.median(turn[way][key] / turn["plain"][key] for turn in turns) for key in ("seconds", "peak")
            )
            print(f"  {way:14} {seconds:7.3f} s a step  {slower:.2f}x   {peak / 2**20:7.0f} MB  {more:.2f}x", flush=True)


def in_own_process(size: str, way: str) -> dict:
    command = [sys.executable, __file__, "--size", size, "--way", way]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


@torch.no_grad()
def measure(size: str, way: str) -> dict:
    """Median seconds of a step, peak memory in bytes above what the process held before the model was made."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = psutil.Process().memory_info().rss
    sizes = SHAPES[size]
    model = WanTransformer3DModel(**sizes["config"]).to(device, dtype).requires_grad_(False).eval()
    clips, blocks = sizes["pairs"], len(model.blocks)
    text, empty = (torch.randn(n, sizes["words"], sizes["config"]["text_dim"], device=device) for n in (clips, 1))
    flow = step = ClassifierFree(model, text.to(dtype), empty.to(dtype), 5.0)
    if way != "plain":
        trunk = first_blocks(model, blocks if way == "whole_model" else blocks // 4, shared=way == "shared_trunk")
        reward = LatentReward(trunk, ["VQ", "MQ", "TA"], frozen=way == "shared_trunk").to(device, dtype)
        torch.nn.init.normal_(reward.head)
        step = flow_nrg(flow, reward.requires_grad_(False).eval(), flow.text, NRG)
    x = torch.randn(clips, *sizes["latents"], device=device, dtype=dtype)
    step(x, 0.5)
    seconds = statistics.median(timed(lambda: step(x, 0.5), device) for _ in range(STEPS[size]))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "seconds": seconds,
        "peak": torch.cuda.max_memory_allocated() if device == "cuda" else used,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "blocks": blocks,
        "device": torch.cuda.get_device_name() if device == "cuda" else "the CPU",
    }


if __name__ == "__main__":
    app()
