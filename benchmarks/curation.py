"""Curation: speed of measuring relative to decoding alone, and recall of its detectors on a planted set.

python benchmarks/curation.py speed --clips 10000        256 x 256, 2 s, made by this script
python benchmarks/curation.py planted                    1,000 clips, some of them spoiled in known ways
"""

import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import av
import psutil
import typer
from planted import detections, plant
from scenes import FRAMES, SIZE, write_scene

from components.curation.measures import measure_clip
from components.runtime.engine import map_rows
from components.video.decode import ClipReader

app = typer.Typer(help=__doc__, add_completion=False)
DISTINCT = 1000  # clips that are rendered; more are links to them
REPEATS = 3


@app.command()
def speed(clips: Annotated[int, typer.Option(help="How many to measure in the long run.")] = 10_000) -> None:
    """Ratios to decoding alone, in turns; two workers against one; then all clips, with memory watched."""
    with tempfile.TemporaryDirectory() as folder:
        make_clips(Path(folder), clips)
        names = sorted(path.name for path in Path(folder).glob("*.mp4"))
        some = names[:: max(1, len(names) // 200)][:200]
        ways: dict[str, Callable[[str], object]] = {
            "decode alone": lambda name: decode_only(f"{folder}/{name}"),
            "decode to RGB": lambda name: sum(1 for _ in ClipReader(f"{folder}/{name}")),
            "all but optical flow": lambda name: measure_clip({"clip": name}, folder, False),
            "all measures": lambda name: measure_clip({"clip": name}, folder, True),
        }
        # CPU time of this process, which other load on the machine does not affect.
        turns = [{way: cpu_time(partial(list, map(act, some))) for way, act in ways.items()} for _ in range(REPEATS)]
        for way in ways:
            share = statistics.median(turn["decode alone"] / turn[way] for turn in turns)
            rgb = statistics.median(turn["decode to RGB"] / turn[way] for turn in turns)
            rate = len(some) / statistics.median(turn[way] for turn in turns)
            hours = rate * FRAMES / 24 / 3600 * 86400
            print(f"{way:22} {rate:6.1f} clips/s  {hours:6.0f} hours of video a day a core  "
                  f"{share:.0%} of decoding alone, {rgb:.0%} of decoding to RGB", flush=True)  # fmt: skip
        subset = [{"clip": name} for name in names[:400]]
        ratios = [timed(lambda: run(folder, subset, 1)) / timed(lambda: run(folder, subset, 2)) for _ in range(REPEATS)]
        print(
            f"two workers {statistics.median(ratios):.2f}x of one, {len(subset)} clips ({min(ratios):.2f}-{max(ratios):.2f})"
        )
        with watched_memory() as peak:
            seconds = timed(lambda: run(folder, [{"clip": name} for name in names], 2))
        halves = [max(used for when, used in peak if (when > seconds / 2) == second) for second in (False, True)]
        print(f"{len(names)} clips in {seconds:.0f} s by two workers, {len(names) / seconds:.1f} clips/s;"
              f" at most {halves[0]:.2f} GB in the first half, {halves[1]:.2f} GB in the second")  # fmt: skip


@app.command("planted")
def planted_set(
    seed: Annotated[int, typer.Option(help="Of the set; the detectors' constants were chosen on seed 0.")] = 1,
) -> None:
    """Recall and precision of each detector, with its wrong files."""
    with tempfile.TemporaryDirectory() as folder:
        truth = plant(Path(folder), seed)
        names = sorted(truth)
        rows = run(folder, [{"clip": name} for name in names], 2)
        for line in detections(dict(zip(names, rows, strict=True)), truth):
            print(line)


def make_clips(folder: Path, count: int) -> None:
    """`count` clips from c00000.mp4 on, DISTINCT of them different."""
    distinct = min(count, DISTINCT)
    started = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_scene, [str(folder / f"c{n:05d}.mp4") for n in range(distinct)], range(distinct), chunksize=8))
    for n in range(distinct, count):
        os.link(folder / f"c{n % distinct:05d}.mp4", folder / f"c{n:05d}.mp4")
    size = sum(path.stat().st_size for path in folder.iterdir()) / count / 1024
    print(f"{count} clips of {SIZE}x{SIZE}, {FRAMES} frames ({distinct} distinct, {size:.0f} KiB each),"
          f" made in {time.perf_counter() - started:.0f} s", flush=True)  # fmt: skip


def decode_only(path: str) -> int:
    """Decode all frames with FFmpeg without further processing."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        return sum(1 for _ in container.decode(video=0))


def run(folder: str, rows: list[dict], workers: int) -> list[dict]:
    """Measure clips as stage measure does, with temporary state."""
    with tempfile.TemporaryDirectory() as state:
        op = partial(measure_clip, folder=folder, optical_flow=True)
        return map_rows(op, rows, workers, 50, Path(state), lambda items, what, total: iter(items))


class watched_memory:
    """Context: a list of (seconds since its start, GB resident in this process and its children), every half second."""

    def __enter__(self) -> list[tuple[float, float]]:
        self.seen: list[tuple[float, float]] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        return self.seen

    def watch(self) -> None:
        started, own = time.perf_counter(), psutil.Process()
        while not self.done.wait(0.5):
            used = sum(resident(process) for process in (own, *own.children(recursive=True)))
            self.seen.append((time.perf_counter() - started, used / 2**30))

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:  # ended after it was listed
        return 0


def cpu_time(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    app()
