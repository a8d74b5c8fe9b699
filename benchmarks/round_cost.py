"""What a round of DiffusionNFT costs beside candidates, relabel and Flow-DPO with the same counts, in turns.

    make demo                                                     first, here or in another checkout (--demo)
    python benchmarks/round_cost.py --demo DEMO --repeats 3

Both draw 125 prompts x 7 clips and train 50 steps of 64 examples with the same rate. Seconds are of whole processes.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cells import link, run_in, write_params
from online import LARGE_NFT, OF_DEMO, OF_HERE

PROMPTS, CLIPS, STEPS = 125, 7, 50
TRAINING = {"steps": STEPS, "batch_size": 64, "learning_rate": 5e-4, "log_every": 10}
STAGES = ("components.alignment.candidates", "components.alignment.relabel", "components.alignment.methods.flow_dpo")
INPUTS = ("data/source", "data/samples", "models/base_generator", "models/video_reward", "models/latent_reward")


def main(
    demo: Annotated[Path, typer.Option(help="Checkout in which `make demo` was run.")] = Path(), repeats: int = 3
) -> None:
    """Print seconds of each turn, their ratio, and the median ratio."""
    ratios = []
    for turn in range(repeats):
        offline, online = seconds(demo, INPUTS, offline_round), seconds(demo, OF_DEMO, online_round)
        ratios.append(online / offline)
        print(f"turn {turn + 1}: stages {offline:.1f} s, round {online:.1f} s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def seconds(demo: Path, inputs: tuple[str, ...], run: Callable[[Path], None]) -> float:
    """Seconds of `run` in a new folder with links to these of the demo's files."""
    with tempfile.TemporaryDirectory(prefix="round-") as name:
        folder = Path(name)
        link(folder, Path(), OF_HERE)
        link(folder, demo, inputs)
        begun = time.perf_counter()
        run(folder)
        return time.perf_counter() - begun


def offline_round(folder: Path) -> None:
    changes = {"candidates.prompts": PROMPTS, "candidates.per_prompt": CLIPS}
    write_params(folder, changes | {f"align.dpo.training.{key}": value for key, value in TRAINING.items()})
    for module in STAGES:
        run_in(folder, ["-m", module])


def online_round(folder: Path) -> None:
    changes = LARGE_NFT | {"online.rounds": {"nft": 1}, "online.prompts": PROMPTS, "online.per_prompt": CLIPS}
    write_params(folder, changes | {f"online.nft.training.{key}": value for key, value in TRAINING.items()})
    run_in(folder, [str(Path("benchmarks/online.py").resolve()), "train", "nft"])


if __name__ == "__main__":
    typer.run(main)
