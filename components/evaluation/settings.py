"""Settings of sampling and judging, which must be equal where generators are compared.

`sample` writes them beside the clips. `evaluate` refuses clips of different settings and records them with its figures. The
promotion gate compares them with those of the champion's clips.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from components.config.params import Params
from components.errors import BadInput
from components.files.text import read_json
from components.pipeline.code_digest import DRAWING, sources_digest
from components.pipeline.stage import write_json

RECORD = "settings.json"  # beside samples.parquet
Settings = dict[str, Any]  # by key of params.yaml, or by a description


def drawn_with(params: Params, base: str) -> Settings:
    """Everything that a clip depends on besides its method, prompt and number. base: digest of the generator. The batch size
    is left out, as it affects only the last bits."""
    sampling = {f"sampling.{key}": value for key, value in params.sampling.model_dump(exclude={"batch_size"}).items()}
    other = {"seed": params.seed, "base_generator.dtype": params.base_generator.dtype}
    return sampling | other | {"base generator": base, "code that draws": sources_digest(DRAWING)}


def write_settings(folder: Path, settings: Settings) -> None:
    write_json(folder / RECORD, settings)


def read_settings(folder: Path) -> Settings | None:
    """Sampling settings of a folder of samples; None without a record, as for clips made elsewhere."""
    return read_json(folder / RECORD) if (folder / RECORD).exists() else None


def common_settings(folders: dict[str, Path]) -> Settings | None:
    """Common sampling settings of all generators (name: folder, base first); None where one has no record. BadInput where
    two differ."""
    found = {name: read_settings(folder) for name, folder in folders.items()}
    first, *others = found
    base = found[first]
    for name in others:
        own = found[name]
        if own is not None and base is not None and (differs := difference(own, base, first)):
            raise BadInput(folders[name] / RECORD, f"{differs}; `dvc repro` draws both alike")
    return None if None in found.values() else base


def digest_of(settings: Settings) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def difference(ours: Settings, theirs: Settings, whose: str) -> str | None:
    """The difference of two records as text; None where they are equal. whose: owner of the second record's clips."""
    keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    if not keys:
        return None
    one, other = (json.dumps(settings.get(keys[0])) for settings in (ours, theirs))
    more = f" ({', '.join(keys[1:])} too)" if len(keys) > 1 else ""
    return f"different settings: {keys[0]} is {one}, and {other} for {whose}{more}"
