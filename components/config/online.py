"""Section `online` of params.yaml: alignment on clips of the current policy, round by round."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from components.config.types import Count, Dimension, Positive, Section, TrainingParams
from components.methods import ONLINE


class IterativeDpoParams(Section):
    """Flow-DPO in rounds, with the settings of align.dpo apart from these. `training.steps` are those of one round."""

    training: TrainingParams


class NftParams(Section):
    """DiffusionNFT (components/alignment/methods/diffusion_nft.py). `training.steps` are those of one round."""

    training: TrainingParams
    beta: Positive
    scale: Positive
    old_decay: Annotated[float, Field(ge=0, lt=1)]
    anchor: Annotated[float, Field(ge=0)]


class GrpoParams(Section):
    """Flow-GRPO (components/alignment/methods/flow_grpo.py). `training.steps` are those of one round. `window`: sampling
    steps with noise, from `first` on, counted from 0."""

    training: TrainingParams
    noise: Positive
    first: Annotated[int, Field(ge=0)]
    window: Count
    scale: Positive
    clip: Positive
    kl: Annotated[float, Field(ge=0)]


class PrflParams(Section):
    """PRFL (components/online/prfl.py): the latent reward's gradient at one sampling step, between `first` and `last`, each
    counted from 0, alternating with flow matching on the chosen candidates."""

    training: TrainingParams
    weights: dict[Dimension, float]
    target: float
    strength: Positive
    first: Annotated[int, Field(ge=0)]
    last: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def last_is_not_before_first(self) -> "PrflParams":
        if self.last < self.first:
            raise ValueError(f"last {self.last} is before first {self.first}")
        return self


class OnlineParams(Section):
    """`rounds` of each online method that the graph has, by name; {} is none. A round draws `per_prompt` clips of each of
    `prompts` training prompts, other ones each round until all were drawn. `first_on_candidates`: round 1 learns from
    data/candidates, which base drew, with the scores of stage `relabel`."""

    rounds: dict[str, Count]
    prompts: Count
    per_prompt: Annotated[int, Field(ge=2)]
    first_on_candidates: bool
    nft: NftParams
    grpo: GrpoParams
    prfl: PrflParams
    dpo: IterativeDpoParams

    @field_validator("rounds")
    @classmethod
    def of_known_methods(cls, rounds: dict[str, int]) -> dict[str, int]:
        if unknown := sorted(set(rounds) - set(ONLINE)):
            raise ValueError(f"no online method {unknown[0]}; components/methods.py has {', '.join(ONLINE)}")
        return rounds
