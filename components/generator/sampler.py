"""Sampling a rectified flow: classifier-free guidance, seeded noise, integration from noise to clip (integration.py).

Every stage samples clips with `draw`: prompts are encoded first (prompts.py), finished chunks survive a kill, and a clip's
noise depends on its seed alone.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file

from components.config.params import SamplingParams
from components.errors import BadInput
from components.files.digests import file_digest
from components.generator.conditioning import Conditioning
from components.generator.family import Family, Generator, TextEncoder, VelocityModel, WithImage, below
from components.generator.images import IMAGES, EncodesImages, image_conditioning, with_images
from components.generator.integration import Velocity, integration
from components.generator.prompts import TEXT, EncodedPrompts, encode_ahead
from components.generator.speedups import cached, speedups
from components.pipeline.stage import Stage
from components.runtime.engine import Engine, Row, map_chunks
from components.runtime.microbatches import in_microbatches
from components.runtime.processes import launched_together, send
from components.video.encode import write_video

EMBEDDED = "guidance_scale"  # among Family.reads
Solver = Callable[[Generator, list["Job"], SamplingParams], torch.Tensor]  # -> normalised latents of a batch, as solve's


class Loader(Protocol):
    """What samples clips; one of files and settings can be sent to a worker."""

    def __call__(self) -> tuple[Generator, Solver]:
        """Loaded once per process, without a text encoder."""
        ...

    def text_encoder(self) -> TextEncoder:
        """The generator's, alone; loaded by each call."""
        ...


@dataclass(frozen=True)
class Job:
    """One clip to sample. `seed` determines its noise; equal seeds give equal noise whatever the method or the batch."""

    clip: str  # file name without suffix
    prompt: str
    seed: int
    weights: dict[str, float] | None = None  # of Flow-NRG's dimensions; None uses those of params.yaml
    image: str | None = None  # file of the first frame, for a generator that draws from one


