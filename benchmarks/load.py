"""Large inputs: seconds and peak memory of whole commands, each in separate processes.

    python benchmarks/load.py pairs --count 200000       `reelign bench-reward --scores`
    python benchmarks/load.py prompts --count 200000     prompts through the split
    python benchmarks/load.py clips --count 5000         small clips through the stages `measure` and `curate`
    python benchmarks/load.py status --count 50000       `dvc status` over a folder of so many files

Memory is that of the largest process. Seconds are wall time and CPU time; wall time is unreliable on a busy machine.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from components.contracts import CLIPS, DIMENSIONS, SOURCE_VIDEOS
from components.video.encode import write_video

REPOSITORY = Path(__file__).resolve().parents[1]
SPLIT = """
import sys
sys.path.insert(0, "benchmarks")
from prompts import prompts_of
from components.config.params import load_params
from components.preferences.split import split_prompts
import collections, time
prompts, begun = prompts_of("text", int(sys.argv[1])), time.process_time()
found = split_prompts(prompts, load_params("infra/profiles/shapes.yaml").split)
print(f"the split alone {time.process_time() - begun:.1f} s of the processor; {dict(collections.Counter(found.values()))}")
"""

app = typer.Typer(help=__doc__, add_completion=False)
Count = Annotated[int, typer.Option(min=1)]


@contextmanager
def folder_of_its_own() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def measure(what: str, lines: list[list[str | Path]], folder: Path, wanted: str) -> None:
    """Run commands one after the other, and print what they took together. To be called once in a process: what its children
    have used is counted from its start."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for line in lines:
        done = subprocess.run(list(map(str, line)), cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    used, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    print(f"{what}: {seconds:.1f} s, of the processor {processor:.1f} s, {used.ru_maxrss / 2**20:.2f} GB (wanted: {wanted})")
    print((done.stdout.strip() or done.stderr.strip()).rpartition("\n")[2])


@app.command()
def pairs(count: Count = 200_000) -> None:
    """Each pair has two clips and its own prompt."""
    with folder_of_its_own() as folder:
        scored_pairs(folder, count)
        files = ["pairs.csv", "--scores", "scores.parquet", "--out", "out", "--threshold-from", "test"]
        line = [sys.executable, "-m", "components.cli.main", "bench-reward", *files]
        measure(f"bench-reward --scores, {count:,} pairs", [line], folder, "30 s, 1 GB")


def scored_pairs(folder: Path, count: int) -> None:
    """pairs.csv, and the table of scores as `reelign score --out` writes it."""
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"prompt": [f"a prompt, number {number}" for number in range(count)]})
    scores = []
    for side in "AB":
        pairs[f"path_{side}"] = [f"videos/{side}/{number}.mp4" for number in range(count)]
        pairs[f"model_{side}"] = rng.integers(0, 12, count).astype(str)
        table = pairs[["prompt"]].assign(path=pairs[f"path_{side}"], status="ok", reason=pd.NA)
        table[[f"raw_{name}" for name in DIMENSIONS[:3]]] = rng.normal(size=(count, 3))
        for name in DIMENSIONS[:3]:
            table[name] = table[f"raw_{name}"] / 2
        table["Overall"] = table[[*DIMENSIONS[:3]]].sum(axis=1)
        scores.append(table.assign(reward_model="0123456789abcdef", frame_plan="a plan"))
    for question in DIMENSIONS:
        pairs[question] = rng.choice(["A", "B", "same"], count)
    pairs.to_csv(folder / "pairs.csv", index=False)
    pd.concat(scores).astype({"reason": "string"}).to_parquet(folder / "scores.parquet", index=False)


@app.command()
def prompts(count: Count = 200_000) -> None:
    """English texts of 20 to 120 words, as benchmarks/prompts.py draws them."""
    line = [sys.executable, "-c", SPLIT, str(count)]
    measure(f"split of {count:,} prompts, made first", [line], REPOSITORY, "60 s, 1 GB")


@app.command()
def clips(count: Count = 5_000) -> None:
    """Clips of 32 x 32 and 9 frames, each another."""
    with folder_of_its_own() as folder:
        (folder / SOURCE_VIDEOS).mkdir(parents=True)
        rng = np.random.default_rng(0)
        for number in range(count):
            write_video(folder / SOURCE_VIDEOS / f"{number:05}.mp4", rng.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), 8)
        for name in ("dvc.yaml", "params.yaml"):
            shutil.copyfile(REPOSITORY / name, folder / name)
        for name in ("components", "infra"):  # a stage checks that its code is there
            (folder / name).symlink_to(REPOSITORY / name)
        lines = [[sys.executable, "-m", f"components.curation.{stage}"] for stage in ("measure", "curate")]
        measure(f"measure and curate, {count:,} clips", lines, folder, "19 s, 0.6 GB")
        assert len(pd.read_parquet(folder / CLIPS)) == count


@app.command()
def status(count: Count = 50_000) -> None:
    """A tracked folder of small files of which nothing has changed."""
    with folder_of_its_own() as folder:
        (folder / "data").mkdir()
        for number in range(count):
            (folder / f"data/{number}").write_text(str(number))
        dvc = [sys.executable, "-m", "dvc"]
        for words in (["init", "--no-scm", "--quiet"], ["add", "--quiet", "data"]):
            subprocess.run([*dvc, *words], cwd=folder, check=True)
        measure(f"dvc status, {count:,} files", [[*dvc, "status"]], folder, "2.8 s")


if __name__ == "__main__":
    app()
