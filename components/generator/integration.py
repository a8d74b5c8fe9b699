"""Integration of a flow from t = 1 (noise) to t = 0 (clip): Euler steps, or a scheduler of diffusers."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Protocol

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin

from components.config.params import SamplingParams
from components.errors import BadInput
from components.generator.family import Generator, Layout
from components.generator.parts import SCHEDULER

Velocity = Callable[[torch.Tensor, float], torch.Tensor]  # (x_t [B, C, T', H', W'], t) -> velocity of the same shape
# Schedulers of the folder that integrate a flow's velocity, and the name of their shift.
SHIFTS = {
    "UniPCMultistepScheduler": "flow_shift",
    "DPMSolverMultistepScheduler": "flow_shift",
    "FlowMatchEulerDiscreteScheduler": "shift",
    "FlowMapEulerDiscreteScheduler": "shift",
}
DYNAMIC = "use_dynamic_shifting"  # of FlowMatchEulerDiscreteScheduler: by the number of tokens, in place of its shift
UNIPC = "UniPCMultistepScheduler"
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}  # what makes UniPC and DPM-Solver read a velocity
PURE_NOISE = 0.9985  # from this t on, x_t is noise: schedulers cut the timestep of t = 1 to 999 of 1000


class Integration(Protocol):
    """One batch on its way from noise to clips. times: t before each step, and 0 after the last."""

    times: list[float]

    def run(self, flow: Velocity, x: torch.Tensor, steps: int) -> torch.Tensor:
        """x [B, C, T', H', W'] after the next `steps` steps along `flow`."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these rows of the batch alone."""


class Euler:
    """dx/dt = v by Euler steps."""

    def __init__(self, times: list[float]):
        self.times, self.done = times, 0

    def run(self, flow: Velocity, x: torch.Tensor, steps: int) -> torch.Tensor:
        part = self.times[self.done : self.done + steps + 1]
        self.done += steps
        return euler(flow, x, part)

    def keep(self, rows: torch.Tensor) -> None:
        pass


class Scheduled:
    """Steps of a scheduler of diffusers, as the family's pipeline takes them. The transformer gets the scheduler's own
    timestep, which may be cut to a whole number of thousandths. The scheduler's steps are set already."""

    def __init__(self, scheduler: SchedulerMixin, time: Callable[[torch.Tensor], float], output: Layout):
        """time: t of a timestep. output: what the scheduler takes, of a velocity."""
        self.scheduler: Any = scheduler
        self.output, self.done = output, 0
        self.times = [time(timestep) for timestep in self.scheduler.timesteps] + [0.0]

    def run(self, flow: Velocity, x: torch.Tensor, steps: int) -> torch.Tensor:
        for timestep, t in zip(self.scheduler.timesteps[self.done :][:steps], self.times[self.done :], strict=False):
            x = self.scheduler.step(self.output(flow(x, t)), timestep, x, return_dict=False)[0]
        self.done += steps
        return x

    def keep(self, rows: torch.Tensor) -> None:
        """The earlier steps that a multistep scheduler remembers lose the same rows."""
        for name, value in vars(self.scheduler).items():
            if name == "model_outputs":
                setattr(self.scheduler, name, [None if output is None else output[rows] for output in value])
            elif name in ("last_sample", "sample") and value is not None:
                setattr(self.scheduler, name, value[rows])


def integration(generator: Generator, sampling: SamplingParams) -> Integration:
    """A new integration of one batch. BadInput for a folder whose scheduler integrates no velocity."""
    config, family = generator.scheduler, generator.model.family
    if sampling.timesteps is not None:
        return Euler([*sampling.timesteps, 0.0])
    if sampling.solver == "euler":
        return Euler(timesteps(sampling.steps, sampling.shift or shift_of(config)))
    if sampling.solver == "unipc" and config.get("_class_name") != UNIPC:
        scheduler: Any = flow_scheduler({"_class_name": UNIPC, "flow_shift": shift_of(config), **FLOW}, sampling.shift)
        scheduler.set_timesteps(sampling.steps)
        return Scheduled(scheduler, lambda timestep: float(timestep) / scheduler.config.num_train_timesteps, lambda v: v)
    scheduler = flow_scheduler(config, sampling.shift)
    family.set_timesteps(scheduler, sampling.steps, generator.latent_shape(sampling.frames, sampling.height, sampling.width))
    return Scheduled(scheduler, family.pipeline_time, family.pipeline_velocity)


def in_words(config: Mapping[str, Any], sampling: SamplingParams) -> str:
    """Solver, shift and steps."""
    solver = {"euler": "Euler steps", "unipc": UNIPC, "folder": config.get("_class_name")}[sampling.solver]
    shift = f"shift {sampling.shift or shift_of(config):g}" if sampling.timesteps is None else "timesteps of params.yaml"
    if sampling.solver == "folder" and sampling.shift is None and config.get(DYNAMIC):
        shift = "a shift by the clip's size"
    return f"{solver}, {shift}, {sampling.steps} steps"


def flow_scheduler(config: Mapping[str, Any], shift: float | None) -> SchedulerMixin:
    """The scheduler of a configuration, with this shift or its own; BadInput where it does not integrate a velocity."""
    name = config.get("_class_name")
    if name not in SHIFTS:
        raise BadInput(SCHEDULER, f"{name} integrates no velocity; set sampling.solver to euler or unipc", key="_class_name")
    own = {} if shift is None else {SHIFTS[name]: shift} | ({DYNAMIC: False} if DYNAMIC in config else {})
    scheduler = getattr(diffusers, name).from_config({**config, **own})
    for key, value in FLOW.items():
        if key in scheduler.config and scheduler.config[key] != value:
            why = f"is {scheduler.config[key]!r}, a flow needs {value!r}; set sampling.solver to euler or unipc"
            raise BadInput(SCHEDULER, why, key=key)
    return scheduler


def shift_of(config: Mapping[str, Any]) -> float:
    """The shift of a scheduler's configuration; 1 where it has none."""
    return float(config.get("flow_shift", config.get("shift", 1.0)))


def timesteps(steps: int, shift: float) -> list[float]:
    """steps + 1 values from 1 to 0; shift > 1 puts more of them at high noise: s t / (1 + (s - 1) t)."""
    return [shift * t / (1 + (shift - 1) * t) for t in np.linspace(1, 0, steps + 1).tolist()]


def euler(flow: Velocity, noise: torch.Tensor, times: list[float]) -> torch.Tensor:
    """Integrate dx/dt = v from the first of `times` to the last."""
    x = noise
    for t, after in pairwise(times):
        x = x + (after - t) * flow(x, t)
    return x
