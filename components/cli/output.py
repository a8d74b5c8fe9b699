"""`--json`: the result of a command as one JSON object on stdout, the same option in every command that has it."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")]


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False), flush=True)


def shown(path: Path) -> str:
    """A path as a line of output; bytes that are no UTF-8 are escaped, as in `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
