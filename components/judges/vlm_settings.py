"""Settings of a judge `vlm:NAME`: the file `judges/NAME.yaml`.

    url: https://api.example.com/v1        of any OpenAI-compatible server; requests go to URL/chat/completions
    model: some-vlm
    key_variable: EXAMPLE_API_KEY          the environment variable with the key; leave it out where none is needed

All other keys have defaults, which the fields below state.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from components.config.types import Count, Positive, Section, read_section
from components.contracts import JUDGES_FOLDER
from components.errors import BadInput
from components.judges.protocol import in_order

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class Price(Section):
    """Of a million tokens, in `currency`."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    currency: str = "USD"


class VlmSettings(Section):
    """protocol: pairwise shows two clips of a prompt and takes the verdict from the text; pointwise shows one, and takes
    the probabilities of the tokens Yes and No. both_orders: a pair is shown twice, its clips exchanged. media: `frames`
    sends that many pictures, spread evenly over the clip, at most `side` pixels on their longer side; `video` sends the
    file, as vLLM takes it. tries: of a request, before it counts as failed; seconds between them double. request: further
    keys of the request, or null for one to leave out. template: a text file beside this one, in place of the built-in
    text."""

    url: str
    model: Annotated[str, Field(min_length=1)]
    key_variable: str | None = None
    protocol: Literal["pairwise", "pointwise"] = "pairwise"
    both_orders: bool = True
    dimensions: Annotated[list[Literal["VQ", "MQ", "TA", "Overall"]], Field(min_length=1)] = Field(["Overall"])
    template: str | None = None
    media: Literal["frames", "video"] = "frames"
    frames: Count = 8
    side: Annotated[int, Field(ge=16)] = 512
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: Count = 1024
    request: dict[str, Any] = Field({})
    concurrency: Count = 4
    requests_per_minute: Positive | None = None
    tries: Count = 6
    timeout: Positive = 120.0  # seconds
    price: Price | None = None

    @field_validator("url")
    @classmethod
    def url_is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{parts.scheme}' is no http:// or https:// address")
        if parts.username or parts.password:
            raise ValueError("holds a user name or password: name an environment variable in key_variable")
        return url.rstrip("/")

    @field_validator("dimensions")
    @classmethod
    def dimensions_have_overall(cls, dimensions: list[str]) -> list[str]:
        if "Overall" not in dimensions:
            raise ValueError("a judge also gives Overall: add it")
        return list(in_order(dimensions))


def settings_file(name: str, folder: Path = JUDGES_FOLDER) -> Path:
    """The file of a judge's name; BadInput for a name that is no plain one."""
    if not NAME.fullmatch(name):
        raise BadInput(f"vlm:{name}", "a name has letters, digits, '_', '.' and '-'")
    return folder / f"{name}.yaml"


def read_settings(file: Path) -> VlmSettings:
    """The settings; BadInput names the key and line, or what to write where there is no file."""
    if not file.is_file():
        raise BadInput(file, "missing; it has the keys url and model of an OpenAI-compatible server")
    return read_section(file, VlmSettings)


def read_template(file: Path, settings: VlmSettings) -> str | None:
    """The text of the settings' own template, None where there is none."""
    if settings.template is None:
        return None
    place = file.parent / settings.template
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(file, f"{place} cannot be read: {error}", key="template") from error
