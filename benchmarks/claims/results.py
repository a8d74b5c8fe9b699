"""Figures of finished claims on record: results/<number>.json, from which page and verdicts are made.

A record is of one design: a claim whose words or parts changed since is not run yet.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.cells import key_of
from benchmarks.claims.design import Claim
from benchmarks.claims.looks import Looks
from benchmarks.claims.statistics import LEVEL, PRIOR_RATIO, Effect, Part, claim_p, crossed, smallest_effect, verdicts
from components.evaluation.win_rates import Interval
from components.pipeline.stage import write_json

FOLDER = Path(__file__).parent / "results"
WORDS = ("number", "title", "hypothesis", "refuted", "design", "parts", "more")


@dataclass(frozen=True)
class Result:
    """Effects of a finished claim by name of part or further look. demo: digest of the demo's models; cells: of the values
    of all seeds and prompts."""

    seeds: list[int]
    effects: dict[str, Effect]
    demo: str
    cells: str


def design_digest(claim: Claim) -> str:
    """Digest of what was written before the run."""
    return key_of({name: value for name, value in asdict(without_code(claim)).items() if name in WORDS})


def without_code(claim: Claim) -> Claim:
    return replace(claim, measure=None)  # a function has no value to digest


def matrix(measured: Iterable[pd.Series]) -> np.ndarray:
    """Values [S, P] from those of each seed; ValueError where seeds have other prompts."""
    found = list(measured)
    if any(not values.index.equals(found[0].index) for values in found):
        raise ValueError("the values of two seeds are not of the same prompts")
    return np.stack([values.to_numpy(float) for values in found])


def record(claim: Claim, seeds: list[int], measured: list[dict[str, pd.Series]], demo: str) -> Result:
    """The effects of all parts and further looks, from the values of each seed."""
    values = {part.name: matrix(one[part.name] for one in measured) for part in (*claim.parts, *claim.more)}
    cells = key_of({name: np.round(own, 6).tolist() for name, own in values.items()})
    return Result(seeds, {name: crossed(own) for name, own in values.items()}, demo, cells)


def write(claim: Claim, result: Result, folder: Path = FOLDER) -> None:
    body = asdict(result) | {"design": design_digest(claim), "claim": claim.number}
    write_json(folder / f"{claim.number:02d}.json", rounded(body))


def read(claim: Claim, folder: Path = FOLDER) -> Result | None:
    """None where the claim has not run, or its design changed since."""
    file = folder / f"{claim.number:02d}.json"
    if not file.exists():
        return None
    body = json.loads(file.read_text())
    if body.pop("design") != design_digest(claim):
        return None
    body.pop("claim")
    return Result(**body | {"effects": {name: Effect(**found) for name, found in body["effects"].items()}})


def write_looks(found: Looks, demo: str, folder: Path = FOLDER) -> None:
    """First looks on record, with the digest of the demo's tables."""
    body = {str(number): {name: asdict(one) for name, one in looks.items()} for number, looks in found.items()}
    write_json(folder / "looks.json", {"demo": demo, "looks": rounded(body)})


def read_looks(folder: Path = FOLDER) -> Looks:
    """{} where there are none."""
    file = folder / "looks.json"
    body = json.loads(file.read_text())["looks"] if file.exists() else {}
    return {int(number): {name: Interval(**one) for name, one in looks.items()} for number, looks in body.items()}


def rounded(value: Any) -> Any:
    """Floats to six significant digits, the last of which differ between processors."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def decided(claims: dict[int, Claim], results: dict[int, Result]) -> dict[int, tuple[str, float, float]]:
    """(verdict, corrected p for, corrected p against) of the finished claims."""
    pairs = {number: claim_p(claims[number].parts, result.effects) for number, result in results.items()}
    return verdicts(pairs, len(claims))


def findable(claim: Claim, part: Part, result: Result | None, seeds: int, claims: int) -> tuple[float, float]:
    """The smallest effect above 0 that the design finds with 80% probability: alone, and as the first of Holm's steps over
    all claims. By the deviations found, or, before a run, by those that the design assumes."""
    if result is None:
        size, deviations = (seeds, claim.prompts), (PRIOR_RATIO * part.spread, 0.0, part.spread)
    else:
        found = result.effects[part.name]
        size, deviations = (found.seeds, found.prompts), (found.between_seeds, found.between_prompts, found.rest)
    alone, corrected = (smallest_effect(*size, deviations, level) for level in (LEVEL, LEVEL / claims))
    return alone, corrected
