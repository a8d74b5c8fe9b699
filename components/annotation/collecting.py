"""`reelign annotate collect`: labels of a project into annotations.csv, once enough of its tasks are done.

A scheduler repeats it until then (dags/label.py)."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.annotation import studio
from components.annotation.importing import count_waiting, import_studio, merge
from components.annotation.tasks import read_key
from components.files.atomic import whole_file
from components.preferences.schema import read_annotations, write_annotations

EXPORT = "export.json"  # below FOLDER: Label Studio's own, with people's addresses


@dataclass(frozen=True)
class Progress:
    """Tasks of a folder that annotations.csv lacks: how many, how many of them have all answers, and how many are needed;
    `counts` of what the others await, and how many annotations were written (None: not enough yet)."""

    open: int
    ready: int
    needed: int
    counts: Counter[str]
    written: int | None


def collect(folder: Path, url: str, out: Path, reviewers: Sequence[str], share: float) -> Progress:
    """Add the annotations of all complete pairs to `out`, as soon as `share` of the tasks that it lacks are complete; before
    that nothing is written but FOLDER's export.

    BadInput as of studio.pull, import_studio and merge.
    """
    export = folder / EXPORT
    studio.write_export(export, studio.pull(folder, url))
    found = import_studio(export, folder, reviewers).annotations
    complete, counts = count_waiting(export, found)
    known = {view.pair for view in read_annotations(out)} if out.exists() else set()
    tasks = {task.pair for task in read_key(folder)} - known
    ready = len({view.pair for view in complete} & tasks)
    needed = math.ceil(share * len(tasks) - 1e-9)
    if ready < needed:
        return Progress(len(tasks), ready, needed, counts, None)
    merged = merge(out, export, complete)[0] if out.exists() else complete
    with whole_file(out) as partial:
        write_annotations(partial, merged)
    return Progress(len(tasks), ready, needed, counts, len(merged))
