"""Sections of params.yaml on the source of clips and labels, and on their curation."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from components.config.types import Count, Dimension, Fraction, Positive, Section


class SplitParams(Section):
    """Every split is by prompt (components/preferences/split.py)."""

    scheme: Literal["hash", "round_robin"]
    seed: int
    validation: Fraction
    test: Fraction


class WorldParams(Section):
    """Clips of the shapes world."""

    size: Count
    frames: Count
    fps: Count


class ShapesSource(Section):
    """Videos and labels from the shapes world (components/simulation/zoo.py). Each prompt has clips of different models and
    several of the generator that will be aligned; all pairs of its clips are labelled. Noise and tie widths of the
    annotators are in gold units, whose range is 1."""

    kind: Literal["shapes"]
    folder: str  # of the pretrained generator, early checkpoint beside it
    prompts: Count
    base_clips_per_prompt: Annotated[int, Field(ge=0)]
    clips_per_prompt: Annotated[int, Field(ge=2)]
    workers: Count
    noise: dict[Dimension, Positive]
    tie: dict[Dimension, Positive]


class FolderSource(Section):
    """A folder of pairs: `csv` (columns: components/preferences/schema.py) is in `folder`, with videos relative to it."""

    kind: Literal["folder"]
    folder: str
    csv: str


class S3Source(Section):
    """The same layout below a prefix of a bucket. Credentials, region and endpoint are no params: they come from the
    environment or ~/.aws, as for DVC."""

    kind: Literal["s3"]
    folder: str  # s3://bucket/prefix; a slash at the end means the same
    csv: str
    workers: Count  # parallel transfers
    patience: Positive  # seconds without an answer before the stage gives up

    @field_validator("folder")
    @classmethod
    def folder_is_a_prefix(cls, folder: str) -> str:
        folder = folder.removesuffix("/")
        if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[^/]+)*", folder):
            raise ValueError(
                f"'{folder}' is not s3://bucket/prefix: a bucket's name has small letters, digits, dots and hyphens, "
                "and a prefix no empty part"
            )
        return folder


class Rule(Section):
    """Allowed range of a measure, bounds included; null is no bound."""

    min: float | None
    max: float | None


class MeasureParams(Section):
    """`workers` of the engine measure clips in chunks (components/runtime/engine.py). Optical flow is the most expensive
    measure; without it `motion` is null."""

    engine: Literal["local", "ray"]
    workers: Count
    chunk: Count
    optical_flow: bool


class CurateParams(Section):
    """Rules (measure: range) reject clips; {} rejects none. `scores` is a table of `reelign score --out` whose columns rules
    may also use; infra/no_scores.csv has none."""

    scores: str
    rules: dict[str, Rule]
