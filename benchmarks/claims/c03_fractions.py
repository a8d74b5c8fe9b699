"""Claim 3: Bradley-Terry beats regression at every fraction of the data."""

from benchmarks.claims import models
from benchmarks.claims.accuracy import gain, hits
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import World

FRACTIONS = {1 / 16: "1/16", 1 / 4: "1/4", 1.0: "all"}
PARTS = {
    part: Part(f"accuracy without ties, BT less regression, {name} of the pairs", 0.02, spread=0.15)
    for part, name in FRACTIONS.items()
}
TIES = {
    part: Part(f"accuracy with ties, BT less regression, {name} of the pairs", 0.02, spread=0.15)
    for part, name in FRACTIONS.items()
}


def measure(world: World, seed: int) -> Measured:
    found = {}
    for part in FRACTIONS:
        bt, rated = (models.test_pairs(world, models.reward(world, seed, loss, part)) for loss in ("bt", "regression"))
        found[PARTS[part].name] = gain(hits(bt, ties=False), hits(rated, ties=False))
        found[TIES[part].name] = gain(hits(bt, ties=True), hits(rated, ties=True))
    return found


CLAIM = Claim(
    number=3,
    title="Bradley-Terry beats regression at every fraction of the data",
    paper="A figure without numbers: Bradley-Terry is above regression from 1% to 100% of the pairs.",
    hypothesis="Without ties, the model trained on preferences is more often right than the one trained on ratings, at 1/16,"
    " 1/4 and all of the pairs.",
    refuted="At one fraction the gain is surely below 2 points.",
    design="Both losses on the same pairs, drawn anew for each seed, 150 steps of 16 at each fraction. Ratings are those of"
    " the annotators who gave the preferences, from 1 to 5.",
    parts=tuple(PARTS.values()),
    more=tuple(TIES.values()),
    measure=measure,
    hours=0.5,
    prompts=115,
)
