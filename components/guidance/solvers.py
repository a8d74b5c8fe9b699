"""Generator and solver of a method, for the stage `sample` and `reelign generate`: a generator, optionally with a LoRA, and
guidance or best of N."""

import functools
from dataclasses import dataclass
from functools import partial

from components.errors import BadInput
from components.generator.sampler import Solver, solve
from components.generator.wan import Generator, load_generator
from components.guidance.best_of_n import best_of_early, best_of_videos
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import LatentReward, load_latent_reward
from components.params import BestOfNParams, Dtype, NrgParams
from components.reward.score import RewardModel
from components.stage import folder_digest


@dataclass(frozen=True)
class Drawer:
    """Folders and settings; a call loads the models once per process, so that a Drawer can be sent to a worker.

    `guidance` is Flow-NRG's, where a job may have its own weights, or best of N's; `reward` is the folder of the latent
    reward model, or of the VideoReward that judges best of N.
    """

    base: str
    lora: str | None = None
    dtype: Dtype = "float32"
    guidance: NrgParams | BestOfNParams | None = None
    reward: str | None = None

    def __call__(self) -> tuple[Generator, Solver]:
        files, guidance = (self.base, self.lora, self.dtype), self.guidance
        generator = generator_once(*files)
        if guidance is None:
            return generator, solve
        if isinstance(guidance, BestOfNParams) and guidance.judge == "video_reward":
            model = video_reward_once(self.reward)
            return generator, partial(best_of_videos, n=guidance.n, model=model, weights=guidance.weights)
        reward = latent_reward_once(*files, self.reward)
        if isinstance(guidance, BestOfNParams):
            settings = {"n": guidance.n, "look": guidance.look, "weights": guidance.weights}
            return generator, partial(best_of_early, reward=reward, **settings)
        return generator, partial(
            solve, around=lambda flow, jobs: flow_nrg(flow, reward, flow.text, guidance, [job.weights for job in jobs])
        )


@functools.cache
def generator_once(base: str, lora: str | None, dtype: Dtype) -> Generator:
    return load_generator(base, lora, dtype)


@functools.cache
def video_reward_once(folder: str) -> RewardModel:
    return RewardModel.load(folder)


@functools.cache
def latent_reward_once(base: str, lora: str | None, dtype: Dtype, folder: str) -> LatentReward:
    """The latent reward model of this generator. A frozen trunk needs the generator without a LoRA; a tuned trunk has its
    own weights and may guide either."""
    reward = load_latent_reward(folder, generator_once(base, lora, dtype).transformer, folder_digest(base))
    if reward.frozen and lora is not None:
        raise BadInput(folder, "reads the base generator's blocks (trunk: frozen), which --lora changes", key="frozen")
    return reward
