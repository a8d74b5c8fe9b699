"""Claim 10: reward accuracy predicts the gain of alignment."""

import numpy as np

from benchmarks.claims import models
from benchmarks.claims.accuracy import hits, share
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import World, points

# name: (loss, part of the training pairs)
REWARDS = {
    "regression, 1/16": ("regression", 1 / 16),
    "BT, 1/16": ("bt", 1 / 16),
    "BT, 1/4": ("bt", 1 / 4),
    "BTT, all": ("btt", 1.0),
}
SLOPE = Part("gold win rate against base, Overall, for 10 points of reward accuracy", 0.02, spread=0.4)
GAIN = {name: Part(f"gold win rate against base, Overall, labelled by {name}", 0.05) for name in REWARDS}


def measure(world: World, seed: int) -> Measured:
    base = world.gold(world.clips(world.base, seed)).Overall
    accuracies, gains = [], []
    for loss, part in REWARDS.values():
        model = models.reward(world, seed, loss, part)
        accuracies.append(share(hits(models.test_pairs(world, model), ties=False)))
        aligned = models.aligned(world, seed, labelled_by=model)
        gains.append(points(world.gold(world.clips(aligned, seed)).Overall, base))
    from_mean = np.array(accuracies) - np.mean(accuracies)
    slope = sum(own * weight for own, weight in zip(gains, from_mean / (from_mean**2).sum(), strict=True))
    return {SLOPE.name: slope / 10, **{GAIN[name].name: own for name, own in zip(REWARDS, gains, strict=True)}}


CLAIM = Claim(
    number=10,
    title="The accuracy of a reward model predicts the gain of alignment",
    paper="Assumed by its order of sections; not measured.",
    hypothesis="Of four reward models of unlike accuracy, a more accurate one gives the larger gold win rate.",
    refuted="The slope is surely below 2 points of win rate for 10 points of accuracy.",
    design="Regression and BT on 1/16 of the pairs, BT on 1/4, BTT on all. Each chooses the better clip in the same 1,000"
    " pairs. Flow-DPO with 80 steps of 32. Accuracy is without ties, on test pairs.",
    parts=(SLOPE,),
    more=tuple(GAIN.values()),
    measure=measure,
    hours=0.7,
    prompts=200,
)
