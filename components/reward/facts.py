"""video_reward.json: all that scoring must know of a VideoReward beside its weights."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.param_types import Count, Positive
from components.reward.prompt import Readout, check_template
from components.text_files import Record, check_record, read_json
from components.video.frames import FramePlan

FACTS = "video_reward.json"
MOST_PIXELS = 1 << 26  # of a frame: twice 8K
Pixels = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


class PlanFacts(Record):
    """A FramePlan."""

    fps: Positive | None
    frames: Annotated[int, Field(ge=2)] | None
    min_pixels: Pixels
    max_pixels: Pixels
    factor: Count
    sampling: Literal["uniform", "multi_pts"] = "uniform"

    @model_validator(mode="after")
    def _is_a_plan(self) -> "PlanFacts":
        FramePlan(**self.model_dump())
        return self


class Norm(Record):
    """Of the raw scores of the validation set."""

    mean: float
    std: Positive


class RewardFacts(Record):
    """What scoring reads; the file also says where the model came from."""

    head_trained: bool
    template: str
    dimensions: Annotated[list[str], Field(min_length=1)]
    readout: Readout
    head: Literal["shared", "per_dimension"]
    positions: Literal["plain", "multimodal"]
    frame_plan: PlanFacts
    normalisation: dict[str, Norm]
    tie_thresholds: dict[str, float | None]

    @model_validator(mode="after")
    def _each_dimension_once(self) -> "RewardFacts":
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError("dimensions names one twice")
        if missing := [name for name in self.dimensions if name not in self.normalisation]:
            raise ValueError(f"normalisation has no {missing[0]}")
        return self


def read_facts(folder: str | Path) -> dict[str, Any]:
    """The content of a model folder's video_reward.json; BadInput names the key that is missing or wrong."""
    file = Path(folder) / FACTS
    values = read_json(file)
    facts = check_record(file, values, RewardFacts)
    check_template(file, facts.template, facts.dimensions, facts.readout)
    return values


def plan_of(folder: str | Path) -> FramePlan:
    """The frame plan of a model folder."""
    return FramePlan(**read_facts(folder)["frame_plan"])