@dataclass(frozen=True)
class ClassifierFree:
    """The velocity v(empty) + scale (v(text) - v(empty)), with scale_2 below the boundary of two transformers; the
    conditional velocity where the scale is 1, and where t is outside `interval` (guidance in a limited interval,
    Kynkäänniemi et al. 2024).

    text: the prompts' conditioning, B rows; empty: that of the empty or the negative prompt, one row.
    """

    model: VelocityModel
    text: Conditioning
    empty: Conditioning
    scale: float
    scale_2: float | None = None  # of the second of two transformers, where it differs
    interval: Sequence[float] = (0.0, 1.0)  # the lowest and the highest t

    def _without(self) -> Conditioning:
        """The empty prompt in each row; first frames stay."""
        return self.empty.expand(len(self.text)).over(self.text)

    def scale_at(self, t: float) -> float:
        boundary = self.model.boundary
        second = boundary is not None and self.scale_2 is not None and below(t, boundary)
        return self.scale_2 if second else self.scale  # pyright: ignore[reportReturnType]

    def guides(self, t: float) -> bool:
        """Whether a step at t needs the pass without the prompt."""
        return self.scale_at(t) != 1 and self.interval[0] <= t <= self.interval[1]

    def __call__(self, x: torch.Tensor, t: float) -> torch.Tensor:
        """Velocity [B, C, T', H', W'], both passes in one forward."""
        times = x.new_full((len(x),), t)
        if not self.guides(t):
            return self._pass(x, times, self.text)
        both = Conditioning.cat([self._without(), self.text])
        twice = x.repeat(2, *[1] * (x.ndim - 1))
        without, with_text = self._pass(twice, times.repeat(2), both).chunk(2)
        return without + self.scale_at(t) * (with_text - without)

    def _pass(self, x: torch.Tensor, times: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """One forward. A step cache keeps its state in the transformer, so the batch goes whole; batches of other sizes
        (best of N goes on with fewer rows) have a state of their own."""
        if not cached(self.model.transformer):
            return in_microbatches(self.model, x, times, conditioning)
        with self.model.transformer.cache_context(f"{len(x)} rows"):
            return self.model(x, times, conditioning)

    def guided(self, x: torch.Tensor, t: float, with_text: torch.Tensor) -> torch.Tensor:
        """The same from a v(text) that is already computed."""
        if not self.guides(t):
            return with_text
        times = x.new_full((len(x),), t)
        without = in_microbatches(self.model, x, times, self._without())
        return without + self.scale_at(t) * (with_text - without)


def noise_of(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def beginning(generator: Generator, jobs: list[Job], sampling: SamplingParams) -> tuple[ClassifierFree, torch.Tensor]:
    """The classifier-free velocity of a batch of jobs, and their noise [B, C, T', H', W']."""
    shape, device = generator.latent_shape(sampling.frames, sampling.height, sampling.width), generator.model.device
    family = generator.model.family
    images = image_conditioning(generator, [job.image for job in jobs], sampling)
    prompted = with_images(generator.encode_text([job.prompt for job in jobs]), images).to(device)
    text = with_settings(family, prompted, sampling)
    noise = torch.stack([noise_of(job.seed, shape) for job in jobs]).to(device)
    if sampling.guidance_scale_2 is not None and generator.model.boundary is None:
        raise BadInput("params.yaml", "the generator has one transformer", key="sampling.guidance_scale_2")
    if EMBEDDED in family.reads:
        if sampling.negative_prompt:
            why = "has no effect: this transformer is given the guidance scale, and makes one pass a step"
            raise BadInput("params.yaml", why, key="sampling.negative_prompt")
        return ClassifierFree(generator.model, text, text[[0]], 1.0), noise
    empty = with_settings(family, generator.encode_text([sampling.negative_prompt]).to(device), sampling)
    scales = sampling.guidance_scale, sampling.guidance_scale_2
    return ClassifierFree(generator.model, text, empty, *scales, sampling.guidance_interval), noise


def with_settings(family: Family, text: Conditioning, sampling: SamplingParams) -> Conditioning:
    """The conditioning of clips sampled so: of their text, and of the numbers that the family's transformer is given."""
    given = {name: torch.full((len(text),), float(getattr(sampling, name)), device=text.device) for name in family.reads}
    return Conditioning({**text.tensors, **given})


@torch.no_grad()
def solve(
    generator: Generator,
    jobs: list[Job],
    sampling: SamplingParams,
    around: Callable[[ClassifierFree, list[Job]], Velocity] | None = None,
) -> torch.Tensor:
    """Normalised latents [B, C, T', H', W'] of one batch of jobs. around: adds guidance (Flow-NRG) to the velocity; guided
    steps are computed in full, without a step cache."""
    flow, noise = beginning(generator, jobs, sampling)
    way = integration(generator, sampling)
    with speedups(generator.model.transformer, sampling, guided=around is not None):
        x = way.run(around(flow, jobs) if around else flow, noise, sampling.steps)
    return finished(generator, x, flow.text)


def finished(generator: Generator, x: torch.Tensor, text: Conditioning) -> torch.Tensor:
    """Latents after the last step, with the first frame that the family gives back."""
    family = generator.model.family
    return family.finish(x, text) if isinstance(family, WithImage) else x


@dataclass(frozen=True)
class Loaded:
    """Loader of a generator that is in this process already, all of it; it cannot be sent to a worker process."""

    generator: Generator
    solver: Solver = solve

    def __call__(self) -> tuple[Generator, Solver]:
        return self.generator, self.solver

    def text_encoder(self) -> TextEncoder:
        return self.generator.encode_text


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

    All prompts are encoded before the generator is loaded: at no time are text encoder and transformer both in memory.
    Finished batches are kept in the stage's state folder and are not drawn again after a kill. Processes that accelerate
    launched together share the batches, and nodes send them to each other. Otherwise `workers` of
    components/runtime/engine.py do, each loading its own generator (SamplerSpec of components/generator/spec.py). Every
    worker has as many threads as this process: the number of threads affects the last bits, so clips are the same for any
    number of workers. Workers that share cores need OMP_NUM_THREADS set to their share.
    """
    state = stage.state() / what
    state.mkdir(exist_ok=True)
    processes = launched_together()
    encode_ahead(state / TEXT, load, prompts_of(jobs, sampling))
    op = partial(draw_batch, load=load, sampling=sampling, state=state, threads=torch.get_num_threads())
    rows, share = [asdict(job) for job in jobs], (processes.process_index, processes.num_processes)
    made = map_chunks(op, rows, workers, sampling.batch_size, state, stage.progress, what, engine, gpu=True, share=share)
    processes.wait_for_everyone()
    send(state, [name for row in made for name in row["files"]])
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        shutil.copyfile(state / f"{job.clip}.mp4", folder / f"{job.clip}.mp4")
    return [load_file(latents_file(state, job))["latents"] for job in jobs[:: sampling.batch_size]]


def prompts_of(jobs: list[Job], sampling: SamplingParams) -> list[str]:
    """What is to be encoded before these jobs are drawn."""
    return [*(job.prompt for job in jobs), sampling.negative_prompt]


@torch.no_grad()
def draw_batch(rows: list[Row], load: Loader, sampling: SamplingParams, state: Path, threads: int) -> list[Row]:
    """Sample jobs given as dicts and write their clips and latents to `state`, which has their encoded prompts; returns the
    digests of both."""
    torch.set_num_threads(threads)
    loaded, solver = load()
    generator = loaded.with_text(EncodedPrompts(state / TEXT))
    if isinstance(generator, EncodesImages):
        generator = generator.keeping(state / IMAGES)
    jobs = [Job(**row) for row in rows]
    x0 = solver(generator, jobs, sampling)
    for job, clip in zip(jobs, generator.decode(x0, sampling.decoding), strict=True):
        write_video(state / f"{job.clip}.mp4", clip, sampling.fps)
    save_file({"latents": x0.cpu().contiguous()}, latents_file(state, jobs[0]))
    made = [[state / f"{job.clip}.mp4"] for job in jobs]
    made[0].append(latents_file(state, jobs[0]))
    return [{"files": {file.name: file_digest(file) for file in files}} for files in made]


def latents_file(state: Path, first: Job) -> Path:
    """The latents file of the batch that begins with this job."""
    return state / f"{first.clip}.safetensors"
