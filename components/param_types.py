"""What sections of params are made of: frozen, and an unknown or missing key is an error that names it."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import BadInput

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Dimension = str
Dtype = Literal["float32", "bfloat16"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingParams(Section):
    """One run of components/training.py. Steps are optimizer steps; the batch is batch_size x accumulation."""

    steps: Count
    batch_size: Count
    accumulation: Count
    learning_rate: Positive
    warmup_steps: Annotated[int, Field(ge=0)]
    schedule: Literal["constant", "cosine"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    precision: Literal["fp32", "bf16"]
    log_every: Count
    validate_every: Count
    checkpoint_seconds: Annotated[float, Field(ge=0)]


class LoraParams(Section):
    rank: Count
    alpha: Positive
    targets: list[str]


Read = TypeVar("Read", bound=Section)


def read_section(path: Path, section: type[Read]) -> Read:
    """A YAML file as a section; BadInput names the key that is unknown, missing or wrong."""
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BadInput(path, f"not YAML: {str(error).splitlines()[0]}") from error
    try:
        return section.model_validate(values)
    except ValidationError as error:
        # A misspelt key is both unknown and missing: the line that shows the spelling helps more.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(keys_of(first["loc"], values))
        why = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(first["type"], first["msg"])
        why = why.removeprefix("Value error, ")
        raise BadInput(path, why, key=key or None) from error


def keys_of(places: tuple[str | int, ...], values: Any) -> list[str]:
    """The keys of a file that pydantic's places mean: among them is the `kind` of a section, which is no key."""
    keys = []
    for place in places:
        if isinstance(values, dict) and values.get("kind") == place:
            values = {key: value for key, value in values.items() if key != "kind"}
            continue
        keys.append(str(place))
        values = values.get(place) if isinstance(values, dict) else None
    return keys
