"""Reward guidance: cost of a step, and gain in win rate.

    python benchmarks/guidance.py speed                   two small transformers on the CPU
    python benchmarks/guidance.py speed --size 1.3b       Wan 2.1's 1.3B architecture with random weights, on a GPU
    python benchmarks/guidance.py study                   in a finished `make demo`: win rates over weights and models
    python benchmarks/guidance.py ablation                there too: noise-aware against clean over three seeds

`speed` compares the time and peak memory of a sampling step, in one run:

    plain           classifier-free guidance alone
    own_trunk       Flow-NRG by a model with its own tuned blocks: one more forward and backward pass
    shared_trunk    Flow-NRG by a model on frozen blocks: it reads the tokens of the velocity's pass
    whole_model     own_trunk with all blocks of the generator

Trunks have a quarter of the blocks. Each measurement runs in a separate process; the ways alternate.

`study` runs stage tradeoff on all of the demo's evaluation clips: with the paper's weights and each dimension alone, by the
demo's latent reward model, by one trained on clean latents only, and by one on a frozen trunk; and best of N. `ablation`
trains the first two anew for each seed, and guides by each dimension alone. Both resume after an interruption.
"""

import json
import resource
import statistics
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import psutil
import torch
import typer
import yaml
from alignment import SHAPES, make_model, make_text, timed
from cells import stage
from methods import summary, workspace
from turns import middle, take_turns

from components.config.params import NrgParams
from components.contracts import DIMENSIONS
from components.evaluation.tradeoff import PLAIN, SECONDS
from components.evaluation.win_rates import Interval, win_rate
from components.generator.sampler import ClassifierFree
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import LatentReward, first_blocks
from components.pipeline.stage import MEASURED
from components.statistics.intervals import short

WORK = Path(".reelign/guidance")
WAYS = ("plain", "own_trunk", "shared_trunk", "whole_model")
STEPS = {"tiny": 20, "mid": 6, "1.3b": 10}
NRG = NrgParams(
    weights={"VQ": 0.2, "MQ": 0.2, "TA": 0.6}, scale=30.0, start=0.0, stop=1.0, max_norm=0.1, gradient_checkpointing=False
)

app = typer.Typer(help=__doc__, add_completion=False)


