"""On-policy rounds by a reward that likes brightness: is the alarm raised before the gold judge's scores fall?

    make demo                                                   first, here or in another checkout (--demo)
    python benchmarks/hacked_rounds.py --seeds 17,18,19         minutes a seed; a restart resumes

The reward is VideoReward's mean, with as much weight on a clip's mean brightness. Stage `online@nft` draws, scores, trains
and measures. The gold judge scores all drawn clips, without a weight in the reward. The gate then decides.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from cells import kept, key_of, link, run_in, write_params
from online import OF_DEMO, OF_HERE, WORK

from components.config.params import load_params
from components.errors import NO
from components.pipeline.code_digest import sources_digest
from components.pipeline.stage import folder_digest

SCORER = [sys.executable, str(Path("benchmarks/gold_scores.py").resolve())]
CHANGES = {
    "online.rounds": {"nft": 10},
    "online.prompts": 50,
    "online.per_prompt": 7,
    "online.nft.beta": 0.3,
    "online.nft.training.steps": 20,
    "relabel.weights": {"VQ": 1.0, "MQ": 1.0, "TA": 1.0, "pixels.brightness": 3.0},
}
SOURCE = {
    "kind": "command", "place": " ".join(SCORER), "reward": None, "dimensions": ["brightness", "Overall"], "batch": 400,
    "attempts": 1, "seconds": 600, "key_variable": None,
}  # fmt: skip


def main(
    demo: Annotated[Path, typer.Option(help="Checkout in which `make demo` was run.")] = Path(), seeds: str = "17,18,19"
) -> None:
    """Print the rounds of each seed, and the gate's decision."""
    for seed in map(int, seeds.split(",")):
        cell = hacked(demo, seed)
        rounds = json.loads((cell / "metrics/online-nft.json").read_text())["rounds"]
        scores = pd.read_parquet(cell / "data/online/nft/scores.parquet")
        gold = by_prompt(scores)
        print(f"seed {seed}\n  round  brightness  reward  alarm  gold Overall less round 1's")
        for row in rounds:
            number = int(row["round"])
            alarm = "ALARM" if row["alarm"] else ""
            print(
                f"  {number:5d}  {row['brightness']:10.3f}  {row['reward']:6.2f}  {alarm:5}  {less(gold[number], gold[1])}"
            )
        print("".join(f"  gate: {line}\n" for line in (cell / "gate.txt").read_text().splitlines()), end="")
        metrics = json.loads((cell / "metrics/online-nft.json").read_text())["methods"]["online-nft"]
        rate = metrics["win_rate"]["gold"]["Overall"]
        print(f"  gold win rate against base {rate['value']:.3f} {rate['ci95']}; {'; '.join(metrics['hacking']['reasons'])}")


def hacked(demo: Path, seed: int) -> Path:
    """The cell in which the stage ran, and the gate was called (gate.txt)."""
    changes = {"seed": seed, "relabel.sources": {"pixels": SOURCE}, **CHANGES}
    inputs = [folder_digest(demo / name) for name in ("models/base_generator", "models/video_reward", "data/samples/base")]

    def make(cell: Path) -> None:
        link(cell, Path(), OF_HERE)
        link(cell, demo, OF_DEMO)
        write_params(cell, changes)
        run_in(cell, ["-m", "components.online.run", "nft"])
        environment = os.environ | {"PYTHONPATH": str(Path().resolve())}
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{cell.resolve()}/mlflow.db"
        words = [sys.executable, "-m", "components.cli.main", "promote", "--model", "generator_online-nft"]
        gate = subprocess.run(words, cwd=cell, env=environment, capture_output=True, text=True)
        why = "" if gate.returncode == NO else gate.stderr
        (cell / "gate.txt").write_text(f"{gate.stdout}exit code {gate.returncode} {why}\n")

    params = load_params()
    known = params.align.model_dump(), params.online.model_dump(), params.sampling.model_dump()
    return kept(WORK / "hacked" / key_of(changes, inputs, known, sources_digest(("components.online.run",))), make)


def by_prompt(scores: pd.DataFrame) -> dict[int, np.ndarray]:
    """Gold Overall of each prompt's clips in a round, in gold's unit: sources are normalised round by round."""
    found = {}
    for number, part in scores.groupby("round"):
        stamp = json.loads(part["sources"].iloc[0])["pixels"]["Overall"]
        raw = part["pixels.Overall"] * stamp["std"] + stamp["mean"]
        found[int(str(number))] = raw.groupby(part["prompt_id"]).mean().to_numpy()
    return found


def less(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Difference of means with a 95% interval; rounds have other prompts."""
    width = 1.96 * float(np.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs)))
    value = float(ours.mean() - theirs.mean())
    return f"{value:+.3f} [{value - width:+.3f}, {value + width:+.3f}]"


if __name__ == "__main__":
    typer.run(main)
