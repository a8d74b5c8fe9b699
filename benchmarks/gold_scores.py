"""The gold judge as a scorer of `relabel.sources`: what a method reaches with a reward without errors.

python benchmarks/gold_scores.py clips.csv scores.csv
"""

import sys

import pandas as pd
from cells import gold

from components.video.decode import read_frames


def main(clips: str, scores: str) -> None:
    """Read clip, path and prompt; write clip and Overall."""
    table = pd.read_csv(clips)
    found = [gold(read_frames(path), prompt)["Overall"] for path, prompt in zip(table["path"], table["prompt"], strict=True)]
    pd.DataFrame({"clip": table["clip"], "Overall": found}).to_csv(scores, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
