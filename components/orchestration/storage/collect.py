"""`reelign gc`: all that the disks hold, item by item, and the removal of what is safe to drop.

Nothing is removed while a stage runs: the locks of all stages are held meanwhile, so that none can start.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.config.params import Params
from components.errors import BadInput
from components.files.locks import sole_writer
from components.orchestration.storage.artifacts import artifact_items
from components.orchestration.storage.dvc_cache import dvc_items
from components.orchestration.storage.item import Item
from components.orchestration.storage.local import cache_items, log_items, version_items
from components.pipeline.graph import stage_names
from components.pipeline.pipeline_run import under_way
from components.pipeline.stage import build_folder
from components.pipeline.work_tree import Places


def look(checkout: Path, params: Params, days: int) -> list[Item]:
    """All items. days: what was made or used in the last ones stays."""
    since = time.time() - days * 86400
    trees = trees_of(checkout)
    serving = params.orchestration.serving
    return [
        *dvc_items(checkout, trees, since, days),
        *artifact_items(since, days),
        *cache_items([checkout, *trees], since, days),
        *log_items(checkout / serving.served, params.monitoring.window, datetime.now(UTC)),
        *version_items(checkout / serving.live),
    ]


def trees_of(checkout: Path) -> list[Path]:
    folder = Places.of(checkout).trees
    return sorted(place for place in folder.glob("*") if place.is_dir() and not place.name.startswith("."))


@contextmanager
def no_stage_runs(checkout: Path) -> Iterator[None]:
    """BadInput where a pipeline or a stage runs in the checkout or in a tree; none of them starts until the block ends."""
    trees = trees_of(checkout)
    with ExitStack() as held:
        for place in (*map(build_folder, stage_names()), *trees):
            held.enter_context(sole_writer(place))
        for place in (checkout, *trees):
            if found := under_way(place):
                raise BadInput(place, f"a pipeline runs here (process {found[0].pid}); wait for its end")
        yield


def remove(items: list[Item]) -> int:
    """Remove what may go; the bytes that this freed. What another process removed meanwhile is no error."""
    freed = 0
    for item in items:
        if item.remove is not None:
            try:
                item.remove()
            except FileNotFoundError:
                continue
            freed += item.freed
    return freed


def summed(items: list[Item]) -> list[dict[str, Any]]:
    """A row for each kind and reason, in the order in which they come."""
    rows: dict[tuple[str, bool, str], dict[str, Any]] = {}
    for item in items:
        drop = item.remove is not None
        row = rows.setdefault(
            (item.kind, drop, item.reason),
            {"what": item.kind, "drop": drop, "count": 0, "bytes": 0, "frees": 0, "reason": item.reason},
        )
        row["count"] += 1
        row["bytes"] += item.held
        row["frees"] += item.freed
    return sorted(rows.values(), key=lambda row: ([one.kind for one in items].index(row["what"]), row["drop"]))


def as_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table of `summed` as text."""
    head = ("what", "", "count", "bytes", "frees", "reason")
    body = [
        (
            row["what"],
            "drop" if row["drop"] else "keep",
            str(row["count"]),
            f"{row['bytes']:,}",
            f"{row['frees']:,}",
            row["reason"],
        )
        for row in rows
    ]
    wide = [max(len(line[place]) for line in (head, *body)) for place in range(len(head) - 1)]

    def line(cells: tuple[str, ...]) -> str:
        what, drop, *numbers, reason = cells
        shown = [what.ljust(wide[0]), drop.ljust(wide[1])]
        shown += [number.rjust(width) for number, width in zip(numbers, wide[2:], strict=True)]
        return "  ".join([*shown, reason])

    return [line(head), *map(line, body)]
