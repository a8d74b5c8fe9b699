"""Caches, logs and served versions: what can be made again, what no check reads any more, and what no record names."""

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from components.alignment.reference import CACHE as REFERENCE
from components.files.locks import sole_writer
from components.orchestration.storage.item import Item, dropped, kept, size_of
from components.reward.frame_cache import CACHE as FRAMES
from components.serving.record import DEPLOYMENT, loaded_by_config, read_deployment, unnamed, version_folder, versions_there
from components.serving.repository import MODEL
from components.serving.served_log import FILES


def cache_items(places: Iterable[Path], since: float, days: int) -> list[Item]:
    """Frame caches and tables of reference errors, of the checkout and of the stages' trees."""
    items = []
    for place in places:
        for folder in sorted((place / FRAMES).glob("*")):
            index = folder / "index.jsonl"
            if not index.exists():
                continue
            if index.stat().st_mtime >= since:
                items.append(kept("frame caches", folder, size_of(folder)[0], f"used in the last {days} days"))
            else:
                why = "not used since: frames are decoded again"
                items.append(dropped("frame caches", folder, size_of(folder), why, partial(empty, folder)))
        for table in sorted((place / REFERENCE).glob("*")):
            if table.is_file() and not table.name.startswith("."):
                if table.stat().st_mtime >= since:
                    items.append(kept("reference errors", table, size_of(table)[0], f"made in the last {days} days"))
                else:
                    why = "old: the reference's errors are computed again"
                    items.append(dropped("reference errors", table, size_of(table), why, table.unlink))
    return items


def empty(folder: Path) -> None:
    """The index first: frames without a line are no harm. BadInput where a process fills the cache."""
    with sole_writer(folder):
        for name in ("index.jsonl", "frames.u8"):
            (folder / name).unlink(missing_ok=True)


def log_items(served: Path, window: float, now: datetime) -> list[Item]:
    """window: hours that `reelign monitor` looks back."""
    items, first = [], (now - timedelta(hours=window)).astimezone(UTC).date().isoformat()
    for file in sorted(served.glob(FILES)) if served.is_dir() else []:
        if file.name[:10] >= first:
            items.append(kept("served logs", file, size_of(file)[0], "within the window of `reelign monitor`"))
        else:
            items.append(dropped("served logs", file, size_of(file), "older than that window", file.unlink))
    return items


def version_items(live: Path) -> list[Item]:
    """Versions in the repository of a server. BadInput where its record names one that is not there."""
    if not (live / MODEL).is_dir():
        return []
    record, loaded = read_deployment(live), loaded_by_config(live)
    items = []
    for version in versions_there(live):
        folder = version_folder(live, version)
        if version in unnamed(live, record):
            why = "no record names it: a killed deployment left it"
            items.append(dropped("served versions", folder, size_of(folder), why, partial(remove_version, live, version)))
            continue
        if version == record.serving:
            why = "it serves"
        elif version == record.before:
            why = "it served before: a roll-back goes to it"
        elif version in loaded:
            why = "the server has it loaded"
        else:
            why = f"verified, in {DEPLOYMENT}"
        items.append(kept("served versions", folder, size_of(folder)[0], why))
    return items


def remove_version(live: Path, version: int) -> None:
    """Unless a deployment has named it since. BadInput where one is under way."""
    with sole_writer(live / DEPLOYMENT):
        if version in unnamed(live, read_deployment(live)):
            shutil.rmtree(version_folder(live, version))
