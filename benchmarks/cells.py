"""What studies of this folder share: results kept by the digest of all they depend on, folders for stages, drawn clips.

A script imports it as `cells`, a package of studies as `benchmarks.cells`.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from components.config.params import SamplingParams, load_params
from components.contracts import SOURCE_PROMPTS
from components.files.atomic import whole_folder
from components.files.locks import sole_writer
from components.files.tables import read_table
from components.generator.sampler import Job, Loader
from components.pipeline.stage import seed_of
from components.preferences.schema import read_prompts
from components.preferences.split import split_prompts
from components.simulation.judge import judge
from components.video.encode import write_video

BATCH = 32  # clips


def key_of(*parts: object) -> str:
    """16 hex digits of what a result depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, which `make` fills at another place where it is missing: a killed run leaves nothing of it. A second
    process waits for the first."""
    if not folder.exists():
        with sole_writer(folder.with_name(f"{folder.name}.making"), waits=lambda holder: None):
            if not folder.exists():
                with whole_folder(folder) as partial:
                    partial.mkdir(parents=True, exist_ok=True)
                    make(partial)
    return folder


def link(folder: Path, root: Path, names: Iterable[str]) -> None:
    """Links in `folder` to files and folders of `root`, under the same names."""
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to((root / name).resolve())


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """This checkout's params.yaml in `folder`, with changes by dotted key."""
    params = yaml.safe_load(Path("params.yaml").read_text())
    for key, value in changes.items():
        *path, last = key.split(".")
        section = params
        for part in path:
            section = section[part]
        section[last] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def run_in(folder: Path, command: list[str], store: Path | None = None) -> None:
    """A Python program in `folder`, with this checkout's code and a separate MLflow store; its log goes to log.txt."""
    store = store or folder / "mlflow.db"
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{store.resolve()}", "PYTHONPATH": str(Path().resolve())}
    with open(folder / "log.txt", "a") as log:
        subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, stderr=log)


def stage(folder: Path, module: str, *arguments: str, store: Path | None = None) -> None:
    """A stage's program in `folder`."""
    run_in(folder, ["-m", module, *arguments], store)


def prompts_of(demo: Path, split: str, count: int | None) -> list[str]:
    """`count` prompts of a split, in an order that no method's seed changes; None is all."""
    params = load_params()
    prompts = read_prompts(demo / SOURCE_PROMPTS)
    sides = split_prompts(prompts, params.split)
    pool = [prompt for prompt in prompts if sides[prompt] == split]
    order = np.random.default_rng(seed_of(params.seed, "benchmark", split)).permutation(len(pool))[:count]
    return [pool[i] for i in sorted(order)]


def draw_clips(load: Loader, jobs: list[Job], sampling: SamplingParams, folder: Path) -> None:
    """Write `folder`/<clip>.mp4 for each job: clips go through MP4, as those of stages do."""
    loaded, solver = load()
    generator = loaded.with_text(load.text_encoder())
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        clips = generator.decode(solver(generator, batch, sampling), sampling.decoding)
        for job, clip in zip(batch, clips, strict=True):
            write_video(folder / f"{job.clip}.mp4", clip, sampling.fps)


def gold(frames: np.ndarray, prompt: str) -> dict[str, Any]:
    """The gold judge's scores by dimension, and right, dynamic (px a frame) and speed_error."""
    found = judge(frames, prompt)
    more = {"right": found.prompt_right, "dynamic": found.dynamic_degree, "speed_error": found.speed_error}
    return {**found.scores(), **more}


def samples(demo: Path, methods: Iterable[str]) -> pd.DataFrame:
    """The demo's scored samples of `methods`, with the files."""
    table = pd.DataFrame(read_table(demo / "data/sample_scores.parquet"))
    files = {
        (method, row["prompt_id"], row["seed"]): str(demo / "data/samples" / method / row["path"])
        for method in methods
        for row in read_table(demo / "data/samples" / method / "samples.parquet")
    }
    keys = zip(table["method"], table["prompt_id"], table["seed"], strict=True)
    return table.assign(video=[files[key] for key in keys])
