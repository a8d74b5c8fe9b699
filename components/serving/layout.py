"""The layout of a model repository: a version in it is served by code of this project, which has to be the one it expects.

Layout 1, which no file names, has versions that import modules of many rooms, under names that are gone. From 2 on a version
imports components/serving/backend/entry.py alone.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from components.errors import BadInput
from components.files.text import read_text
from components.serving.repository import BACKEND_FILE, LAYOUT, MODEL

PARAMETER = re.compile(r'key: "layout" value \{ string_value: "(\d+)"')


def check_layout(repository: Path, versions: Iterable[int]) -> None:
    """BadInput where the repository, or one of these versions of its model, was packaged in another layout than this one.
    A repository without a configuration passes."""
    config = repository / MODEL / "config.pbtxt"
    if not config.exists():
        return
    found = PARAMETER.search(read_text(config))
    layout = int(found[1]) if found else 1
    if layout > LAYOUT:
        raise BadInput(repository, f"packaged by a later version of reelign (layout {layout}, this one reads {LAYOUT})")
    again = "packaged by an earlier version: run `dvc repro package` to package again, and serve that (with a new --live)"
    if layout < LAYOUT:
        raise BadInput(repository, again)
    for version in versions:
        file = repository / MODEL / str(version) / "model.py"
        if not file.exists() or file.read_bytes() != BACKEND_FILE.read_bytes():
            raise BadInput(file, again)
