"""Section `align` of params.yaml: SFT, Flow-RWR and Flow-DPO."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.config.types import Count, Expert, Fraction, LoraParams, Positive, Section, TrainingParams, offloadable


class TimestepParams(Section):
    """Distribution of training timesteps on [0, 1] (components/alignment/flow.py)."""

    distribution: Literal["uniform", "logit_normal"]
    shift: Positive


class SftParams(Section):
    prompt_dropout: Fraction
    training: TrainingParams


class RwrParams(Section):
    """Reward weighting (components/alignment/methods/flow_rwr.py); `clip` is the largest weight of a clip, null is no
    bound."""

    prompt_dropout: Fraction
    training: TrainingParams
    weighting: Literal["exp", "mean_one", "per_prompt"]
    temperature: Positive
    clip: Positive | None


class DpoParams(Section):
    """Flow-DPO (components/alignment/methods/flow_dpo.py). `validation` is the share of prompts whose pairs are held out.
    Training ends when their implicit accuracy has not risen for `patience` validations, and keeps the weights of its
    maximum."""

    training: TrainingParams
    beta: Positive
    schedule: Literal["constant", "squared"]
    reduction: Literal["sum", "mean"]
    theta: Annotated[float, Field(ge=1)]
    sft_weight: Annotated[float, Field(ge=0)]
    validation: Annotated[float, Field(ge=0, lt=1)]
    patience: Count | None
    gradient_factor: Annotated[float, Field(gt=0, lt=0.5)] | None  # None keeps beta as it is

    @model_validator(mode="after")
    def patience_needs_validation(self) -> "DpoParams":
        if self.patience is not None and not self.validation:
            raise ValueError("patience needs a validation accuracy: validation must be above 0")
        return self


class AlignParams(Section):
    """Params common to the three methods. The reference's errors are cached for `draws` of (timestep, noise) per pair.
    `rounds` after the first name the LoRA they start from: {"2": models/aligned/dpo, "3": models/rounds/2}
    (components/online/rounds.py)."""

    lora: LoraParams
    experts: Literal["both"] | Expert  # that train, of a generator with two transformers, each on its own timesteps
    timesteps: TimestepParams
    draws: Count
    reference: Literal["cached", "live"]
    gradient_checkpointing: bool  # less memory, more time
    offload: bool  # inputs of checkpointed layers wait in the host's memory for the backward pass
    compile: bool  # less memory and less time, after half a minute of compiling; needs a C++ compiler
    rounds: dict[str, str]
    sft: SftParams
    rwr: RwrParams
    dpo: DpoParams

    @model_validator(mode="after")
    def offload_needs_checkpointing(self) -> "AlignParams":
        return offloadable(self)

    @property
    def trained_experts(self) -> tuple[Expert, ...]:
        return ("high_noise", "low_noise") if self.experts == "both" else (self.experts,)

    @model_validator(mode="after")
    def rounds_follow_each_other(self) -> "AlignParams":
        names = ["models/aligned/dpo", *(f"models/rounds/{number}" for number in self.rounds)]
        wanted = {str(number): name for number, name in enumerate(names[: len(self.rounds)], start=2)}
        if self.rounds != wanted:
            raise ValueError(f"each round starts from the one before: {wanted} was expected")
        if self.rounds and self.reference == "live":
            raise ValueError("rounds need reference 'cached': the reference is the round before, not the base")
        return self
