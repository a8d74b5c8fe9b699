"""What `reelign gc` looks at: something on a disk, why it stays, or how it is removed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.files.digests import files_below


@dataclass(frozen=True)
class Item:
    """`held`: bytes; `freed`: those that its removal frees, as a file with a second name elsewhere frees none. Without
    `remove` it stays. `reason`: why, in either case."""

    kind: str
    place: str
    held: int
    reason: str
    remove: Callable[[], None] | None = None
    freed: int = 0


def kept(kind: str, place: Path | str, held: int, reason: str) -> Item:
    return Item(kind, str(place), held, reason)


def dropped(kind: str, place: Path | str, size: tuple[int, int], reason: str, remove: Callable[[], None]) -> Item:
    return Item(kind, str(place), size[0], reason, remove, size[1])


def size_of(place: Path) -> tuple[int, int]:
    """Bytes of a file, or of all below a folder: those held, and those that nothing else holds."""
    held = freed = 0
    for file in [place] if place.is_file() else files_below(place) if place.is_dir() else []:
        state = file.stat()
        held += state.st_size
        freed += state.st_size if state.st_nlink == 1 else 0
    return held, freed
