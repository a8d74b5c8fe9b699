"""Claim 11: solver and guidance change what alignment seems to gain."""

from benchmarks.claims import models
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import Model, World, points

PLAIN = ("euler", 2.0)  # as the demo samples
WAYS = (PLAIN, ("euler", 3.5), ("euler", 5.0), ("unipc", 2.0), ("unipc", 3.5))
CHANGES = Part("gold win rate against base as the demo samples, less that with each at its best, Overall", 0.03, spread=0.6)
SHOWN = Part("gold win rate of Flow-DPO against base as the demo samples, Overall", 0.05)
BEST = Part("gold win rate of Flow-DPO against base, each at its best, Overall", 0.05)
SAMPLING = Part("gold win rate of base at its best against base as the demo samples, Overall", 0.05)
TA = Part("gold win rate of Flow-DPO against base, each at its best, TA", 0.05, spread=0.4)


def best(world: World, model: Model, seed: int) -> tuple[str, float]:
    """Solver and guidance with the highest gold Overall on validation prompts."""
    return max(WAYS, key=lambda way: world.gold(world.clips(model, seed, "validation", *way)).Overall.mean())


def measure(world: World, seed: int) -> Measured:
    dpo = models.aligned(world, seed, long=True)
    ours, theirs = (best(world, model, seed) for model in (dpo, world.base))
    plain = [world.gold(world.clips(model, seed, "test", *PLAIN)) for model in (dpo, world.base)]
    own = [world.gold(world.clips(model, seed, "test", *way)) for model, way in ((dpo, ours), (world.base, theirs))]
    shown, at_best = (points(mine.Overall, base.Overall) for mine, base in (plain, own))
    return {
        CHANGES.name: shown - at_best,
        SHOWN.name: shown,
        BEST.name: at_best,
        SAMPLING.name: points(own[1].Overall, plain[1].Overall),
        TA.name: points(own[0].TA, own[1].TA),
    }


CLAIM = Claim(
    number=11,
    title="Solver and guidance change what alignment seems to gain",
    paper="Ours. The paper compares at one setting of sampling, which it does not state.",
    hypothesis="With base and Flow-DPO each at its best solver and guidance, the gain is smaller than as the demo samples.",
    refuted="The gain changes by surely less than 3 points.",
    design="Flow-DPO, 80 steps of 32 on 1,000 pairs. Euler at guidance 2, 3.5 and 5, UniPC at 2 and 3.5, all 8 steps. The"
    " best of each model is chosen for each seed by the gold judge on 101 validation prompts.",
    parts=(CHANGES,),
    more=(SHOWN, BEST, SAMPLING, TA),
    measure=measure,
    hours=0.35,
    prompts=200,
)