@app.command()
def speed(
    size: Annotated[str, typer.Option(help="Transformers to measure, of tiny, mid and 1.3b.")] = "tiny,mid",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    way: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print seconds and peak memory of a sampling step, absolute and relative to plain sampling."""
    if way is not None:
        print(json.dumps(measure(size, way)))
        return
    for name in size.split(","):
        turns = take_turns(__file__, ["speed", "--size", name], WAYS, repeats)
        about = turns[0]["plain"]
        print(f"{name}: {about['parameters'] / 1e6:.1f}M parameters, {about['blocks']} blocks, on {about['device']}")
        for way in WAYS:
            print(
                f"  {way:14} {middle(turns, way, 'seconds'):7.3f} s a step  {middle(turns, way, 'seconds', 'plain'):.2f}x   "
                f"{middle(turns, way, 'peak') / 2**20:7.0f} MB  {middle(turns, way, 'peak', 'plain'):.2f}x",
                flush=True,
            )


@torch.no_grad()
def measure(size: str, way: str) -> dict:
    """Median seconds of a step, peak memory in bytes above that of the process before the model was made."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    before = psutil.Process().memory_info().rss
    sizes = SHAPES[size]
    model = make_model(sizes).to(device, dtype).requires_grad_(False).eval()
    clips, blocks = sizes["pairs"], len(model.family.blocks(model.transformer))
    text, empty = (make_text(sizes, n).to(device, dtype) for n in (clips, 1))
    flow = step = ClassifierFree(model, text, empty, 5.0)
    if way != "plain":
        trunk = first_blocks(model, blocks if way == "whole_model" else blocks // 4, shared=way == "shared_trunk")
        reward = LatentReward(model.family, trunk, ["VQ", "MQ", "TA"], frozen=way == "shared_trunk").to(device, dtype)
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


# The paper's weights (Table 5, VQ:MQ:TA), and each dimension alone.
ALONE = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
WEIGHTS = (*ALONE, (0.1, 0.1, 0.8), (0.1, 0.1, 0.6), (0.5, 0.5, 0))
NOISE_AWARE, CLEAN = "noise-aware", "clean"
MODELS = {  # changes of params.yaml, section latent_reward
    NOISE_AWARE: {},
    CLEAN: {"max_noise": 0.0},
    "frozen trunk": {"trunk": "frozen"},
}
BEST = ((2, "video_reward", 1), (4, "latent_reward", 2), (4, "latent_reward", 6))  # n, judge, look
COMMON = ("models/video_reward", "data/samples/base")


@app.command()
def study() -> None:
    """Print a line for each model and setting of guidance: win rate and relative time against plain sampling.

    Each model has a folder in .reelign/guidance where stages latent_reward and tradeoff run with its params."""
    clips = {model: clips_of(model, WEIGHTS, BEST if model == NOISE_AWARE else ()) for model in MODELS}
    print("\nnoise-aware against clean, clip by clip:")
    for setting in sorted(set(clips[NOISE_AWARE].setting) & set(clips[CLEAN].setting) - {PLAIN}):
        rates = {name: against(clips[NOISE_AWARE], setting, clips[CLEAN], setting, name) for name in DIMENSIONS}
        print(f"{setting:24} gold  " + "  ".join(f"{d} {shown(rate.as_json())}" for d, rate in rates.items()))


@app.command()
def ablation(seeds: Annotated[str, typer.Option(help="Of whole runs of training and sampling.")] = "17,18,19") -> None:
    """Print gold win rates of both models against plain sampling, and of noise-aware against clean clip by clip: each seed's
    with its interval over prompts, and the mean over seeds with the t interval of that mean."""
    clips = [[clips_of(m, ALONE, seed=int(seed)) for m in (NOISE_AWARE, CLEAN)] for seed in seeds.split(",")]
    for dimension, weights in zip(DIMENSIONS, ALONE, strict=False):
        setting = ":".join(map(str, weights))
        for judged in (dimension, "Overall"):
            comparisons = {
                "noise-aware against plain": [against(aware, setting, aware, PLAIN, judged) for aware, _ in clips],
                "clean against plain": [against(clean, setting, clean, PLAIN, judged) for _, clean in clips],
                "noise-aware against clean": [against(aware, setting, clean, setting, judged) for aware, clean in clips],
            }
            for name, rates in comparisons.items():
                mean = summary(np.array([rate.value for rate in rates]))
                print(f"{setting} gold {judged:8} {name:26} {mean}   " + "  ".join(shown(rate.as_json()) for rate in rates))


def against(ours: pd.DataFrame, setting: str, theirs: pd.DataFrame, other: str, dimension: str) -> Interval:
    """Gold win rate of a setting's clips against another's of the same prompts and noise."""
    left, right = (clips[clips.setting == name] for clips, name in ((ours, setting), (theirs, other)))
    if list(left["clip"]) != list(right["clip"]):
        raise ValueError(f"clips of {setting} and {other} are not of the same prompts and seeds")
    column = f"gold_{dimension}"
    return win_rate(left[column].to_numpy(), right[column].to_numpy(), left.prompt_id.to_numpy())


def shown(rate: dict) -> str:
    """An estimate of a metrics file: 0.623 [0.58, 0.67]."""
    if rate["ci95"] is None:
        return f"{rate['value']:.3f} {short(rate['prompts'])}"
    low, high = rate["ci95"]
    return f"{rate['value']:.3f} [{low:.2f}, {high:.2f}]"


def clips_of(model: str, weights: tuple, best: tuple = (), seed: int | None = None) -> pd.DataFrame:
    """Clips of stage tradeoff with this model, made where missing; prints their win rates."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    params["latent_reward"] |= MODELS[model]
    best = [{"n": n, "judge": by, "rank_step": step, "weights": dict.fromkeys(DIMENSIONS[:3], 1.0)} for n, by, step in best]
    weights = [dict(zip(DIMENSIONS, map(float, row), strict=False)) for row in weights]
    everything = params["sample"]["prompts"] * params["sample"]["seeds_per_prompt"]
    params["tradeoff"] = {"clips": everything, "weights": weights, "best_of": best, "guidance_scales": []}
    demos = not MODELS[model] and seed in (None, params["seed"])
    params["seed"] = params["seed"] if seed is None else seed
    name = model.replace(" ", "_") + ("" if seed is None else f"_{seed}")
    folder = workspace(WORK / name, (*COMMON, "models/latent_reward") if demos else COMMON)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    if not (folder / "models/latent_reward").exists():
        stage(folder, "components.guidance.train")
    if not (folder / "metrics/tradeoff.json").exists():
        stage(folder, "components.evaluation.tradeoff")
    clips = pd.read_parquet(folder / "data/tradeoff.parquet")
    took = json.loads((folder / MEASURED / "tradeoff.json").read_text())
    seconds = {key.removeprefix(SECONDS): value for key, value in took.items()}
    print(f"\n{name}: {clips['clip'].nunique()} clips, plain sampling {seconds[PLAIN]:.2f} s a clip", flush=True)
    for setting, entry in json.loads((folder / "metrics/tradeoff.json").read_text())["settings"].items():
        cells = [f"{by} " + " ".join(f"{d} {shown(r)}" for d, r in rates.items()) for by, rates in entry["win_rate"].items()]
        print(f"{setting:24} {seconds[setting] / seconds[PLAIN]:.2f}x  " + "  |  ".join(cells), flush=True)
    return clips


if __name__ == "__main__":
    app()
