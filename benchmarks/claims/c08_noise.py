"""Claim 8: guidance needs a noise-aware reward."""

from benchmarks.claims import models
from benchmarks.claims.accuracy import ASKED
from benchmarks.claims.c07_weights import guided
from benchmarks.claims.design import Claim, Measured
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import Model, World, points

MEAN = Part("gold win rate in the dimension that guides, noise-aware against clean, mean of three", 0.03, spread=0.3)
EACH = {name: Part(f"the same in {name} alone", 0.03) for name in ASKED}
CLEAN = {name: Part(f"gold win rate in {name} against plain sampling, guided by {name}, clean", 0.05) for name in ASKED}


def measure(world: World, seed: int) -> Measured:
    aware, clean = (Model(world.base.generator, latent=models.latent(world, seed, way)) for way in (True, False))
    plain = world.gold(world.clips(world.base, seed))
    direct, against = {}, {}
    for name in ASKED:
        ours, theirs = (guided(world, guide, seed, **{name: 1.0}) for guide in (aware, clean))
        direct[name] = points(ours[name], theirs[name])
        against[CLEAN[name].name] = points(theirs[name], plain[name])
    return {
        MEAN.name: sum(direct.values()) / len(ASKED),
        **{EACH[name].name: values for name, values in direct.items()},
        **against,
    }


CLAIM = Claim(
    number=8,
    title="Guidance needs a reward that was trained on noisy latents",
    paper="MQ guides, win rates by its own reward: trained with noise VQ 66, MQ 75, TA 32; without 37, 39, 53.",
    hypothesis="Guided by one dimension, the noise-aware model's clip is better in it than the clean-trained model's.",
    refuted="That win rate, mean of the three dimensions, is surely below 53%.",
    design="Two latent reward models for each seed, 150 steps: t uniform on [0, 1], or clean latents alone. Base clips"
    " guided by VQ, MQ or TA alone, same strength, prompts and noise.",
    parts=(MEAN,),
    more=(*EACH.values(), *CLEAN.values()),
    measure=measure,
    hours=0.4,
    prompts=200,
)
