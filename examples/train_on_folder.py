"""Train a reward model on a folder of clips with a CSV of preferences, and measure it on prompts that training never saw.

    python examples/train_on_folder.py my_clips annotations.csv

It writes params.yaml from profile examples and runs the graph as far as reward_bench, or as far as a third word names.
"""

import subprocess
import sys
from pathlib import Path

import yaml

from components.config.params import load_params


def main(folder: str, csv: str, stage: str = "reward_bench") -> None:
    params = yaml.safe_load(Path("infra/profiles/examples.yaml").read_text())
    params["source"] = {"kind": "folder", "folder": folder, "csv": csv}
    Path("params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    load_params()  # names a key that is wrong
    subprocess.run(["dvc", "repro", stage], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
