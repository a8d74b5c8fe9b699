"""Section `align` of params.yaml: SFT, Flow-RWR and Flow-DPO."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.param_types import Count, Fraction, LoraParams, Positive, Section, TrainingParams


class TimestepParams(Section):
    """Where on [0, 1] alignment trains (components/alignment/flow.py)."""

    distribution: Literal["uniform", "logit_normal"]
    shift: Positive


class SftParams(Section):
    prompt_dropout: Fraction
    training: TrainingParams


class RwrParams(Section):
    """Weights by name (components/alignment/flow_rwr.py); `clip` is the most that a clip may count, null is no bound."""

    prompt_dropout: Fraction
    training: TrainingParams
    weighting: Literal["exp", "mean_one", "per_prompt"]
    temperature: Positive
    clip: Positive | None


class DpoParams(Section):
    """Flow-DPO (components/alignment/flow_dpo.py). `validation` is the share of prompts whose pairs are held out; training
    ends when their implicit accuracy has not risen for `patience` validations, with the weights that had it highest."""

    training: TrainingParams
    beta: Positive
    schedule: Literal["constant", "squared"]
    reduction: Literal["sum", "mean"]
    theta: Annotated[float, Field(ge=1)]
    anchor: Annotated[float, Field(ge=0)]
    validation: Annotated[float, Field(ge=0, lt=1)]
    patience: Count | None

    @model_validator(mode="after")
    def patience_needs_validation(self) -> "DpoParams":
        if self.patience is not None and not self.validation:
            raise ValueError("patience waits for a validation accuracy: validation must be above 0")
        return self


class AlignParams(Section):
    """What the three methods share. `draws` of (timestep, noise) a pair make the grid over which the reference's errors
    are cached. `rounds` after the first name the LoRA they go on from: {"2": models/aligned/dpo, "3": models/rounds/2}
    (components/alignment/rounds.py)."""

    lora: LoraParams
    timesteps: TimestepParams
    draws: Count
    reference: Literal["cached", "live"]
    gradient_checkpointing: bool  # less memory, more time
    compile: bool  # less memory and less time, after half a minute of compiling; needs a C++ compiler
    rounds: dict[str, str]
    sft: SftParams
    rwr: RwrParams
    dpo: DpoParams

    @model_validator(mode="after")
    def rounds_follow_each_other(self) -> "AlignParams":
        names = ["models/aligned/dpo", *(f"models/rounds/{number}" for number in self.rounds)]
        wanted = {str(number): name for number, name in enumerate(names[: len(self.rounds)], start=2)}
        if self.rounds != wanted:
            raise ValueError(f"rounds go on from each other: {wanted} was expected")
        if self.rounds and self.reference == "live":
            raise ValueError("rounds need reference 'cached': the reference is the round before, not the base")
        return self
