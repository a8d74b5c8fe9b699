"""The gold judge as a scorer of `relabel.sources`: what a method reaches with a reward without errors. Brightness beside it,
for a reward with a planted flaw.

python benchmarks/gold_scores.py clips.csv scores.csv
"""

import sys

import pandas as pd
from cells import gold

from components.evaluation.drift_signals import measure
from components.video.decode import read_frames


def main(clips: str, scores: str) -> None:
    """Read clip, path and prompt; write clip, Overall and brightness."""
    table = pd.read_csv(clips)
    rows = []
    for path, prompt in zip(table["path"], table["prompt"], strict=True):
        frames = read_frames(path)
        rows.append({"Overall": gold(frames, prompt)["Overall"], "brightness": measure(frames).brightness})
    pd.concat([table[["clip"]], pd.DataFrame(rows)], axis=1).to_csv(scores, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
