"""A VideoReward that also learns from pairs of one generator's own clips, as DAG `label` collects them.

The demo's simulated panel labels pairs of its candidates: clips of one generator for one training prompt. The candidates
of HELD_BACK further prompts are in no training pair, and measure what these labels give.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from cells import gold, kept, key_of, link, run_in, write_params

from components.config.params import load_params
from components.contracts import CANDIDATES, DIMENSIONS, PAIRS, SOURCE_VIDEOS, VIDEO_REWARD
from components.evaluation.win_rates import win_rate
from components.files.tables import read_table, write_table
from components.pipeline.code_digest import sources_digest
from components.pipeline.stage import folder_digest, seed_of
from components.preferences.agreement import decide_part
from components.preferences.pairs import pair_row
from components.reward.score import RewardModel
from components.schemas import CANDIDATES_SCHEMA, PAIRS_SCHEMA
from components.simulation.annotators import label_pair, panel
from components.simulation.zoo import view_of
from components.video.decode import read_frames

OWN = "own"  # folder of the candidates' clips beside those of the zoo's models
HELD_BACK = 100  # prompts
STEPS = 600  # of training, for the demo's 400: there are half as many pairs again
HERE = ("components", "infra", "pretrained", "judges", "dvc.yaml")


def reward_of_own_clips(demo: Path, work: Path, seed: int) -> Path:
    """The cell with models/video_reward, trained on the demo's pairs and on those of its candidates."""
    changes = {"seed": seed, "reward.training.steps": STEPS}

    def make(folder: Path) -> None:
        link(folder, Path(), HERE)
        write_params(folder, changes)
        link(folder / SOURCE_VIDEOS, demo / SOURCE_VIDEOS, (path.name for path in (demo / SOURCE_VIDEOS).iterdir()))
        (folder / SOURCE_VIDEOS / OWN).symlink_to((demo / CANDIDATES / "videos").resolve())
        own = labelled(demo, work)
        for split in ("train", "validation", "test"):
            rows = read_table(demo / PAIRS / f"{split}.parquet", PAIRS_SCHEMA)
            write_table(folder / PAIRS / f"{split}.parquet", rows + (own if split == "train" else []), PAIRS_SCHEMA)
        run_in(folder, ["-m", "components.reward.train"])

    inputs = [folder_digest(demo / PAIRS), folder_digest(demo / CANDIDATES / "candidates.parquet")]
    code = sources_digest(("components.reward.train", "components.simulation.judge"))
    return kept(work / "own_labels" / key_of(changes, inputs, load_params().reward.model_dump(), HELD_BACK, code), make)


def labelled(demo: Path, work: Path) -> list[dict]:
    """Rows of PAIRS_SCHEMA: each candidate beside the next one of its prompt, without the prompts that are held back."""
    source = load_params().source
    assert source.kind == "shapes"
    people, rows = panel(source.noise, source.tie), []
    table = gold_of_candidates(demo, work)
    held = set(held_back(table))
    for prompt_id, group in table[~table.prompt_id.isin(held)].groupby("prompt_id"):
        takes = group.to_dict("records")
        for number, (one, other) in enumerate(zip(takes, takes[1:] + takes[:1], strict=True)):
            rng = np.random.default_rng(seed_of(0, "own labels", str(prompt_id), number))
            a, b = (one, other) if rng.random() < 0.5 else (other, one)
            answers, ratings = label_pair(a, b, people, rng)
            sides = [{"path": f"{OWN}/{Path(clip['path']).name}", "model": OWN} for clip in (a, b)]
            views = [view_of(one["prompt"], *sides, name, given, ratings.get(name, {})) for name, given in answers.items()]
            rows.append(pair_row(views, *decide_part(views)))
    return rows


def held_back(table: pd.DataFrame) -> list[str]:
    """Prompts of candidates that are in no labelled pair."""
    names = sorted(set(table.prompt_id))
    return [names[place] for place in np.random.default_rng(0).permutation(len(names))[:HELD_BACK]]


def gold_of_candidates(demo: Path, work: Path) -> pd.DataFrame:
    """The demo's candidates with their gold scores."""

    def make(folder: Path) -> None:
        table = pd.DataFrame(read_table(demo / CANDIDATES / "candidates.parquet", CANDIDATES_SCHEMA))
        found = [
            gold(read_frames(demo / CANDIDATES / path), prompt)
            for path, prompt in zip(table.path, table.prompt, strict=True)
        ]
        table.join(pd.DataFrame(found)).to_parquet(folder / "gold.parquet", index=False)

    inputs = [folder_digest(demo / CANDIDATES / "candidates.parquet"), sources_digest(("components.simulation.judge",))]
    return pd.read_parquet(kept(work / "gold" / key_of(inputs), make) / "gold.parquet")


def accuracy(demo: Path, work: Path, model: Path) -> dict[str, str]:
    """Share of pairs of one prompt's candidates that a VideoReward ranks as the gold judge does, on the prompts that are
    held back, by dimension, with 95% intervals over prompts."""
    table = gold_of_candidates(demo, work)
    table = table[table.prompt_id.isin(held_back(table))].reset_index(drop=True)
    shown = [(str(demo / CANDIDATES / path), prompt) for path, prompt in zip(table.path, table.prompt, strict=True)]
    found = [score.normalised | {"Overall": score.overall} for score in RewardModel.load(model / VIDEO_REWARD).score(shown)]
    scores = pd.DataFrame(found)
    one, other = (list(side) for side in zip(*pairs_within(table), strict=True))
    shares = {}
    for name in DIMENSIONS:
        signs = np.sign(table[name].to_numpy()[one] - table[name].to_numpy()[other])
        differences = scores[name].to_numpy()[one] - scores[name].to_numpy()[other]
        decided = signs != 0
        right = win_rate((differences * signs)[decided], np.zeros(decided.sum()), table.prompt.to_numpy()[one][decided])
        shares[name] = f"{right.value:.3f} [{right.low:.3f}, {right.high:.3f}]"
    return shares


def pairs_within(table: pd.DataFrame) -> list[tuple[int, int]]:
    """Places of all pairs of rows of one prompt."""
    groups = [group.index.tolist() for _, group in table.groupby("prompt_id")]
    return [(one, other) for places in groups for one in places for other in places if one < other]
