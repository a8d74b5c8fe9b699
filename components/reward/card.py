"""video_reward.json, the model card of a VideoReward: all that scoring must know beside the weights, and its origin."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, field_validator, model_validator

from components.config.types import Count, Dtype, Positive
from components.errors import BadInput
from components.files.text import Record, read_record
from components.pipeline.stage import write_json
from components.reward.prompt import Readout, check_template
from components.video.frames import FramePlan

CARD = "video_reward.json"
NO_MODEL = "no such folder of a model; `dvc repro reward` makes models/video_reward"
STEPS = 100  # of a reference
MOST_PIXELS = 1 << 26  # of a frame: twice 8K
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


class PlanCard(Record):
    """A FramePlan."""

    fps: Positive | None
    frames: Annotated[int, Field(ge=2)] | None
    min_pixels: Pixels
    max_pixels: Pixels
    factor: Count
    sampling: Literal["uniform", "multi_pts"] = "uniform"

    @model_validator(mode="after")
    def _is_a_plan(self) -> "PlanCard":
        self.plan()
        return self

    def plan(self) -> FramePlan:
        return FramePlan(**self.model_dump())


class Norm(Record):
    """Of the raw scores of the validation set."""

    mean: float
    std: Positive


class Reference(Record):
    """The distribution of normalised scores and Overall on the validation clips: 0%, 1%, ... 100% by name."""

    clips: Count
    quantiles: dict[str, Annotated[list[FiniteFloat], Field(min_length=STEPS + 1, max_length=STEPS + 1)]]

    @field_validator("quantiles")
    @classmethod
    def quantiles_rise(cls, quantiles: dict[str, list[float]]) -> dict[str, list[float]]:
        for name, values in quantiles.items():
            if values != sorted(values):
                raise ValueError(f"those of {name} do not rise")
        return quantiles


class RewardCard(Record):
    """Required is what scoring reads; the rest is about the training, and absent for a model in the published layout.

    head: one row of weights for all dimensions, or one a dimension. positions: numbering of tokens (VideoReward). dtype: of
    the weights that score, but for the head, which is float32.
    """

    head_trained: bool
    template: str
    dimensions: Annotated[list[str], Field(min_length=1)]
    readout: Readout
    head: Literal["shared", "per_dimension"]
    positions: Literal["plain", "multimodal"]
    dtype: Dtype = "float32"
    frame_plan: PlanCard
    normalisation: dict[str, Norm]
    tie_thresholds: dict[str, Annotated[float, Field(ge=0)] | None]
    loss: str | None = None
    theta: float | None = None
    reference: Reference | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _each_dimension_once(self) -> "RewardCard":
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError("dimensions names one twice")
        if missing := [name for name in self.dimensions if name not in self.normalisation]:
            raise ValueError(f"normalisation has no {missing[0]}")
        return self


def read_card(folder: str | Path) -> RewardCard:
    """The card of a model folder; BadInput where there is none, or with the key that is missing or wrong."""
    file = Path(folder) / CARD
    if not file.parent.is_dir():
        raise BadInput(folder, NO_MODEL)
    card = read_record(file, RewardCard)
    plan = card.frame_plan
    if plan.min_pixels > plan.max_pixels:  # the published layout has such plans, and its way to read them
        raise BadInput(file, f"{plan.min_pixels} is above max_pixels, {plan.max_pixels}", key="frame_plan.min_pixels")
    check_template(file, card.template, card.dimensions, card.readout)
    return card


def write_card(folder: Path, card: RewardCard) -> None:
    """Write the keys that were given; the file's bytes are part of the model's version."""
    write_json(folder / CARD, card.model_dump(exclude_unset=True))


def plan_of(folder: str | Path) -> FramePlan:
    """The frame plan of a model folder."""
    return read_card(folder).frame_plan.plan()
