"""Map a pure operator over rows in chunks that survive a kill, with ordered results, in local processes or on Ray Data."""

import contextlib
import json
import logging
import math
import multiprocessing
import os
import pickle
import secrets
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

from components.files.atomic import atomic_write, discard
from components.files.digests import file_digest
from components.pipeline.memory import keep_freed_memory

Row = dict[str, Any]
Chunks = Generator[list[Row], None, None]
Engine = Literal["local", "ray"]
Task = tuple[list[Row], Path]  # a chunk's rows, and the file for its results
RETRIES = 3  # of a chunk whose Ray worker died


def map_rows(
    op: Callable[[Row], Row],
    rows: Sequence[Row],
    workers: int,
    chunk: int,
    state_dir: Path,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]],
    what: str = "rows",
    engine: Engine = "local",
) -> list[Row]:
    """[op(row) for row in rows], computed by map_chunks."""
    return map_chunks(partial(_each, op), rows, workers, chunk, state_dir, progress, what, engine)


def map_chunks(
    op: Callable[[list[Row]], list[Row]],
    rows: Sequence[Row],
    workers: int,
    chunk: int,
    state_dir: Path,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]],
    what: str = "rows",
    engine: Engine = "local",
    gpu: bool = False,
    share: tuple[int, int] = (0, 1),
) -> list[Row]:
    """Concatenated results of op on each chunk of rows; `workers` processes run it, and `state_dir` keeps finished chunks.

    `op` is a function of a module (or a partial of one) that depends on its rows alone, gives a result for each, and
    returns values that JSON carries exactly: text, whole and finite floating numbers, booleans, None, lists and dicts of
    them. What it must set up once a worker (a model) it keeps in a functools.cache of its module. `state_dir` must
    belong to these rows, this `chunk` and this `op` (Stage.state() does): chunks found there are taken as they are, damaged
    ones are done again. A result may have `files`, digests (file_digest) by name of what `op` left in `state_dir`: a chunk
    is done again too where one of those is not there as it was left.
    `progress` sees each row of a chunk once the chunk is done. An exception of `op` ends the map; finished chunks stay.
    With `share` (k, n) this is process k of n that have the rows and `state_dir` in common: it works out every n-th chunk,
    from the k-th on, and returns the results of those.

    Engine `local`: processes of this machine; one worker is this process. Engine `ray`: actors of Ray Data with one CPU
    each and, with `gpu`, an even share of the cluster's GPUs where it has any. RAY_ADDRESS names the cluster; without it a
    local Ray is started, with one CPU per worker, and stopped at the end of the map. A cluster's machines must have this
    environment, and the working folder and all files of the rows at the same paths; only this process writes chunks. A
    chunk whose worker died is retried; one that kills every worker ends the map with Ray's error.
    """
    chunks = [list(rows[start : start + chunk]) for start in range(0, len(rows), chunk)]
    files = [state_dir / f"chunk-{index:06d}.json" for index in range(len(chunks))]
    place, of = share
    own = list(zip(chunks, files, strict=True))[place::of]
    tasks = [(part, file) for part, file in own if kept_rows(file, len(part)) is None]
    finished = _on_ray(op, tasks, workers, gpu) if engine == "ray" else _here(op, tasks, workers)
    with contextlib.closing(finished):  # ends the workers now, not at garbage collection
        for _ in progress((row for part in finished for row in part), what, sum(len(part) for part, _ in tasks)):
            pass
    return [row for _, file in own for row in json.loads(file.read_text())]


def kept_rows(file: Path, count: int) -> list[Row] | None:
    """The `count` results of a finished chunk; None where there are none, or where they or their files are damaged: then the
    chunk's file is removed."""
    if not file.exists():
        return None
    try:
        rows = json.loads(file.read_bytes())
    except ValueError as error:
        discard(file, error)
        return None
    if not isinstance(rows, list) or len(rows) != count:
        discard(file, f"not {count} results")
        return None
    for name, digest in [item for row in rows for item in row.get("files", {}).items()]:
        made = file.parent / name
        if not made.is_file() or file_digest(made) != digest:
            discard(made, "not as it was made")
            file.unlink()
            return None
    return rows


