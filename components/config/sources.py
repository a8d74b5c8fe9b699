"""Section `relabel.sources`: scorers that run elsewhere, beside VideoReward."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from components.config.types import Count, Positive, Section

NAME = re.compile(r"[A-Za-z0-9_-]+")


class SourceParams(Section):
    """A scorer. gateway: `reelign gateway`'s /v1/score at the address `place`. unirl: /score of a reward service there with
    UniRL's protocol, of which `reward` names the scorer. command: the program `place`, run as PROGRAM clips.csv scores.csv.

    dimensions: names of its scores that are read. batch: clips a request, or a run of the program. attempts, seconds: of a
    request. key_variable: the environment variable with a bearer token.
    """

    kind: Literal["gateway", "unirl", "command"]
    place: Annotated[str, Field(min_length=1)]
    reward: str | None
    dimensions: Annotated[list[str], Field(min_length=1)]
    batch: Count
    attempts: Count
    seconds: Positive
    key_variable: str | None

    @field_validator("dimensions")
    @classmethod
    def dimensions_are_names(cls, dimensions: list[str]) -> list[str]:
        for name in dimensions:
            if not NAME.fullmatch(name) or dimensions.count(name) > 1:
                raise ValueError(f"'{name}' is no name of letters, digits, '_' and '-', or comes twice")
        return dimensions

    @model_validator(mode="after")
    def fits_its_kind(self) -> "SourceParams":
        if (self.kind == "unirl") != (self.reward is not None):
            raise ValueError("kind unirl has a `reward`, others have null")
        if self.kind == "command":
            return self
        parts = urlsplit(self.place)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{parts.scheme}' is no http:// or https:// address")
        if parts.username or parts.password:
            raise ValueError("the address holds a user name or password: name an environment variable in key_variable")
        return self
