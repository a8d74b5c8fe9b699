"""Samples of several generators, paired: the same prompts and seeds of each, in one order.

A comparison over the remaining clips would be biased. So a sample that one generator lacks is an error that names it. With
`evaluate.strict: false` the samples that all generators have are compared, and all others are counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from components.errors import BadInput
from components.evaluation.settings import Settings, common_settings
from components.files.tables import read_table

KEY = ["prompt_id", "seed"]


@dataclass(frozen=True)
class Samples:
    """`table`: columns method, prompt_id, prompt, seed, video (path of the file), one row per clip, each generator's in the
    same order of (prompt_id, seed). `wanted` counts the (prompt, seed) that any generator has, `compared` those that all
    have, `missing` those that each lacks."""

    table: pd.DataFrame
    wanted: int
    compared: int
    missing: dict[str, int]
    drawn_with: Settings | None  # all of them; None where that is not on record

    def as_json(self) -> dict:
        """Counts for metrics/alignment.json. `left_out`: samples of a generator that are not compared."""
        had = {method: self.wanted - missing for method, missing in self.missing.items()}
        left_out = {method: count - self.compared for method, count in had.items()}
        return {"wanted": self.wanted, "compared": self.compared, "missing": self.missing, "left_out": left_out}


def missing_words(samples: dict, names: Mapping[str, str] = MappingProxyType({})) -> str | None:
    """A sentence on the samples not compared, from Samples.as_json; None where nothing was left out."""
    if samples["compared"] == samples["wanted"]:
        return None
    lacking = [f"{names.get(method, method)} lacks {count}" for method, count in samples["missing"].items() if count]
    return (
        f"Samples are missing: of {samples['wanted']} prompts and seeds, {', '.join(lacking)}. All figures are of the"
        f" {samples['compared']} that all generators have."
    )


def read_samples(folders: dict[str, Path], strict: bool = True) -> Samples:
    """Samples of all generators (name: folder; the first is the reference for prompts).

    Raises:
        BadInput: two generators have different sampling settings, a table is missing or empty, a (prompt, seed) is
            duplicated, a prompt differs between generators, or no (prompt, seed) is shared. If strict, also where a
            (prompt, seed) is missing from one generator, or prompts have different numbers of seeds.
    """
    settings = common_settings(folders)
    tables = {method: _read(folder) for method, folder in folders.items()}
    files = {method: folder / "samples.parquet" for method, folder in folders.items()}
    first, *others = tables
    keys = {method: pd.MultiIndex.from_frame(table.loc[:, KEY]) for method, table in tables.items()}
    shared, union = keys[first], keys[first]
    for method in others:
        for lacks, has in ((method, first), (first, method)):
            absent = keys[has].difference(keys[lacks])
            if strict and len(absent):
                raise BadInput(files[lacks], f"no sample of a prompt and seed that {has} has", key=_key(*absent[0]))
        shared, union = shared.intersection(keys[method]), union.union(keys[method])
    kept = {method: tables[method].loc[keys[method].isin(shared)].reset_index(drop=True) for method in tables}
    for method in others:
        differ = kept[method]["prompt"] != kept[first]["prompt"]
        if differ.any():
            key = _key(*kept[method].loc[differ, KEY].iloc[0])
            raise BadInput(files[method], f"the prompt is not that of {first}", key=key)
    seeds = kept[first].groupby("prompt_id").size()
    if strict and seeds.nunique() > 1:
        raise BadInput(files[first], f"{seeds.min()} seeds, other prompts have {seeds.max()}", key=str(seeds.idxmin()))
    if seeds.empty:
        raise BadInput(files[first], "none of its prompts has samples of all generators")
    return Samples(
        table=pd.concat([own.assign(method=method) for method, own in kept.items()], ignore_index=True),
        wanted=len(union),
        compared=len(kept[first]),
        missing={method: len(union) - len(own) for method, own in tables.items()},
        drawn_with=settings,
    )


def _read(folder: Path) -> pd.DataFrame:
    file = folder / "samples.parquet"
    table = pd.DataFrame(read_table(file), columns=["prompt_id", "prompt", "seed", "path"])
    if table.empty:
        raise BadInput(file, "no samples")
    table = table.sort_values(KEY, ignore_index=True)
    doubled = table.duplicated(KEY)
    if doubled.any():
        raise BadInput(file, "sampled twice", key=_key(*table.loc[doubled, KEY].iloc[0]))
    table["video"] = [str(folder / path) for path in table["path"]]
    return table.drop(columns="path")


def _key(prompt_id: str, seed: int) -> str:
    return f"{prompt_id}, seed {seed}"
