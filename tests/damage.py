"""Seeded damage to files that people have: cut, emptied, edited by hand, saved by another program, or on a failing disk."""

import gzip
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

WRONG = (None, [], {}, "x", "", -1, 0, 1e300, True, [None], {"a": 1})
WORDS = ("", "nan", "1e999", "-1", "x", "A,B", '"', "\u200b", "\t", "none")
Damage = Callable[[bytes, np.random.Generator], bytes]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(0, max(1, len(data)))]


def empty(data: bytes, rng: np.random.Generator) -> bytes:
    return b""


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 20)) if data else ():
        changed[place] ^= int(rng.integers(1, 256))
    return bytes(changed)


def zeros(data: bytes, rng: np.random.Generator) -> bytes:
    """A block that never reached the disk."""
    start = int(rng.integers(0, max(1, len(data))))
    end = min(len(data), start + int(rng.integers(1, 4096)))
    return data[:start] + bytes(end - start) + data[end:]


def lose_span(data: bytes, rng: np.random.Generator) -> bytes:
    start, end = np.sort(rng.integers(0, len(data) + 1, 2))
    return data[:start] + data[end:]


def other_file(data: bytes, rng: np.random.Generator) -> bytes:
    """An error page saved under this name."""
    return b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"


def lose_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.integers(0, len(lines))]
    return b"".join(lines)


def double_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.splitlines(keepends=True)
    place = rng.integers(0, len(lines))
    return b"".join([*lines[: place + 1], *lines[place:]])


def change_word(data: bytes, rng: np.random.Generator) -> bytes:
    words = list(re.finditer(rb"[\w.+-]+", data))
    if not words:
        return data
    chosen = words[rng.integers(0, len(words))]
    return data[: chosen.start()] + str(rng.choice(WORDS)).encode() + data[chosen.end() :]


def swap_separators(data: bytes, rng: np.random.Generator) -> bytes:
    return data.replace(b",", bytes(rng.choice([b";", b"\t", b",,", b", "])))


def saved_as_utf16(data: bytes, rng: np.random.Generator) -> bytes:
    return data.decode(errors="replace").encode("utf-16")


def saved_as_cp1252(data: bytes, rng: np.random.Generator) -> bytes:
    return data.replace(b"a", "ä".encode("cp1252"))


def packed(data: bytes, rng: np.random.Generator) -> bytes:
    return gzip.compress(data, mtime=0)


def other_line_ends(data: bytes, rng: np.random.Generator) -> bytes:
    return data.replace(b"\n", bytes(rng.choice([b"\r", b"\r\n", b"\n\n", b"\x00\n"])))


def change_value(data: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one value replaced, or one key lost."""
    try:
        tree = json.loads(data)
    except ValueError:
        return flip(data, rng)
    places = list(_places(tree))
    if not places:
        return json.dumps(WRONG[rng.integers(0, len(WRONG))]).encode()
    holder, key = places[rng.integers(0, len(places))]
    if rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = WRONG[rng.integers(0, len(WRONG))]
    return json.dumps(tree).encode()


def change_header(data: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file whose header has one value replaced, its length put right."""
    length = int.from_bytes(data[:8], "little")
    header = change_value(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _places(tree):
    for key in list(tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()):
        yield tree, key
        yield from _places(tree[key])


BYTES = (cut, empty, flip, zeros, lose_span, other_file)
TEXT = (*BYTES, lose_line, double_line, change_word, saved_as_utf16, saved_as_cp1252, packed, other_line_ends)
BY_SUFFIX = {
    ".csv": (*TEXT, swap_separators),
    ".json": (*TEXT, change_value, change_value, change_value),
    ".yaml": TEXT,
    ".txt": TEXT,
    ".safetensors": (*BYTES, change_header, change_header),
}


def damage(file: Path, rng: np.random.Generator) -> str:
    """Damage a file in place; what was done, in words."""
    if file.stat().st_size == 0 or rng.random() < 0.05:
        file.unlink()
        if rng.random() < 0.5:
            file.mkdir()
            return f"{file.name}: a folder"
        return f"{file.name}: gone"
    kinds = BY_SUFFIX.get(file.suffix, BYTES)
    kind = kinds[rng.integers(0, len(kinds))]
    file.write_bytes(kind(file.read_bytes(), rng))
    return f"{file.name}: {kind.__name__}"


def damaged_copy(original: Path, copy: Path, rng: np.random.Generator) -> str:
    """A copy of a file or folder with one file of it damaged."""
    if original.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original, copy)
        return damage(copy, rng)
    shutil.copytree(original, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    return damage(files[rng.integers(0, len(files))], rng)
