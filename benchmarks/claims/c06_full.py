"""Claim 6: full fine-tuning over-trains where LoRA holds."""

from benchmarks.claims import models
from benchmarks.claims.design import FIRST_SEED, Claim, Measured
from benchmarks.claims.models import LONG, STEPS
from benchmarks.claims.statistics import Part
from benchmarks.claims.world import Model, World, points

RATES = (1e-4, 3e-5)
FALLS = Part(f"gold win rate of full fine-tuning at {STEPS} steps against its {LONG}, Overall", 0.05)
LORA = Part(f"gold win rate of LoRA at {LONG} steps against full fine-tuning at {LONG}, Overall", 0.05)
LORA_FALLS = Part(f"gold win rate of LoRA at {STEPS} steps against its {LONG}, Overall", 0.05)
VQ = Part(f"gold win rate of LoRA at {LONG} steps against full fine-tuning at {LONG}, VQ", 0.05)


def chosen_rate(world: World) -> float:
    """The rate of full fine-tuning with the highest gold Overall on validation prompts after STEPS steps, first seed."""

    def overall(rate: float) -> float:
        model = models.aligned(world, FIRST_SEED, full=True, rate=rate, long=True)
        return float(world.gold(world.clips(model, FIRST_SEED, "validation")).Overall.mean())

    return max(RATES, key=overall)


def measure(world: World, seed: int) -> Measured:
    def gold(model: Model):
        return world.gold(world.clips(model, seed))

    rate = chosen_rate(world)
    full, longer = (gold(models.aligned(world, seed, full=True, rate=rate, step=at, long=True)) for at in (STEPS, LONG))
    lora, lora_longer = (gold(models.aligned(world, seed, step=at, long=True)) for at in (STEPS, LONG))
    return {
        FALLS.name: points(full.Overall, longer.Overall),
        LORA.name: points(lora_longer.Overall, longer.Overall),
        LORA_FALLS.name: points(lora.Overall, lora_longer.Overall),
        VQ.name: points(lora_longer.VQ, longer.VQ),
    }


CLAIM = Claim(
    number=6,
    title="Full fine-tuning over-trains where LoRA holds",
    paper="Said without figures: full fine-tuning with Flow-DPO degraded or collapsed the model, hence LoRA.",
    hypothesis="With all weights trained, twice the steps make clips worse by the gold judge, and LoRA is better by then.",
    refuted="Either of the two win rates is surely below 55%.",
    design="Flow-DPO, constant beta 500, 1,000 pairs, batch 32, 80 and 160 steps of one run. LoRA at 3e-4. The rate of full"
    " fine-tuning, 1e-4 or 3e-5, is the better one on validation prompts after 80 steps, first seed.",
    parts=(FALLS, LORA),
    more=(LORA_FALLS, VQ),
    measure=measure,
    hours=0.6,
    prompts=200,
)
