"""Flow-GRPO on a window of sampling steps (J. Liu et al., 2025, "Flow-GRPO"; J. Li et al., 2025, "MixGRPO").

Sampling is an ODE apart from `window` steps, which are those of an SDE of the same marginals. From t to t + dt, dt < 0:

    mean = x + [v + s^2 / (2 t) (x + (1 - t) v)] dt,   s = noise sqrt(t / (1 - t))
    x'   = mean + s sqrt(-dt) e,                        e standard normal
    log p(x' | x) = -|x' - mean|^2 / (2 s^2 (-dt)) + constant

Each of these steps is an action, and the clip's advantage A is its reward against the other clips of its prompt:

    loss = max(-A ratio, -A clip(ratio, 1 - c, 1 + c)) + kl |mean - mean_ref|^2 / (2 s^2 (-dt))

ratio is p / p_old, p_old the policy that drew the clip, and the reference is base. As in the authors' code, log p and the
KL divergence are means over a clip's latents, not sums. v is the guided velocity that draws clips.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from components.alignment.advantages import advantages
from components.alignment.data import Candidates
from components.alignment.flow import squared_errors
from components.alignment.lora import adapters_off
from components.alignment.weights import Weights, exchanged
from components.config.online import GrpoParams
from components.config.params import SamplingParams
from components.errors import BadInput
from components.files.atomic import whole_file
from components.generator.conditioning import Conditioning
from components.generator.family import Generator, TextEncoder, VelocityModel
from components.generator.integration import euler, shift_of, timesteps
from components.generator.sampler import Job, Loader, Solver, beginning, noise_of
from components.pipeline.stage import Stage, seed_of
from components.runtime.training import fit
from components.runtime.weights import load_tensors

STATES = ".states"  # in the name of a file of states


def step_of(
    x: torch.Tensor, velocity: torch.Tensor, t: torch.Tensor, dt: torch.Tensor, noise: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [B, C, T', H', W'] and standard deviation, with as many axes, of one SDE step from t [B] in (0, 1) by dt [B]."""
    t, dt = (value.view(-1, *[1] * (x.ndim - 1)) for value in (t, dt))
    s = noise * (t / (1 - t)).sqrt()
    mean = x + (velocity + s**2 / (2 * t) * (x + (1 - t) * velocity)) * dt
    return mean, s * (-dt).sqrt()


