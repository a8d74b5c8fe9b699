"""Real clips with people's ratings through the pipeline: FETV's examples (CC-BY 4.0), 156 clips of four generators.

    python benchmarks/fetv.py FOLDER                 ratings.csv, videos/ and gif/ of it; minutes on two cores

Ratings become pairs, pairs train VideoReward from the demo's small backbone, and the trained model is measured on prompts
that it never saw: as pairs by stage reward_bench, and against the ratings by bench-reward. FETV rates static and temporal
quality on temporal prompts, and alignment on the others, so there are two runs. Eight clips go in as GIF, as published.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml

from components.statistics.accuracy import without_ties
from components.statistics.intervals import as_text

WORK = Path(".reelign/fetv")
LINKED = ("components", "infra", "pretrained", "dvc.yaml")
PROGRAMS = (
    "components.curation.source",
    "components.curation.measure",
    "components.curation.curate",
    "components.preferences.pairs",
    "components.reward.train",
    "components.reward.bench",
)
RUNS = {"quality": {"VQ": "SQ", "MQ": "TQ"}, "alignment": {"TA": "Alignment"}}
TEST = 0.4  # of the prompts
# Set beforehand, from the demo's; nothing was chosen by these figures.
TRAINING = {"steps": 100, "batch_size": 12, "warmup_steps": 10, "validate_every": 25, "log_every": 25}
FRAMES = {"fps": None, "frames": 8, "min_pixels": 64, "max_pixels": 1024}


def main(folder: Annotated[Path, typer.Argument(help="Folder with ratings.csv, videos/ and gif/.")]) -> None:
    for name, columns in RUNS.items():
        run(folder, WORK / name, columns)


def run(folder: Path, work: Path, columns: dict[str, str]) -> None:
    """Prints what became of the clips, and the figures on prompts that were not trained on."""
    for name in LINKED:
        link(work / name, Path(name))
    for name in ("videos", "gif"):  # copies: stage source takes no links that leave its folder
        shutil.copytree(folder / name, work / "clips" / name, dirs_exist_ok=True)
    ratings = with_gifs(folder)
    write(work / "clips/ratings.csv", ratings)
    mapped = "--columns=" + ",".join(f"{ours}={theirs}" for ours, theirs in columns.items())
    reelign(work, "annotate", "from-ratings", "clips/ratings.csv", "--out=clips/pairs.csv", mapped)
    (work / "params.yaml").write_text(yaml.safe_dump(params(list(columns))))
    for program in PROGRAMS:
        call(work, "-m", program)
    clips = pd.read_parquet(work / "data/clips.parquet")
    print(f"curate: {clips.groupby(['container', 'status']).size().to_dict()}")
    print(f"near-duplicates: {clips['clip'][clips.duplicate_of.notna()].tolist()}")
    # Stage source drops "videos/" where all names have it.
    kept = {name.removeprefix("videos/") for name in clips["clip"][clips.status == "ok"]}
    test = set(pd.read_parquet(work / "data/pairs/test.parquet").prompt)
    unseen = [row for row in ratings if row["prompt"] in test and row["path"].removeprefix("videos/") in kept]
    write(work / "clips/unseen.csv", unseen)
    bench = json.loads((work / "metrics/reward_bench.json").read_text())["dimensions"]
    for dimension in columns:
        for kind in ("accuracy_without_ties", "accuracy_with_ties"):
            found = bench[dimension][kind]
            print(f"{dimension}, {kind.replace('_', ' ')}: {as_text(found)} over {found['n']} pairs")
        found = generator_alone(work, dimension)
        print(f"{dimension}, by the generator alone, without ties: {as_text(found)} over {found['n']} pairs")
    reelign(work, "bench-reward", "clips/unseen.csv", "--videos=clips", mapped, "--out=bench")


def generator_alone(work: Path, dimension: str) -> dict[str, Any]:
    """Accuracy without ties, on the unseen prompts, of the mean training label of a clip's generator: what a model can know
    without a look at the clip."""
    train, test = (
        pd.read_parquet(work / f"data/pairs/{split}.parquet").dropna(subset=[dimension]) for split in ("train", "test")
    )
    sides = pd.concat(
        [train.assign(model=train.model_A, won=train[dimension]), train.assign(model=train.model_B, won=-train[dimension])]
    )
    worth = sides.groupby("model").won.mean()
    leads = (test.model_A.map(worth) - test.model_B.map(worth)).to_numpy(float)
    rng = np.random.default_rng(0)
    return without_ties(test[dimension].to_numpy(int), leads, test.prompt.to_numpy(), rng, 1000).as_json()


def params(dimensions: list[str]) -> dict[str, Any]:
    found = yaml.safe_load(Path("infra/profiles/examples.yaml").read_text())
    found["source"] |= {"folder": "clips", "csv": "pairs.csv"}
    found["split"] |= {"test": TEST}
    found["reward"] |= {"dimensions": dimensions, "frames": FRAMES}
    found["reward"]["training"] |= TRAINING
    return found


def with_gifs(folder: Path) -> list[dict[str, str]]:
    """The rows of ratings.csv, eight of them of the GIF as it was published."""
    with open(folder / "ratings.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        gif = Path("gif") / f"{Path(row['path']).stem}.gif"
        if (folder / gif).exists():
            row["path"] = str(gif)
    return rows


def write(file: Path, rows: list[dict[str, str]]) -> None:
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def link(at: Path, to: Path) -> None:
    at.parent.mkdir(parents=True, exist_ok=True)
    if not at.exists():
        at.symlink_to(to.resolve())


def reelign(work: Path, *arguments: str) -> None:
    print(f"reelign {' '.join(arguments)}", flush=True)
    call(work, "-m", "components.cli.main", *arguments)


def call(work: Path, *arguments: str) -> None:
    """A program of this checkout, in a folder with its own params and its own store of runs."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{(work / 'mlflow.db').resolve()}"}
    with open(work / "log.txt", "a") as log:
        subprocess.run([sys.executable, *arguments], cwd=work, env=environment, check=True, stderr=log)


if __name__ == "__main__":
    typer.run(main)
