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
Setting = tuple[str, int, float, tuple[float, float]]  # solver, steps, shift, interval of guidance
ALL = (0.0, 1.0)
SETTINGS: list[Setting] = [
    ("euler", 8, 3.0, ALL),  # the reference
    *[("unipc", steps, 3.0, ALL) for steps in (4, 5, 6, 8)],
    ("euler", 16, 3.0, ALL),
    *[("unipc", 4, shift, ALL) for shift in (1.0, 1.5, 2.0, 2.5, 4.0, 5.0)],
    *[("unipc", 5, shift, ALL) for shift in (1.5, 2.0, 4.0)],
    *[("unipc", 6, 3.0, part) for part in ((0.5, 1.0), (0.7, 1.0), (0.0, 0.95), (0.0, 0.9), (0.5, 0.95))],
    *[("unipc", 8, 3.0, part) for part in ((0.7, 1.0), (0.5, 0.95))],
]
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
                sampling = PARAMS.sampling.model_copy(
                    update=dict(zip(("solver", "steps", "shift", "guidance_interval"), setting, strict=True))
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
        name = f"{setting[0]}, {setting[1]} steps, shift {setting[2]:g}, guidance in {list(setting[3])}"
        print(f"{name:52} {own.mean():.4f}  {difference.mean():+.4f} +-{width:.4f}  {each:.3f} s a clip  {ratio:.2f}x")


if __name__ == "__main__":
    typer.run(main)
