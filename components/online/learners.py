"""The methods that learn from rounds, each as the loop calls it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from components.alignment.data import pairs_of
from components.alignment.methods.diffusion_nft import train_nft
from components.alignment.methods.flow_dpo import train_dpo
from components.alignment.methods.flow_grpo import WindowSpec, forget_damaged, read_states, train_grpo
from components.alignment.relabel import choose_pairs
from components.alignment.weights import Weights, exchanged
from components.config.params import DpoParams
from components.errors import BadInput
from components.generator.family import VelocityModel
from components.generator.prompts import TEXT, EncodedPrompts
from components.generator.sampler import Loader
from components.generator.spec import SamplerSpec
from components.online.loop import Drawn, Learner, Rows
from components.pipeline.stage import Stage


@dataclass(frozen=True)
class Nft:
    """DiffusionNFT. v_old is an average of policies by `old_decay`; any solver draws."""

    stage: Stage

    @property
    def steps(self) -> int:
        return self.stage.params.online.nft.training.steps

    @property
    def old_decay(self) -> float:
        return self.stage.params.online.nft.old_decay

    def sampler(self, spec: SamplerSpec, draws: Path) -> Loader:
        return spec

    def learn(self, transformer: VelocityModel, drawn: Drawn, old: Weights) -> Rows:
        params = self.stage.params.online.nft
        return train_nft(self.stage, transformer, drawn.candidates, drawn.rewards, old, params, drawn.name, drawn.before)


@dataclass(frozen=True)
class Grpo:
    """Flow-GRPO. The old policy is the one that drew."""

    stage: Stage
    old_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.stage.params.online.first_on_candidates:
            why = "data/candidates has no noisy steps, which grpo learns from"
            raise BadInput("params.yaml", why, key="online.first_on_candidates")

    @property
    def steps(self) -> int:
        return self.stage.params.online.grpo.training.steps

    def sampler(self, spec: SamplerSpec, draws: Path) -> Loader:
        forget_damaged(draws)
        return WindowSpec(spec, self.stage.params.online.grpo, draws)

    def learn(self, transformer: VelocityModel, drawn: Drawn, old: Weights) -> Rows:
        params, sampling = self.stage.params.online.grpo, self.stage.params.sampling
        states, times = read_states(drawn.draws, drawn.scores.candidate_id.tolist(), sampling.batch_size)
        empty = EncodedPrompts(drawn.draws / TEXT)([sampling.negative_prompt])
        clips = (drawn.candidates, drawn.rewards)
        return train_grpo(self.stage, transformer, *clips, old, states, times, empty, params, drawn.name, drawn.before)


@dataclass(frozen=True)
class Dpo:
    """Flow-DPO in rounds (iterative DPO): the reference is the policy that drew the round's clips."""

    stage: Stage
    old_decay: float = 0.0

    @property
    def settings(self) -> DpoParams:
        params = self.stage.params
        return params.align.dpo.model_copy(update={"training": params.online.dpo.training})

    @property
    def steps(self) -> int:
        return self.settings.training.steps

    def sampler(self, spec: SamplerSpec, draws: Path) -> Loader:
        return spec

    def learn(self, transformer: VelocityModel, drawn: Drawn, old: Weights) -> Rows:
        found = choose_pairs(drawn.scores.to_dict("records"), self.stage.params.relabel)
        if not found:
            raise BadInput(drawn.name, "no pair has a margin above the minimum", key="relabel.min_margin")
        pairs = pairs_of(drawn.candidates, pd.DataFrame(found), drawn.draws)
        reference = partial(exchanged, transformer, old)
        rows, _ = train_dpo(
            self.stage, transformer, pairs, self.settings, reference=reference, name=drawn.name, before=drawn.before
        )
        return rows


LEARNERS: dict[str, Callable[[Stage], Learner]] = {"nft": Nft, "grpo": Grpo, "dpo": Dpo}
