"""Passwords and keys of the services of `make up`: random ones, made at the first start, for their owner alone to read."""

import base64
import hashlib
import secrets
from collections.abc import Iterable
from pathlib import Path

from components.errors import BadInput
from components.files.atomic import atomic_write
from components.files.text import read_text

END = "# whole: "


def make_credentials(file: Path, names: Iterable[str], used_by: Path) -> dict[str, str]:
    """A value for each name, those of the file first. The file has lines NAME=VALUE, and a last one with their digest.

    BadInput as of read_credentials, and where the file is gone while `used_by`, a database made with it, is there.
    """
    known = read_credentials(file) if file.exists() else {}
    missing = sorted({*names} - known.keys())
    if missing:
        if not known and used_by.exists():
            why = f"missing, and {used_by} was made with it: bring it back, or remove {used_by.parent} with all data in it"
            raise BadInput(file, why)
        known |= {name: _value(name) for name in missing}
        text = "".join(f"{name}={value}\n" for name, value in sorted(known.items()))
        atomic_write(file, f"{text}{END}{_digest(text)}\n", private=True)
    return known


def read_credentials(file: Path) -> dict[str, str]:
    """BadInput where others may read the file, or it is not whole."""
    if file.stat().st_mode & 0o077:
        raise BadInput(file, "others may read it: chmod 600")
    text, sign, end = read_text(file).rpartition(END)
    if not sign or end != f"{_digest(text)}\n":
        raise BadInput(file, "damaged or edited: bring a copy back, `make backup` keeps one")
    return dict(line.split("=", 1) for line in text.splitlines())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _value(name: str) -> str:
    """Hexadecimal, because addresses contain them; Airflow's Fernet key has another format."""
    if name.endswith("FERNET_KEY"):
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_hex(10 if name.endswith("ACCESS_KEY") else 32)
