"""Profiles: whole params files of the commit, chosen by name."""

import re
from pathlib import Path

from components.errors import BadInput

PROFILES = Path("infra/profiles")
NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"


def profile_file(name: str) -> Path:
    """Where a profile lies, relative to its checkout. BadInput for what is no plain name: a path would lead to any file that
    this process can read."""
    if not re.fullmatch(NAME, name):
        raise BadInput("--profile", f"'{name}' is no name of a profile: letters, digits, '.', '_', '-'")
    return PROFILES / f"{name}.yaml"
