"""Best of N: sample several clips of a prompt and keep the one with the highest reward (rejection sampling).

With VideoReward all N are sampled to the end. With the latent reward model they are sampled up to step `look`, where it
ranks the noisy latents; only the best is finished.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from components.errors import BadInput
from components.generator.sampler import Job, beginning, euler, solve, timesteps
from components.generator.wan import Generator
from components.guidance.flow_nrg import dimension_weights
from components.guidance.latent_reward import LatentReward
from components.params import SamplingParams
from components.reward.score import Clip, RewardModel
from components.reward.scores import Unscored


def several(jobs: list[Job], n: int) -> list[Job]:
    """n consecutive jobs for each job; the first keeps the job's seed, so that N = 1 is plain sampling."""
    seeds = {job.seed: np.random.SeedSequence(job.seed).generate_state(n, np.uint32).tolist() for job in jobs}
    return [replace(job, seed=job.seed if k == 0 else seeds[job.seed][k]) for job in jobs for k in range(n)]


@torch.no_grad()
def best_of_early(
    generator: Generator,
    jobs: list[Job],
    sampling: SamplingParams,
    n: int,
    look: int,
    reward: LatentReward,
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Normalised latents [B, C, T', H', W'] of the selected clips. look: steps after which the reward model ranks, at least
    1 (earlier latents are pure noise) and at most all."""
    if not 1 <= look <= sampling.steps:
        raise BadInput("params.yaml", f"{look} is not between 1 and the {sampling.steps} steps", key="best_of_n.look")
    times = timesteps(sampling.steps, sampling.shift)
    flow, noise = beginning(generator, several(jobs, n), sampling)
    x = euler(flow, noise, times[: look + 1])
    scores = reward(x, x.new_full((len(x),), times[look]), flow.text) @ dimension_weights(reward, weights, x)
    best = scores.view(-1, n).argmax(dim=1) + n * torch.arange(len(jobs), device=x.device)
    return euler(replace(flow, text=flow.text[best]), x[best], times[look:])


@torch.no_grad()
def best_of_videos(
    generator: Generator,
    jobs: list[Job],
    sampling: SamplingParams,
    n: int,
    model: RewardModel,
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Normalised latents [B, C, T', H', W'] of the clips with the highest weighted normalised score of VideoReward. BadInput
    where a clip cannot be scored: the best of fewer clips would not be best of N."""
    unknown = sorted(weights.keys() - set(model.dimensions))
    if unknown:
        raise BadInput("params.yaml", f"VideoReward has only {', '.join(model.dimensions)}", key=f"weights.{unknown[0]}")
    many = several(jobs, n)
    x = solve(generator, many, sampling)
    clips = [Clip(clip, float(sampling.fps)) for clip in generator.decode(x)]
    scores = model.score([(clip, job.prompt) for clip, job in zip(clips, many, strict=True)])
    for job, score in zip(many, scores, strict=True):
        if isinstance(score, Unscored):
            raise BadInput(job.clip, f"VideoReward has no score: {score.reason}", key=f"seed {job.seed}")
    totals = np.array([sum(weight * score.normalised[name] for name, weight in weights.items()) for score in scores])
    return x[torch.from_numpy(totals.reshape(-1, n).argmax(1)) + n * torch.arange(len(jobs))]
