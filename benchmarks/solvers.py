"""Price and worth of solvers on validation prompts of the shapes world: `python benchmarks/solvers.py`.

All solvers draw the same prompts from the same noise, in turns. The gold judge scores the clips; a difference is of means by
prompt, against 8 Euler steps, with a 95% interval over prompts. Seconds include decoding, as a stage's do.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from components.config.params import load_params
from components.generator.folder import load_generator
from components.generator.sampler import Job, solve
from components.preferences.split import split_of
from components.simulation.judge import judge
from components.simulation.world import all_scenes, prompt_of

PARAMS = load_params(Path("infra/profiles/shapes.yaml"))
ALL = (0.0, 1.0)
SETTINGS = [
    ("euler", 8, ALL),
    ("unipc", 4, ALL),
    ("unipc", 5, ALL),
    ("unipc", 6, ALL),
    ("unipc", 8, ALL),
    ("euler", 16, ALL),
    ("unipc", 6, (0.5, 1.0)),
    ("unipc", 6, (0.7, 1.0)),
    ("unipc", 6, (0.0, 0.95)),
    ("unipc", 6, (0.0, 0.9)),
    ("unipc", 6, (0.5, 0.95)),
    ("unipc", 8, (0.7, 1.0)),
    ("unipc", 8, (0.5, 0.95)),
]  # solver, steps, interval of guidance; the first is the reference
BATCH = 32


def main(prompts: Annotated[int, typer.Option()] = 96, seeds: Annotated[int, typer.Option()] = 3) -> None:
    """Print a row a solver: gold Overall, difference, seconds a clip, clips a second over the reference's."""
    found = sorted({prompt_of(scene) for scene in all_scenes() if split_of(prompt_of(scene), PARAMS.split) == "validation"})
    chosen = [found[place] for place in np.random.default_rng(0).permutation(len(found))[:prompts]]
    generator = load_generator(PARAMS.base_generator.folder)
    scores = {setting: np.zeros((len(chosen), seeds)) for setting in SETTINGS}
    seconds = dict.fromkeys(SETTINGS, 0.0)
    for start in range(0, len(chosen), BATCH):
        for seed in range(seeds):
            part = chosen[start : start + BATCH]
            jobs = [Job(str(place), prompt, 1000 * seed + start + place) for place, prompt in enumerate(part)]
            for setting in SETTINGS:
                solver, steps, interval = setting
                sampling = PARAMS.sampling.model_copy(
                    update={"solver": solver, "steps": steps, "guidance_interval": interval}
                )
                began = time.perf_counter()
                clips = generator.decode(solve(generator, jobs, sampling))
                seconds[setting] += time.perf_counter() - began
                rows = [judge(clip, job.prompt).scores()["Overall"] for clip, job in zip(clips, jobs, strict=True)]
                scores[setting][start : start + len(part), seed] = rows
    print(f"{len(chosen)} validation prompts x {seeds} seeds")
    for setting, own in scores.items():
        difference = (own - scores[SETTINGS[0]]).mean(1)
        width = 1.96 * difference.std(ddof=1) / len(difference) ** 0.5
        each, ratio = seconds[setting] / own.size, seconds[SETTINGS[0]] / seconds[setting]
        name = f"{setting[0]}, {setting[1]} steps, guidance in {list(setting[2])}"
        print(f"{name:44} {own.mean():.4f}  {difference.mean():+.4f} +-{width:.4f}  {each:.3f} s a clip  {ratio:.2f}x")


if __name__ == "__main__":
    typer.run(main)
