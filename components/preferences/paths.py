"""Paths of clips in tables, always relative to a folder or to a bucket's prefix."""

import os
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

UNUSUAL = {"", ".", ".."}  # parts of a path that is not in plain form
NAME_BYTES, PATH_BYTES = 255, 1024  # the longest name of a file, and the longest key of a bucket


def clip_path(text: str, root: str | Path | None = None) -> str:
    """A relative path in plain form (`./a//b.mp4` is `a/b.mp4`); ValueError when it leaves its folder or is no valid file
    name. An absolute path or a URL is accepted where it is below `root`."""
    inside = _below(text, root)
    if "\\" not in inside and UNUSUAL.isdisjoint(inside.split("/")):  # fast path for most names
        check_name(inside)
        return inside
    path = PurePosixPath(inside)
    if not inside or path.is_absolute() or ".." in path.parts or "\\" in inside or path == PurePosixPath("."):
        raise ValueError(f"'{text}' is not a path inside the folder")
    check_name(inside)
    return str(path)


def check_name(path: str) -> None:
    """ValueError where the path is no valid file name."""
    if len(path) <= NAME_BYTES // 4 and path.isprintable():  # fast path: a character takes four bytes at most
        return
    parts = PurePosixPath(path).parts
    too_long = len(path.encode()) > PATH_BYTES or any(len(part.encode()) > NAME_BYTES for part in parts)
    if too_long or any(ord(letter) < 32 for letter in path):
        raise ValueError(f"{path[:60]!r} is not a valid file name: it is too long or has control characters")


def _below(text: str, root: str | Path | None) -> str:
    """The text without the prefix `root` or another path of the same folder."""
    if root is None:
        return text
    start = f"{str(root).rstrip('/')}/"
    if text.startswith(start) and (text.startswith("/") or "://" in text):
        return text.removeprefix(start)
    if text.startswith("/"):
        for parent in PurePosixPath(text).parents:
            if os.path.realpath(parent) == os.path.realpath(root):
                return text.removeprefix(f"{parent}/")
    return text


def stored_names(names: Iterable[str]) -> Callable[[str], str | None]:
    """Returns a function that finds a path among `names` as stored: the same one, or the only one that differs just in
    Unicode form (macOS and some archives write `é` as two characters). None where there is none."""
    exact = set(names)
    forms: dict[str, list[str]] = {}
    for name in sorted(exact):
        forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)

    def find(path: str) -> str | None:
        if path in exact:
            return path
        alike = forms.get(unicodedata.normalize("NFC", path), [])
        return alike[0] if len(alike) == 1 else None

    return find


def stored_file(folder: Path, path: str) -> str | None:
    """The path of a file below `folder` as stored (see stored_names), or None."""
    if (folder / path).is_file():
        return path
    found = PurePosixPath()
    for part in PurePosixPath(path).parts:
        try:
            name = stored_names(os.listdir(folder / found))(part)
        except OSError:
            return None
        if name is None:
            return None
        found /= name
    return str(found) if (folder / found).is_file() else None