def _each(op: Callable[[Row], Row], rows: list[Row]) -> list[Row]:
    return [op(row) for row in rows]


def _text(op: Callable[[list[Row]], list[Row]], rows: list[Row]) -> str:
    return json.dumps(op(rows), allow_nan=False)


def _here(op: Callable[[list[Row]], list[Row]], tasks: list[Task], workers: int) -> Chunks:
    """Run the tasks; yields the rows of each once its file is written."""
    if workers == 1 or len(tasks) <= 1:
        yield from (_work_and_write(op, task) for task in tasks)
        return
    # Spawned, not forked: a fork copies the locks of FFmpeg's, OpenCV's and torch's threads but not the threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_begin_worker)
    try:
        yield from pool.map(partial(_work_and_write, op), tasks)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C, running chunks finish and no other starts


def _work_and_write(op: Callable[[list[Row]], list[Row]], task: Task) -> list[Row]:
    rows, file = task
    atomic_write(file, _text(op, rows))
    return rows


def _begin_worker() -> None:
    """Set up a pool's process, and end it when its parent is gone: otherwise it waits forever for a killed one. Ctrl-C
    reaches the whole group: only the parent acts on it, after running chunks are done and kept."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a pool's process

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(op: Callable[[list[Row]], list[Row]], tasks: list[Task], workers: int, gpu: bool) -> Chunks:
    """Run the tasks; yields the rows of each once its file is written, in the order of completion."""
    if not tasks:
        return
    with _ray(workers) as ray, warnings.catch_warnings():
        # Ray 2.60 deprecates `max_task_retries` here without an alternative.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        gpus = int(ray.cluster_resources().get("GPU", 0)) if gpu else 0
        chunks = [{"place": place, "rows": pickle.dumps(rows)} for place, (rows, _) in enumerate(tasks)]
        done = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
            _RayWorker,
            fn_constructor_args=(op, os.getcwd()),
            batch_size=None,
            # One chunk at a time per worker, so that no chunk waits while a worker is idle.
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(chunks)), max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=1 / math.ceil(workers / gpus) if gpus else 0,
            max_task_retries=RETRIES,  # unlimited by default
        )
        # No prefetching: a finished chunk is written at once, not held back until the next one is done.
        for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
            for place, outcome in zip(batch["place"], batch["outcome"], strict=True):
                text, error = pickle.loads(outcome)
                if error is not None:
                    raise error
                rows, file = tasks[place]
                atomic_write(file, text)
                yield rows


class _RayWorker:
    """The operator in a Ray actor. Exceptions of `op` return as data: Ray would wrap them in another error and retry."""

    def __init__(self, op: Callable[[list[Row]], list[Row]], folder: str):
        self.op, self.folder = op, folder
        keep_freed_memory()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            os.chdir(self.folder)
            outcome = _text(self.op, pickle.loads(batch["rows"][0])), None
        except Exception as error:
            error.add_note(traceback.format_exc())  # tracebacks are not pickled
            outcome = None, error
        return {"place": batch["place"], "outcome": [pickle.dumps(outcome)]}


@contextlib.contextmanager
def _ray(workers: int) -> Iterator[Any]:
    """The module ray, connected. Its local processes are bound to the calling thread: when that ends, even by a kill, the
    kernel ends them, and the workers follow in seconds. Ray's two idle agents take a minute, as they try to report it
    first."""
    local = "RAY_ADDRESS" not in os.environ
    # Read at the import of ray. Its core logs internal warnings as errors; errors that end a map are raised anyway.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if local:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        # A token for this process only: otherwise Ray stores one in the user's home folder.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # In /tmp, like Ray's default: paths of sockets must be short. Ray's output on workers goes to stderr, like its warnings.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, contextlib.redirect_stdout(sys.stderr):
        started = {"address": "local", "num_cpus": workers, "include_dashboard": False, "_temp_dir": folder}
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **(started if local else {}))
        try:
            yield ray
        finally:
            ray.shutdown()
