"""Claim 12: dynamic degree falls by what the pairs prefer, not by DPO itself."""

from benchmarks.claims import models
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import World, points

FALLS = Part("share of clips slower than base's, the reward's pairs", 0.05)
PAIRS = Part("the same less that of pairs that choose the faster clip", 0.05, spread=0.6)
ITSELF = Part("share of clips slower than base's, pairs labelled at random", 0.1, kind="within")
FASTER = Part("share of clips slower than base's, pairs that choose the faster clip", 0.05)
QUALITY = Part("gold win rate against base, pairs that choose the faster clip, Overall", 0.05)


def measure(world: World, seed: int) -> Measured:
    base = world.gold(world.clips(world.base, seed))
    arms = {"reward": models.aligned(world, seed, long=True)}
    arms |= {labels: models.aligned(world, seed, labels=labels) for labels in ("faster", "random")}
    gold = {name: world.gold(world.clips(model, seed)) for name, model in arms.items()}
    slower = {name: points(base.dynamic, own.dynamic) for name, own in gold.items()}
    return {
        FALLS.name: slower["reward"],
        PAIRS.name: slower["reward"] - slower["faster"],
        ITSELF.name: slower["random"],
        FASTER.name: slower["faster"],
        QUALITY.name: points(gold["faster"].Overall, base.Overall),
    }


CLAIM = Claim(
    number=12,
    title="Motion falls by what the pairs prefer, not by DPO itself",
    paper="Ours. Others report that plain DPO slows motion (DenseDPO: dynamic degree 84.2 before, 80.3 after).",
    hypothesis="The reward's pairs slow clips down. Pairs that choose the faster clip slow them down less. Pairs labelled at"
    " random do not change the speed by 10 points.",
    refuted="One of the three is surely otherwise.",
    design="Flow-DPO on the same 1,000 pairs with three labellings, 80 steps of 32. Speed is the gold judge's, px a frame."
    " The labels by speed read the gold judge: they are a control, not a method.",
    parts=(FALLS, PAIRS, ITSELF),
    more=(FASTER, QUALITY),
    measure=measure,
    hours=0.4,
    prompts=200,
)