def log_probability(after: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """log p(after) [B] without its constant, which ratios do not need; the mean over a clip's latents."""
    return -squared_errors(after / deviation, mean / deviation, "mean") / 2


def grpo_loss(
    new: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and logged values from log-probabilities [B] of policy and old policy and advantages [B]."""
    ratio = (new - old).exp()
    losses = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))
    logs = {"ratio_off": (ratio - 1).abs().mean(), "clipped": ((ratio - 1).abs() > clip).float().mean()}
    return losses.mean(), {name: value.detach() for name, value in logs.items()}


def window_of(times: list[float], params: GrpoParams) -> list[float]:
    """The solver's times before each noisy step, and after the last. BadInput where the window begins at pure noise, or goes
    beyond the last step."""
    end = params.first + params.window
    if end >= len(times):
        why = f"steps {params.first} to {end - 1}, counted from 0, of {len(times) - 1} steps of sampling"
        raise BadInput("params.yaml", why, key="online.grpo.window")
    if times[params.first] >= 1:
        raise BadInput("params.yaml", "that step begins at pure noise, where s is infinite; take 1", key="online.grpo.first")
    return times[params.first : end + 1]


@dataclass(frozen=True)
class WindowSpec:
    """Loader of `inner` that samples with noise in the window, and keeps the states around its steps in `folder`."""

    inner: Loader
    params: GrpoParams
    folder: Path

    def __call__(self) -> tuple[Generator, Solver]:
        return self.inner()[0], self.solve

    def text_encoder(self) -> TextEncoder:
        return self.inner.text_encoder()

    @torch.no_grad()
    def solve(self, generator: Generator, jobs: list[Job], sampling: SamplingParams) -> torch.Tensor:
        """Normalised latents [B, C, T', H', W']; the states [B, W + 1, C, T', H', W'] go to the file of the batch."""
        flow, x = beginning(generator, jobs, sampling)
        times = euler_times(sampling, generator.scheduler)
        window = window_of(times, self.params)
        x = euler(flow, x, times[: self.params.first + 1])
        states = [x]
        for number, (t, after) in enumerate(pairwise(window)):
            rows = x.new_ones(len(x))
            mean, deviation = step_of(x, flow(x, t), rows * t, rows * (after - t), self.params.noise)
            noise = [noise_of(seed_of(job.seed, "step", number), tuple(x.shape[1:])) for job in jobs]
            x = mean + deviation * torch.stack(noise).to(x.device)
            states.append(x)
        with whole_file(states_file(self.folder, jobs[0].clip), sync=False) as partial:
            kept = {"states": torch.stack(states, 1).cpu().contiguous(), "times": torch.tensor(window)}
            save_file(kept, partial)
        return euler(flow, x, times[self.params.first + self.params.window :])


def euler_times(sampling: SamplingParams, scheduler: Mapping[str, Any]) -> list[float]:
    """t before each Euler step, and 0. scheduler: configuration of the generator's folder, for its shift. BadInput for
    another solver, whose steps have no such log-probability."""
    if sampling.solver != "euler":
        raise BadInput("params.yaml", f"is {sampling.solver}; this method needs euler", key="sampling.solver")
    if sampling.timesteps is not None:
        return [*sampling.timesteps, 0.0]
    return timesteps(sampling.steps, sampling.shift or shift_of(scheduler))


def states_file(folder: Path, clip: str) -> Path:
    return folder / f"{clip}{STATES}.safetensors"


def forget_damaged(folder: Path) -> None:
    """Remove batches of clips in `folder` whose states are missing or damaged, so that they are drawn anew."""
    for latents in sorted(folder.glob("*.safetensors")):
        file = states_file(folder, latents.stem)
        if latents.stem.endswith(STATES):
            continue
        try:
            load_tensors(file)
        except BadInput:
            file.unlink(missing_ok=True)
            latents.unlink()  # `draw` names the batch, and draws it anew


def read_states(folder: Path, clips: list[str], batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States [N, W + 1, C, T', H', W'] of `clips` in the order that they were drawn in, `batch` at a time, and their times
    [W + 1]."""
    files = [load_tensors(states_file(folder, clip)) for clip in clips[::batch]]
    return torch.cat([file["states"] for file in files]), files[0]["times"]


def train_grpo(
    stage: Stage,
    transformer: VelocityModel,
    candidates: Candidates,
    rewards: np.ndarray,
    old: Weights,
    states: torch.Tensor,
    times: torch.Tensor,
    empty: Conditioning,
    params: GrpoParams,
    name: str,
    before: int,
) -> list[dict[str, float]]:
    """Train on the noisy steps of one round's clips with their rewards [N]; returns the logged rows.

    old: weights of the policy that drew the clips. states, times: of read_states. empty: conditioning of the negative
    prompt, one row. name, before: of `fit`.
    """
    advantage = torch.from_numpy(advantages(rewards, candidates.table.prompt_id.to_numpy(), params.scale)).float()
    scale, device, steps = stage.params.sampling.guidance_scale, transformer.device, len(times) - 1

    def loss_fn(model: Any, indices: list[int], draw: torch.Generator) -> tuple[torch.Tensor, dict[str, Any]]:
        clips, places = np.array(indices) // steps, np.array(indices) % steps
        x, after = (states[clips, places + more].to(device) for more in (0, 1))
        t, dt = (value.to(device) for value in (times[places], times[places + 1] - times[places]))
        text = candidates.text(clips).to(device)

        def mean_of() -> tuple[torch.Tensor, torch.Tensor]:
            return step_of(x, guided(model, x, t, text, empty.to(device), scale), t, dt, params.noise)

        with exchanged(transformer, old):
            mean, deviation = mean_of()
            previous = log_probability(after, mean, deviation)
        mean, deviation = mean_of()
        loss, logs = grpo_loss(log_probability(after, mean, deviation), previous, advantage[clips].to(device), params.clip)
        if params.kl:
            with torch.no_grad(), adapters_off(transformer):
                base, _ = mean_of()
            divergence = -log_probability(base, mean, deviation).mean()
            loss, logs = loss + params.kl * divergence, logs | {"kl": divergence.detach()}
        return loss, logs

    count = len(rewards) * steps
    return fit(
        stage, transformer, loss_fn, count, params.training, offload=stage.params.align.offload, name=name, before=before
    )


def guided(
    model: VelocityModel, x: torch.Tensor, t: torch.Tensor, text: Conditioning, empty: Conditioning, scale: float
) -> torch.Tensor:
    """ClassifierFree's velocity for rows of unlike t [B]. What `empty` has no tensor for is as in `text`."""
    if scale == 1:
        return model(x, t, text)
    both = Conditioning.cat([empty.expand(len(text)).over(text), text])
    without, with_text = model(x.repeat(2, *[1] * (x.ndim - 1)), t.repeat(2), both).chunk(2)
    return without + scale * (with_text - without)
