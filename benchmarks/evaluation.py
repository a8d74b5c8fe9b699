"""Time of evaluation: figures of many scored pairs, and a report of many clips, with its size.

    python benchmarks/evaluation.py                    what needs nothing but this repository
    python benchmarks/evaluation.py --videos DIR       and a report of clips of 480 x 832, cut from your .mp4 files

Seconds are wall time and CPU time; wall time is unreliable on a busy machine.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import cv2
import numpy as np
import pandas as pd
import typer

from components.config.params import EvaluateParams, load_params
from components.contracts import DIMENSIONS
from components.evaluation.compare import alignment_metrics, measure_clips
from components.evaluation.judging import Panel, judged
from components.evaluation.report import write_report
from components.judges.judges import load_judge, load_judges
from components.judges.protocol import Context
from components.reward.metrics import pair_metrics
from components.simulation.render import concrete, render
from components.simulation.world import all_scenes, prompt_of
from components.video.decode import probe, read_frames
from components.video.encode import write_video

BENCHMARK_PAIRS, BENCHMARK_PROMPTS = 26_457, 420  # of VideoGen-RewardBench
PROMPTS = 100
GOLD = Panel({"gold": load_judge("gold", Context()).facts}, frozenset({"gold"}))
HEIGHT, WIDTH, FRAMES = 480, 832, 16  # of the large clips


def main(
    videos: Annotated[Path | None, typer.Option(help="Folder of .mp4 files to cut clips from.")] = None,
) -> None:
    """Print all figures."""
    accuracies()
    params = load_params("infra/profiles/shapes.yaml").evaluate
    with tempfile.TemporaryDirectory() as folder:
        report(small_clips(Path(folder), params), params, f"{PROMPTS} prompts, clips of 32 px and 9 frames")
    if videos:
        with tempfile.TemporaryDirectory() as folder:
            clips = large_clips(Path(folder), params, sorted(videos.glob("*.mp4")))
            report(clips, params, f"{PROMPTS} prompts, clips of {HEIGHT} x {WIDTH} and {FRAMES} frames")


def accuracies() -> None:
    """Accuracies, thresholds, generators, calibration and 1,000 bootstraps on as many pairs as VideoGen-RewardBench has."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"prompt": rng.integers(0, BENCHMARK_PROMPTS, BENCHMARK_PAIRS).astype(str)})
    for side in "AB":
        table[f"model_{side}"] = rng.integers(0, 12, BENCHMARK_PAIRS).astype(str)
    for question in DIMENSIONS:
        table[f"{question}_score_A"], table[f"{question}_score_B"] = rng.normal(size=(2, BENCHMARK_PAIRS))
        table[f"{question}_label"] = pd.Series(rng.choice([1, -1, 0], BENCHMARK_PAIRS), dtype="Int64")
    what = f"figures and intervals, {BENCHMARK_PAIRS:,} pairs, {len(DIMENSIONS)} dimensions"
    timed(what, lambda: pair_metrics(table, list(DIMENSIONS), {}, "test", 1000), "under 5 s")


def report(samples: pd.DataFrame, params: EvaluateParams, what: str) -> None:
    """From scored clips to the page: metrics with intervals, tests and alarms, and the report."""
    rng = np.random.default_rng(0)
    looks = rng.random((len(samples), 768), dtype=np.float32)
    clips = scored(samples, rng)
    print(f"{what}, {clips['method'].nunique()} generators: {len(clips)} clips, {params.report_prompts} prompts shown")
    found = {}

    def compare() -> None:
        samples = {"wanted": PROMPTS, "compared": PROMPTS, "missing": {}, "left_out": {}}
        sampling = load_params("infra/profiles/shapes.yaml").sampling.model_dump()
        found["metrics"] = alignment_metrics(clips, looks, params, GOLD, seed=0)
        found["metrics"] |= {"samples": samples, "prompt_set": None, "sampling": sampling}

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "index.html"
        timed("  metrics", compare)
        timed(
            "  page",
            lambda: write_report(out, found["metrics"], clips, params, "bench", [], [], Path(folder)),
            "both under 30 s",
        )
        print(f"  index.html: {out.stat().st_size / 1e6:.1f} MB (wanted: at most 25 MB)")


def small_clips(folder: Path, params: EvaluateParams) -> pd.DataFrame:
    """Scenes of the shapes world, one file each, decoded and measured as in the stage."""
    rng, scenes = np.random.default_rng(0), all_scenes()
    rows = []
    for number in range(PROMPTS):
        scene = scenes[7 * number]
        for method in ("base", *params.methods):
            video = folder / method / "videos" / f"{number}.mp4"
            write_video(video, render(concrete(scene, rng, 32, 9), 32, 9), 8)
            rows.append(row(method, number, prompt_of(scene), video))
    limits = load_params("infra/profiles/shapes.yaml").limits
    quiet = SimpleNamespace(progress=lambda items, *_, **__: items, params=SimpleNamespace(limits=limits))
    table = pd.DataFrame(rows)
    made, gold = {}, load_judges(["gold"], Context())

    def measured() -> None:
        made["clips"] = judged(measure_clips(quiet, table)[0], gold, params.methods)[0]

    timed(f"decode, judge and measure {len(rows)} clips", measured)
    return made["clips"]


def large_clips(folder: Path, params: EvaluateParams, files: list[Path]) -> pd.DataFrame:
    """As many files as the report shows, each a different window of a real video; all other prompts reuse them."""
    methods, shown = ("base", *params.methods), params.report_prompts
    rng = np.random.default_rng(0)
    for number in range(shown):
        for place, method in enumerate(methods):
            source = files[(number + place) % len(files)]
            start = int(rng.integers(0, probe(source).frames - FRAMES))
            window = read_frames(source, range(start, start + FRAMES))
            frames = np.stack([cv2.resize(frame, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for frame in window])
            write_video(folder / method / f"{number}.mp4", frames, 16)
    rows = [
        row(method, number, f"a prompt, number {number:03d}", folder / method / f"{number * shown // PROMPTS}.mp4")
        for number in range(PROMPTS)
        for method in methods
    ]
    size = sum(file.stat().st_size for file in folder.rglob("*.mp4"))
    print(f"{shown * len(methods)} clips that are shown: {size / 1e6:.1f} MB as files")
    rng = np.random.default_rng(1)
    signals = {name: rng.random(len(rows)) for name in ("dynamic_degree", "speed_error", "brightness", "saturation")}
    return pd.DataFrame(rows).assign(frames=FRAMES, **signals, prompt_right=rng.random(len(rows)) < 0.5)


def row(method: str, number: int, prompt: str, video: Path) -> dict:
    return {"method": method, "prompt_id": f"{number:03d}", "prompt": prompt, "seed": 0, "video": str(video)}


def scored(samples: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    columns = {f"{judge}_{d}": rng.normal(size=len(samples)) for judge in ("gold", "reward") for d in DIMENSIONS}
    return samples.drop(columns=[name for name in columns if name in samples]).assign(**columns)


def timed(what: str, run: Callable[[], object], wanted: str | None = None) -> None:
    clock, processor = time.perf_counter(), time.process_time()
    run()
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(f"{what}: {clock:.2f} s, of the processor {processor:.2f} s" + (f" (wanted: {wanted})" if wanted else ""))


if __name__ == "__main__":
    typer.run(main)
