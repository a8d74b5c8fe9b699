"""Solvers that a latent reward model or VideoReward has a say in, for the stage `sample` and `reelign generate`."""

from functools import partial
from pathlib import Path

from components.errors import BadInput
from components.generator.sampler import Solver, solve
from components.generator.wan import Generator
from components.guidance.best_of_n import best_of_early, best_of_videos
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import LatentReward, load_latent_reward
from components.params import BestOfNParams, NrgParams
from components.reward.score import RewardModel
from components.stage import folder_digest


def guided_solver(generator: Generator, base: Path, model: Path, params: NrgParams, adapted: bool = False) -> Solver:
    """Flow-NRG by the latent reward model in folder `model`; a job may bring weights of its own. `base` is the generator's
    folder; adapted: its transformer has a LoRA on."""
    reward = own_latent_reward(generator, base, model, adapted)
    return partial(solve, around=lambda flow, jobs: flow_nrg(flow, reward, flow.text, params, [job.weights for job in jobs]))


def best_solver(generator: Generator, base: Path, model: Path, params: BestOfNParams, adapted: bool = False) -> Solver:
    """The best of params.n clips by the model in folder `model`, which is of the kind `params.judge`."""
    if params.judge == "video_reward":
        return partial(best_of_videos, n=params.n, model=RewardModel.load(model), weights=params.weights)
    reward = own_latent_reward(generator, base, model, adapted)
    return partial(best_of_early, n=params.n, look=params.look, reward=reward, weights=params.weights)


def own_latent_reward(generator: Generator, base: Path, model: Path, adapted: bool) -> LatentReward:
    """The latent reward model of this generator. A frozen trunk is the generator without a LoRA, so one with it is refused;
    a tuned trunk has weights of its own and may guide both."""
    reward = load_latent_reward(model, generator.transformer, folder_digest(base))
    if reward.frozen and adapted:
        raise BadInput(model, "reads the base generator's own blocks (trunk: frozen), which --lora changes", key="frozen")
    return reward
