"""The labels that a VideoReward learnt from, on record in its folder: a judge that learnt from some of them is no judge.

A label is one annotator's view of one pair of clips. Two models of the same pairs by different annotators share none.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from components.errors import BadInput
from components.files.tables import read_table

FILE = "learnt.npy"  # [N] uint64, sorted, each label once


def label_ids(tables: Iterable[Path]) -> np.ndarray:
    """[N] uint64, sorted: of the labels in tables of PAIRS_SCHEMA. An id depends on the pair and the annotator's name."""
    found = {
        int.from_bytes(hashlib.sha256(f"{row['pair_id']}\n{annotator}".encode()).digest()[:8], "big")
        for table in tables
        for row in read_table(table)
        for annotator in row["annotators"]
    }
    return np.array(sorted(found), np.uint64)


def write_learnt(folder: Path, tables: Iterable[Path], base: Path) -> None:
    """The record of a model that learnt from `tables`, and before that all that its base has on record."""
    before = read_learnt(base)
    own = label_ids(tables)
    np.save(folder / FILE, own if before is None else np.union1d(own, before))


def read_learnt(folder: Path) -> np.ndarray | None:
    """The record of a model's folder; None without one. BadInput for a file that is no such record."""
    file = folder / FILE
    if not file.exists():
        return None
    try:
        found = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInput(file, f"is no record of labels: {error}") from error
    if found.dtype != np.uint64 or found.ndim != 1:
        raise BadInput(file, f"is no record of labels: {found.dtype} with {found.ndim} axes")
    return found
