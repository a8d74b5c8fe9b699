"""Sampling a rectified flow: Euler steps from t = 1 (noise) to t = 0 (clip), classifier-free guidance, seeded noise.

Every stage samples clips with `draw`: finished chunks survive a kill, and a clip's noise depends on its seed alone.
"""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from components.cores import in_parts
from components.engine import Engine, Row, file_digest, map_chunks
from components.generator.wan import Generator, velocity
from components.params import SamplingParams
from components.processes import launched_together
from components.stage import Stage
from components.video.encode import write_video

Velocity = Callable[[torch.Tensor, float], torch.Tensor]  # (x_t [B, C, T', H', W'], t) -> velocity of the same shape
Solver = Callable[[Generator, list["Job"], SamplingParams], torch.Tensor]  # -> normalised latents of a batch, as solve's
Loader = Callable[[], tuple[Generator, Solver]]  # generator and solver; loaded once per process


@dataclass(frozen=True)
class Job:
    """One clip to sample. `seed` determines its noise; equal seeds give equal noise whatever the method or the batch."""

    clip: str  # file name without suffix
    prompt: str
    seed: int
    weights: dict[str, float] | None = None  # of Flow-NRG's dimensions; None uses those of params.yaml


def timesteps(steps: int, shift: float) -> list[float]:
    """steps + 1 values from 1 to 0; shift > 1 puts more of them at high noise: s t / (1 + (s - 1) t)."""
    return [shift * t / (1 + (shift - 1) * t) for t in np.linspace(1, 0, steps + 1).tolist()]


@dataclass(frozen=True)
class ClassifierFree:
    """The velocity v(empty) + scale (v(text) - v(empty)); scale 1 is the conditional velocity.

    text [B, L, E]: the prompts' embeddings; empty [1, L, E]: the empty prompt's.
    """

    transformer: torch.nn.Module
    text: torch.Tensor
    empty: torch.Tensor
    scale: float

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        """Velocity [B, C, T', H', W'], both passes in one forward."""
        times, flow = x.new_full((len(x),), t), partial(velocity, self.transformer)
        if self.scale == 1:
            return in_parts(flow, x, times, self.text)
        text = torch.cat([self.empty.expand_as(self.text), self.text])
        without, with_text = in_parts(flow, x.repeat(2, 1, 1, 1, 1), times.repeat(2), text).chunk(2)
        return without + self.scale * (with_text - without)

    def guided(self, x: torch.Tensor, times: torch.Tensor, with_text: torch.Tensor) -> torch.Tensor:
        """The same from a v(text) that is already computed."""
        if self.scale == 1:
            return with_text
        without = in_parts(partial(velocity, self.transformer), x, times, self.empty.expand_as(self.text))
        return without + self.scale * (with_text - without)


def euler(flow: Velocity, noise: torch.Tensor, times: list[float]) -> torch.Tensor:
    """Integrate dx/dt = v from t = 1 to t = 0."""
    x = noise
    for t, after in pairwise(times):
        x = x + (after - t) * flow(x, t)
    return x


def noise_of(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def beginning(generator: Generator, jobs: list[Job], sampling: SamplingParams) -> tuple[ClassifierFree, torch.Tensor]:
    """The classifier-free velocity of a batch of jobs, and their noise [B, C, T', H', W']."""
    shape = generator.latent_shape(sampling.frames, sampling.height, sampling.width)
    text = generator.encode_text([job.prompt for job in jobs])
    noise = torch.stack([noise_of(job.seed, shape) for job in jobs]).to(generator.transformer.device)
    return ClassifierFree(generator.transformer, text, generator.encode_text([""]), sampling.guidance_scale), noise


@torch.no_grad()
def solve(
    generator: Generator,
    jobs: list[Job],
    sampling: SamplingParams,
    around: Callable[[ClassifierFree, list[Job]], Velocity] | None = None,
) -> torch.Tensor:
    """Normalised latents [B, C, T', H', W'] of one batch of jobs. around: adds guidance (Flow-NRG) to the velocity."""
    flow, noise = beginning(generator, jobs, sampling)
    return euler(around(flow, jobs) if around else flow, noise, timesteps(sampling.steps, sampling.shift))


def loaded(generator: Generator, solver: Solver = solve) -> Loader:
    """A loader for a generator already in this process; it cannot be sent to a worker process."""
    return lambda: (generator, solver)


def draw(
    stage: Stage,
    load: Loader,
    jobs: list[Job],
    sampling: SamplingParams,
    folder: Path,
    what: str = "clips",
    engine: Engine = "local",
    workers: int = 1,
) -> list[torch.Tensor]:
    """Sample all jobs, write `folder/<clip>.mp4`, return normalised latents [n, C, T', H', W'] of each batch in the order of
    `jobs`, memory-mapped.

    Finished batches are kept in the stage's state folder and are not drawn again after a kill. Processes that accelerate
    launched together share the batches. Otherwise `workers` of components/engine.py do, each loading its own generator
    (Drawer of components/guidance/solvers.py). Every worker has as many threads as this process: the number of threads
    affects the last bits, so clips are the same for any number of workers. Workers that share cores need OMP_NUM_THREADS
    set to their share.
    """
    state = stage.state() / what
    state.mkdir(exist_ok=True)
    processes = launched_together()
    op = partial(draw_batch, load=load, sampling=sampling, state=state, threads=torch.get_num_threads())
    rows, share = [asdict(job) for job in jobs], (processes.process_index, processes.num_processes)
    map_chunks(op, rows, workers, sampling.batch_size, state, stage.progress, what, engine, gpu=True, share=share)
    processes.wait_for_everyone()
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        shutil.copyfile(state / f"{job.clip}.mp4", folder / f"{job.clip}.mp4")
    return [load_file(latents_file(state, job))["latents"] for job in jobs[:: sampling.batch_size]]


@torch.no_grad()
def draw_batch(rows: list[Row], load: Loader, sampling: SamplingParams, state: Path, threads: int) -> list[Row]:
    """Sample jobs given as dicts and write their clips and latents to `state`; returns the digests of both."""
    torch.set_num_threads(threads)
    generator, solver = load()
    jobs = [Job(**row) for row in rows]
    x0 = solver(generator, jobs, sampling)
    for job, clip in zip(jobs, generator.decode(x0), strict=True):
        write_video(state / f"{job.clip}.mp4", clip, sampling.fps)
    save_file({"latents": x0.cpu().contiguous()}, latents_file(state, jobs[0]))
    made = [[state / f"{job.clip}.mp4"] for job in jobs]
    made[0].append(latents_file(state, jobs[0]))
    return [{"files": {file.name: file_digest(file) for file in files}} for files in made]


def latents_file(state: Path, first: Job) -> Path:
    """The latents file of the batch that begins with this job."""
    return state / f"{first.clip}.safetensors"
