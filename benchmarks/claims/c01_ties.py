"""Claim 1: Bradley-Terry with ties is better with ties, and equal without."""

from benchmarks.claims import models
from benchmarks.claims.accuracy import ASKED, best_thresholds, gain, hits, separation
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import World

WITH = Part("accuracy with ties, BTT less BT", 0.02, spread=0.12)
WITHOUT = Part("accuracy without ties, BTT less BT", 0.03, kind="within", spread=0.12)
EACH = {name: Part(f"accuracy with ties in {name}, BTT less BT", 0.02, spread=0.2) for name in ASKED}

# Reasons, looked at after the run: thresholds, and what the differences of scores know of ties.
BEST = Part("accuracy with ties at thresholds fitted on the test pairs, BTT less BT", 0.02, spread=0.12)
APART = Part("decided pairs with the larger difference than a tie, BTT less BT", 0.02, spread=0.12)
KNOWN = Part("decided pairs with the larger difference than a tie, BTT, above one half", 0.02, spread=0.12)


def measure(world: World, seed: int) -> Measured:
    btt, bt = (models.test_pairs(world, models.reward(world, seed, loss)) for loss in ("btt", "bt"))
    return {
        WITH.name: gain(hits(btt, ties=True), hits(bt, ties=True)),
        WITHOUT.name: gain(hits(btt, ties=False), hits(bt, ties=False)),
        BEST.name: gain(*(hits(best_thresholds(pairs), ties=True) for pairs in (btt, bt))),
        APART.name: separation(btt) - separation(bt),
        KNOWN.name: separation(btt) - 0.5,
        **{part.name: gain(*(hits(pairs, True, [name]) for pairs in (btt, bt))) for name, part in EACH.items()},
    }


CLAIM = Claim(
    number=1,
    title="Bradley-Terry with ties beats Bradley-Terry with ties counted, and equals it without",
    paper="Accuracy with ties, BTT less BT: VQ +8.2 points, MQ +5.2, TA +0.5. Without ties: -0.8, -1.1, +0.5.",
    hypothesis="On unseen prompts BTT has the higher accuracy with ties. Without ties the two differ by less than 3 points.",
    refuted="The gain with ties is surely below 2 points, or the difference without ties is surely above 3.",
    design="VideoReward with each loss on the same pairs, 150 steps of 16. Accuracies are pooled over VQ, MQ and TA on the"
    " demo's test pairs. Tie thresholds come from validation pairs.",
    parts=(WITH, WITHOUT),
    more=(*EACH.values(), BEST, APART, KNOWN),
    measure=measure,
    hours=0.25,
    prompts=115,
)
