"""What VideoReward learns on a small backbone of another kind, from random weights: `python benchmarks/backbones.py`.

Clips are the shapes world's renderers' of unlike quality, labelled by its simulated annotators; prompts of the test pairs
are in no other pair. The stages reward and reward_bench are the pipeline's own, in a temporary folder, with the demo's
params but for `reward.base`, positions, steps and rates: random weights need other rates than pretrained ones.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")

import numpy as np  # noqa: E402
import yaml  # noqa: E402

from components.config.params import load_params  # noqa: E402
from components.contracts import DIMENSIONS, LABELS, SOURCE_VIDEOS  # noqa: E402
from components.files.tables import write_table  # noqa: E402
from components.pipeline.stage import Stage  # noqa: E402
from components.preferences.split import split_prompts  # noqa: E402
from components.reward.bench import reward_bench  # noqa: E402
from components.reward.train import reward  # noqa: E402
from components.schemas import PAIRS_SCHEMA  # noqa: E402
from components.simulation.annotators import decided_label, label_pair, panel  # noqa: E402
from components.simulation.world import all_scenes, prompt_of  # noqa: E402
from components.simulation.zoo import RENDERERS, make_and_judge  # noqa: E402
from tests.reward.backbones.small import KINDS, write_small  # noqa: E402

TAKES = 4  # clips of a prompt


def make_pairs(prompts: int) -> dict[str, int]:
    """data/source/videos and data/pairs; how many pairs each split has."""
    params, rng = load_params(), np.random.default_rng(0)
    source: Any = params.source
    people, scenes, world = panel(source.noise, source.tie), all_scenes(), params.world
    work = functools.partial(make_and_judge, videos=str(SOURCE_VIDEOS), rendered=str(SOURCE_VIDEOS))
    names = [prompt_of(scenes[at]) for at in rng.choice(len(scenes), prompts, replace=False)]
    split = split_prompts(names, params.split)
    rows: dict[str, list[dict]] = {"train": [], "validation": [], "test": []}
    for number, prompt in enumerate(names):
        clips = []
        for model in rng.choice(list(RENDERERS), TAKES, replace=False):
            clip = {"path": f"{model}/{number}.mp4", "prompt": prompt, "model": str(model), "seed": int(rng.integers(2**62))}
            scores = work(clip, size=world.size, frames=world.frames, fps=world.fps)["scores"]
            clips.append(clip | {"gold": scores})
        for a, b in itertools.combinations(clips, 2):
            answers, _ = label_pair(a["gold"], b["gold"], people, rng)
            labels = {name: LABELS[decided_label(answers, name)] for name in DIMENSIONS}
            known = {"pair_id": f"{a['path']}|{b['path']}", "prompt": prompt, "path_A": a["path"], "path_B": b["path"]}
            models = {"model_A": a["model"], "model_B": b["model"]}
            ratings = {f"MOS_{side}_{name}": None for side in "AB" for name in DIMENSIONS}
            rest = {"decided_by": "majority", "annotators": sorted(answers), "rows": [2 + len(rows)]}
            rows[split[prompt]].append(known | models | labels | ratings | rest)
    for name, own in rows.items():
        write_table(f"data/pairs/{name}.parquet", own, PAIRS_SCHEMA)
    return {name: len(own) for name, own in rows.items()}


def measured(kind: str, dtype: str, prompts: int, steps: int, width: int) -> dict:
    """Train and measure in the working directory, which becomes a checkout."""
    for name in ("components", "infra"):
        Path(name).symlink_to(ROOT / name)
    Path("dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    params = yaml.safe_load((ROOT / "infra/profiles/shapes.yaml").read_text())
    own = params["reward"] | {"base": "base", "dtype": dtype, "positions": "multimodal", "vision_learning_rate": 2e-3}
    own["training"] |= {"steps": steps, "warmup_steps": 20}
    params["reward"] = own
    Path("params.yaml").write_text(yaml.safe_dump(params))
    write_small(Path("base"), kind, width=width)
    counts = make_pairs(prompts)
    Stage("reward").run(reward)
    Stage("reward_bench").run(reward_bench)
    report = json.loads(Path("metrics/reward_bench.json").read_text())
    found = {name: entry["accuracy_without_ties"] for name, entry in report["dimensions"].items()}
    return {"kind": kind, "dtype": dtype, "pairs": counts, "prompts": report["prompts"], "steps": steps, "accuracy": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, nargs="*", default=list(KINDS))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompts", type=int, default=250)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=64)
    given = parser.parse_args()
    for kind in given.kind:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            print(json.dumps(measured(kind, given.dtype, given.prompts, given.steps, given.width)), flush=True)


if __name__ == "__main__":
    main()
