"""Claim 9: reward win rates overstate gold win rates, more so the longer training goes."""

from benchmarks.claims import models
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.models import LONG, SNAPSHOTS
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import World, points

FIRST = SNAPSHOTS[0]
GAP = Part(f"reward win rate less gold win rate after {LONG} steps, Overall", 0.03, spread=0.5)
GROWS = Part(f"that difference after {LONG} steps less after {FIRST}", 0.03, spread=0.5)
GOLD = {at: Part(f"gold win rate against base after {at} steps, Overall", 0.05) for at in SNAPSHOTS}
REWARD = {at: Part(f"reward win rate against base after {at} steps, Overall", 0.05) for at in SNAPSHOTS}


def measure(world: World, seed: int) -> Measured:
    base = world.clips(world.base, seed)
    found, gaps = {}, {}
    for at in SNAPSHOTS:
        clips = world.clips(models.aligned(world, seed, step=at, long=True), seed)
        gold = points(world.gold(clips).Overall, world.gold(base).Overall)
        reward = points(world.reward(clips, world.reward_model).Overall, world.reward(base, world.reward_model).Overall)
        gaps[at] = reward - gold
        found |= {GOLD[at].name: gold, REWARD[at].name: reward}
    return {GAP.name: gaps[LONG], GROWS.name: gaps[LONG] - gaps[FIRST], **found}


CLAIM = Claim(
    number=9,
    title="The reward's win rate overstates the gold one, the more the longer training goes",
    paper="Not measured: its win rates are by the reward that labelled the pairs. It names reward hacking as a limit.",
    hypothesis="After 160 steps the reward that chose the pairs gives a higher win rate than the gold judge. The"
    " difference is larger than after 20 steps.",
    refuted="Either difference is surely below 3 points.",
    design="Flow-DPO, constant beta 500, 1,000 pairs, batch 32, one run with snapshots at 20, 40, 80 and 160 steps. Both"
    " judges see the same clips against base.",
    parts=(GAP, GROWS),
    more=(*GOLD.values(), *REWARD.values()),
    measure=measure,
    hours=0.35,
    prompts=200,
)
