"""Claim 13: of two held-out judges that disagree, the better card decides rightly."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.cells import samples
from benchmarks.claims import models
from benchmarks.claims.accuracy import of_prompts
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import World, scored_rows
from components.contracts import SAMPLES
from components.methods import BASE
from components.pipeline.code_digest import sources_digest
from components.pipeline.stage import folder_digest

METHODS = (BASE, "sft", "rwr", "dpo", "nrg", "best_of_n")
CAREFUL, HASTY = (0.8, 0.05), (3.0, 0.3)  # times the usual noise, lapses
BETTER = Part("clip pairs decided as by gold, careful judge less hasty judge", 0.02, spread=0.25)
WHERE = Part("careful judge's share less one half, where the two judges disagree", 0.05, spread=0.35)
WRONG = {name: Part(f"generator pairs that the {name} judge orders otherwise than gold", 0.05, kind="within") for name in
         ("careful", "hasty")}  # fmt: skip


def scores(world: World, judge: Path) -> pd.DataFrame:
    """The demo's samples, by prompt, seed and method, with gold's Overall and this judge's."""

    def make(folder: Path) -> None:
        table = samples(world.demo, METHODS)
        found = scored_rows(judge, list(zip(table.video, table.prompt, strict=True)))
        table = table[["method", "prompt", "seed", "gold_Overall"]].assign(judge=found.Overall.to_numpy())
        table.to_parquet(folder / "scores.parquet")

    inputs = [folder_digest(judge), *(folder_digest(world.demo / SAMPLES / name) for name in METHODS)]
    cell = world.cell("judged_samples", {"inputs": inputs, "code": sources_digest(("components.reward.score",))}, make)
    return pd.read_parquet(cell / "scores.parquet").sort_values(["method", "prompt", "seed"])


def measure(world: World, seed: int) -> Measured:
    careful, hasty = (scores(world, models.judge_model(world, seed, *kind)) for kind in (CAREFUL, HASTY))
    own = {name: careful[careful.method == name].reset_index(drop=True) for name in METHODS}
    other = {name: hasty[hasty.method == name].reset_index(drop=True) for name in METHODS}
    prompts = own[BASE].prompt
    right, differ, wrong = [], [], {"careful": [], "hasty": []}
    for one, two in combinations(METHODS, 2):
        gold = np.sign(own[one].gold_Overall - own[two].gold_Overall)
        said = np.sign(own[one].judge - own[two].judge), np.sign(other[one].judge - other[two].judge)
        agrees = [(gold == verdict).where(gold != 0, 0.5).astype(float) for verdict in said]
        right.append(agrees[0] - agrees[1])
        differ.append(pd.DataFrame({"right": (agrees[0] - agrees[1]) / 2, "count": (said[0] != said[1]).astype(int)}))
        for name, verdict in zip(wrong, said, strict=True):
            wrong[name].append(float(np.sign(verdict.mean()) != np.sign(gold.mean())))
    by_prompt = pd.concat(right, axis=1).mean(axis=1).groupby(prompts).mean()
    among = sum(differ).groupby(prompts).sum()
    shares = {WRONG[name].name: pd.Series(np.mean(found), index=by_prompt.index) for name, found in wrong.items()}
    return {BETTER.name: by_prompt, WHERE.name: of_prompts(among.right, among["count"]), **shares}


CLAIM = Claim(
    number=13,
    title="Of two held-out judges that disagree, the one with the better card is right",
    paper="Ours. The paper has one judge, its own reward.",
    hypothesis="A judge taught by careful annotators decides pairs of clips as gold does more often than one taught by hasty"
    " annotators.",
    refuted="The difference is surely below 2 points.",
    design="Two VideoRewards for each seed, 150 steps of 16, on labels of two new annotators each. Careful: 0.8 times the"
    " usual noise, 5% lapses. Hasty: 3 times and 30%. Both judge the demo's samples of six generators.",
    parts=(BETTER,),
    more=(WHERE, *WRONG.values()),
    measure=measure,
    hours=0.25,
    prompts=120,
)
