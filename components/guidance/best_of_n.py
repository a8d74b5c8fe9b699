"""Best of N: sample several clips of a prompt and keep the one with the highest reward (rejection sampling).

With VideoReward all N are sampled to the end. With the latent reward model they are sampled up to step `rank_step`, where it
ranks the noisy latents; only the best is finished.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from components.config.params import BestOfNParams, SamplingParams
from components.errors import BadInput
from components.generator.family import Generator, TextEncoder
from components.generator.integration import integration
from components.generator.sampler import Job, Solver, beginning, finished, solve
from components.generator.spec import SamplerSpec
from components.generator.speedups import speedups
from components.guidance.latent_reward import LatentReward, dimension_weights, latent_reward_once
from components.reward.score import Clip, RewardModel
from components.reward.scores import Unscored


@dataclass(frozen=True)
class BestOfNSpec:
    """A generator, and the folder of the reward model that ranks its clips: VideoReward or the latent reward model, as
    `best.judge` names it."""

    sampler: SamplerSpec
    best: BestOfNParams
    reward: str

    def __call__(self) -> tuple[Generator, Solver]:
        best, (generator, _) = self.best, self.sampler()
        if best.judge == "video_reward":
            model = video_reward_once(self.reward)
            return generator, partial(best_of_videos, n=best.n, model=model, weights=best.weights)
        reward = latent_reward_once(self.sampler, self.reward)
        return generator, partial(best_of_early, n=best.n, rank_step=best.rank_step, reward=reward, weights=best.weights)

    def text_encoder(self) -> TextEncoder:
        return self.sampler.text_encoder()


@functools.cache
def video_reward_once(folder: str) -> RewardModel:
    return RewardModel.load(folder)


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
    rank_step: int,
    reward: LatentReward,
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Normalised latents [B, C, T', H', W'] of the selected clips. rank_step: steps after which the reward model ranks, at
    least 1 (earlier latents are pure noise) and at most all."""
    if not 1 <= rank_step <= sampling.steps:
        raise BadInput(
            "params.yaml", f"{rank_step} is not between 1 and the {sampling.steps} steps", key="best_of_n.rank_step"
        )
    way = integration(generator, sampling)
    flow, noise = beginning(generator, several(jobs, n), sampling)
    with speedups(generator.model.transformer, sampling):
        x = way.run(flow, noise, rank_step)
        t = x.new_full((len(x),), way.times[rank_step])
        scores = reward(x, t, flow.text) @ dimension_weights(reward, weights, x.device)
        best = scores.view(-1, n).argmax(dim=1) + n * torch.arange(len(jobs), device=x.device)
        way.keep(best)
        x = way.run(replace(flow, text=flow.text[best]), x[best], sampling.steps - rank_step)
    return finished(generator, x, flow.text[best])


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
    clips = [Clip(clip, float(sampling.fps)) for clip in generator.decode(x, sampling.decoding)]
    scores = model.score([(clip, job.prompt) for clip, job in zip(clips, many, strict=True)])
    totals = []
    for job, score in zip(many, scores, strict=True):
        if isinstance(score, Unscored):
            raise BadInput(job.clip, f"VideoReward has no score: {score.reason}", key=f"seed {job.seed}")
        totals.append(sum(weight * score.normalised[name] for name, weight in weights.items()))
    return x[torch.from_numpy(np.array(totals).reshape(-1, n).argmax(1)) + n * torch.arange(len(jobs))]
