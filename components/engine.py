"""Map a pure operator over rows on this machine: in processes, in chunks that survive a kill, results in order."""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def map_rows(
    op: Callable[[Row], Row],
    rows: Sequence[Row],
    workers: int,
    chunk: int,
    state_dir: Path,
    progress: Callable[[Iterable[Any], str, int], Iterator[Any]],
    what: str = "rows",
) -> list[Row]:
    """[op(row) for row in rows], with `workers` processes (1: this one) and each finished chunk kept in `state_dir`.

    `op` is a function of a module (or a partial of one) that depends on its row alone and returns values that JSON
    carries exactly: text, whole and finite floating numbers, booleans, None. `state_dir` must belong to these rows,
    this `chunk` and this `op` (Stage.state() does): chunks found there are taken as they are. An exception of `op` ends
    the map; finished chunks stay.
    """
    chunks = [rows[start : start + chunk] for start in range(0, len(rows), chunk)]
    files = [state_dir / f"chunk-{index:06d}.json" for index in range(len(chunks))]
    missing = [(op, part, file) for part, file in zip(chunks, files, strict=True) if not file.exists()]
    for _ in progress(_run(missing, workers), what, len(missing)):
        pass
    return [row for file in files for row in json.loads(file.read_text())]


def _run(tasks: list[tuple[Callable[[Row], Row], Sequence[Row], Path]], workers: int) -> Iterator[None]:
    if workers == 1 or len(tasks) <= 1:
        yield from map(_chunk, tasks)
        return
    # Spawned, not forked: a fork copies the locks of FFmpeg's, OpenCV's and torch's threads but not the threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_end_with_parent)
    try:
        yield from pool.map(_chunk, tasks)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, chunks not yet begun are not begun


def _chunk(task: tuple[Callable[[Row], Row], Sequence[Row], Path]) -> None:
    op, rows, file = task
    text = json.dumps([op(row) for row in rows], allow_nan=False)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, file)


def _end_with_parent() -> None:
    """End this process when its parent is gone: a pool's workers would wait for ever for a parent that was killed."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
