"""Sections of params.yaml on evaluation samples and their judges."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from components.config.types import Count, Fraction, Section
from components.methods import BASE, METHODS

NO_PROMPT_SET = "infra/no_prompt_set.csv"  # stands for the source's prompts


class SampleParams(Section):
    """Evaluation prompts: `prompts` of the test split, or of `column` of the CSV `prompt_set` (infra/no_prompt_set.csv is
    none); null is all. `workers` of the engine sample their clips (components/runtime/engine.py)."""

    prompt_set: str
    column: Literal["prompt", "prompt_shorter", "prompt_zh"]
    prompts: Count | None
    seeds_per_prompt: Count
    engine: Literal["local", "ray"]
    workers: Count

    def named_set(self) -> str | None:
        """Name of the prompt set for display: its file name and column; None for the source's prompts."""
        return None if self.prompt_set == NO_PROMPT_SET else f"{Path(self.prompt_set).name}, {self.column}"


class HackingParams(Section):
    """Largest drift of a method from base without an alarm (components/evaluation/hacking.py)."""

    frame_count_shift: Fraction  # share of base's mean
    dynamic_degree_drop: Fraction  # share of base's mean
    brightness_shift: Fraction  # of mean luma, 0..1
    saturation_shift: Fraction  # share of base's mean
    diversity_drop: Fraction  # share of base's mean distance between seeds


def known_method(name: str) -> str:
    """A method that is compared with base; ValueError names all where it is none."""
    known = [method for method in METHODS if method != BASE]
    if name not in known:
        raise ValueError(f"unknown method; components/methods.py has {', '.join(known)}")
    return name


def judge_form(name: str) -> str:
    """A judge's name, KIND or KIND:ARGUMENT; which kinds there are is for components/judges/judges.py to tell."""
    if not re.fullmatch(r"[a-z]+(:\S.*)?", name):
        raise ValueError(f"'{name}' is no judge: write KIND or KIND:ARGUMENT, such as gold or model:FOLDER")
    return name


class EvaluateParams(Section):
    """`judges` are held-out judges, and `decides` is the one that promotion goes by; null is none. Their files lie below
    `judges/`, or are `judge_files`, a further file or folder. `tie_width`: differences of scores up to this size are ties,
    in the judge's unit, by its name in metrics; other judges have their own. `strict`: a sample that one generator lacks
    is an error. Otherwise the prompts and seeds that all have are compared, and the others are counted
    (components/evaluation/paired.py)."""

    judges: list[Annotated[str, AfterValidator(judge_form)]]
    decides: str | None
    judge_files: str
    methods: list[Annotated[str, AfterValidator(known_method)]]  # the samples compared with base's
    strict: bool
    resamples: Count
    tie_width: dict[str, Annotated[float, Field(ge=0)]]
    hacking: HackingParams
    report_prompts: Count

    @field_validator("tie_width")
    @classmethod
    def reward_has_a_tie_width(cls, tie_width: dict[str, float]) -> dict[str, float]:
        if "reward" not in tie_width:
            raise ValueError("names no width for reward, which always scores")
        return tie_width

    @model_validator(mode="after")
    def one_of_the_judges_decides(self) -> "EvaluateParams":
        if len(set(self.judges)) < len(self.judges):
            raise ValueError("evaluate.judges names one twice")
        if self.decides is not None and self.decides not in self.judges:
            raise ValueError(f"evaluate.decides is '{self.decides}', which is none of evaluate.judges")
        if self.judges and self.decides is None:
            raise ValueError("evaluate.decides is null, and evaluate.judges has judges: one of them decides")
        return self
