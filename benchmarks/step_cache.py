"""Price of step caches: `python benchmarks/step_cache.py`.

Gold scores on validation prompts of the shapes world: all settings draw the same prompts from the same noise, in turns; a
difference is of means by prompt, against the same solver without a cache, with a 95% interval over prompts. Then seconds
alone, of a random generator of 12 blocks and over 30 million parameters, whose clips no judge can score.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from diffusers import WanTransformer3DModel

from components.config.params import SamplingParams, StepCacheParams, load_params
from components.generator.families.wan_small import SmallGenerator
from components.generator.family import VelocityModel
from components.generator.folder import load_generator
from components.generator.sampler import Job, solve
from components.preferences.split import split_of
from components.simulation.judge import judge
from components.simulation.world import all_scenes, prompt_of

PARAMS = load_params(Path("infra/profiles/shapes.yaml"))
OFF = StepCacheParams(method="none", threshold=0.1, interval=2, warm_up=2)
CACHES = {
    "none": OFF,
    **{f"first_block {x}": OFF.model_copy(update={"method": "first_block", "threshold": x}) for x in (0.05, 0.1, 0.2, 0.4)},
    **{f"taylorseer {n}": OFF.model_copy(update={"method": "taylorseer", "interval": n}) for n in (2, 3)},
}
SOLVERS = [("euler", 8), ("unipc", 8), ("euler", 16), ("unipc", 16)]
BATCH = 32


def settings_of(solver: str, steps: int, cache: str) -> SamplingParams:
    return PARAMS.sampling.model_copy(update={"solver": solver, "steps": steps, "step_cache": CACHES[cache]})


def deep(generator: SmallGenerator) -> SmallGenerator:
    """The same generator with a random transformer of 12 blocks, 448 wide."""
    old = generator.model.transformer.config
    sizes = {"num_attention_heads": 8, "attention_head_dim": 56, "num_layers": 12, "ffn_dim": 1792}
    torch.manual_seed(0)
    transformer = WanTransformer3DModel.from_config({**old, **sizes}).requires_grad_(False).eval()
    return replace(generator, model=VelocityModel(generator.model.family, transformer))


def main(
    prompts: Annotated[int, typer.Option(help="Validation prompts.")] = 96,
    seeds: Annotated[int, typer.Option(help="Clips a prompt.")] = 2,
    repeats: Annotated[int, typer.Option(help="Batches of 8 clips of the random generator.")] = 3,
) -> None:
    """Print a row a solver and cache: gold Overall, difference, seconds a clip, times as fast."""
    found = sorted({prompt_of(scene) for scene in all_scenes() if split_of(prompt_of(scene), PARAMS.split) == "validation"})
    chosen = [found[place] for place in np.random.default_rng(0).permutation(len(found))[:prompts]]
    generator = load_generator(PARAMS.base_generator.folder)
    ways = [(solver, steps, cache) for solver, steps in SOLVERS for cache in CACHES]
    scores = {way: np.zeros((len(chosen), seeds)) for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for start in range(0, len(chosen), BATCH):
        for seed in range(seeds):
            part = chosen[start : start + BATCH]
            jobs = [Job(str(place), prompt, 1000 * seed + start + place) for place, prompt in enumerate(part)]
            for way in ways:
                began = time.perf_counter()
                latents = solve(generator, jobs, settings_of(*way))
                seconds[way] += time.perf_counter() - began
                rows = [
                    judge(clip, job.prompt).scores()["Overall"]
                    for clip, job in zip(generator.decode(latents), jobs, strict=True)
                ]
                scores[way][start : start + len(part), seed] = rows
    print(f"{len(chosen)} validation prompts x {seeds} seeds; seconds without decoding")
    for solver, steps, cache in ways:
        way, plain = (solver, steps, cache), (solver, steps, "none")
        difference = (scores[way] - scores[plain]).mean(1)
        width = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
        print(
            f"{solver:6} {steps:2} {cache:16} {scores[way].mean():.4f}  {difference.mean():+.4f} +-{width:.4f}  "
            f"{seconds[way] / scores[way].size:.4f} s  {seconds[plain] / seconds[way]:.2f}x"
        )
    big = deep(generator)
    count = sum(parameter.numel() for parameter in big.model.parameters())
    print(f"12 blocks, {count / 1e6:.1f} million parameters, random weights; {repeats} x 8 clips, Euler, 16 steps")
    spent = {cache: np.zeros(repeats) for cache in CACHES}
    for repeat in range(repeats):
        jobs = [Job(str(place), prompt, 100 * repeat + place) for place, prompt in enumerate(chosen[:8])]
        for cache in CACHES:
            began = time.perf_counter()
            solve(big, jobs, settings_of("euler", 16, cache))
            spent[cache][repeat] = time.perf_counter() - began
    for cache, each in spent.items():
        ratios = spent["none"] / each
        span = f"{ratios.min():.2f} to {ratios.max():.2f}"
        print(f"{cache:16} {np.median(each) / 8:.3f} s a clip  {np.median(ratios):.2f}x ({span})")


if __name__ == "__main__":
    typer.run(main)
