"""The arithmetic of infra/SIZING.md: `python infra/sizing.py` fills its tables in anew, tests/infra/test_sizing.py holds
them to it. Every figure is worked out from INPUTS, the profiles and what torch counts on models without weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from components.config.params import Params, load_params
from components.methods import METHODS, trained
from components.planning.budget import TRAINING, budget
from components.planning.plan import SHARE

PAGE = Path("infra/SIZING.md")
PROFILES = ("wan2.1-1.3b", "wan2.1-14b")
POOLS = (1, 8, 100)  # GPUs
WEEK = 168  # hours
COMPARED = len(METHODS) - 1  # methods besides base


@dataclass(frozen=True)
class Input:
    value: float
    unit: str
    kind: str  # measured | published | assumed
    where: str


INPUTS = {
    "paper's pairs": Input(182_000, "", "published", "paper, sec. 3.1"),
    "paper's prompts": Input(16_000, "", "published", "paper, sec. 3.1"),
    "paper's videos a prompt": Input(7, "", "published", "paper, sec. 3.1: 108k videos of 16k prompts, rounded up"),
    "paper's batch": Input(64, "pairs", "published", "paper, Tab. 10"),
    "reward model": Input(1.54e9, "parameters", "published", "Qwen2-VL-2B's language model"),
    "its vision tower": Input(0.675e9, "parameters", "published", "Qwen2-VL"),
    "GPU": Input(989e12, "FLOP/s", "published", "H100 SXM, bfloat16, dense"),
    "its memory": Input(80, "GB", "published", "H100 SXM"),
    "share of it that is reached": Input(
        SHARE, "", "assumed", "components/planning/plan.py; --tflops of reelign doctor takes yours"
    ),
    "network of a GPU": Input(50e9, "B/s", "assumed", "400 Gb/s for each GPU of a machine"),
    "decoding": Input(77, "clips/s a core", "measured", "benchmarks/results.md: 48 frames of 256 x 256 to RGB"),
    "frames a clip that are scored": Input(10, "", "assumed", "2 a second of 5 s, 448 x 448"),
    "words of a scored prompt": Input(500, "tokens", "assumed", "template and prompt"),
    "cores beside a GPU": Input(12, "", "assumed", "96 in a machine with eight"),
    "a pool is full at": Input(0.7, "", "assumed", "above it a run waits longer than it takes"),
}


def given(name: str) -> float:
    return INPUTS[name].value


@dataclass(frozen=True)
class Work:
    """Operations by stage; what can be shared out among GPUs without end, and what only as far as a batch goes."""

    shared: dict[str, float]
    batched: dict[str, float]

    def hours(self, gpus: int) -> dict[str, float]:
        rate = given("GPU") * given("share of it that is reached") * 3600
        hours = {name: operations / rate / gpus for name, operations in self.shared.items()}
        return hours | {name: operations / rate / gpus / efficiency(gpus) for name, operations in self.batched.items()}


def efficiency(gpus: int) -> float:
    """Of GPUs that share a batch, the part of their time in which they have a pair to work on."""
    pairs = given("paper's batch")
    return pairs / (gpus * math.ceil(pairs / gpus))


@cache
def costs(profile: str) -> tuple[Params, dict[str, float], dict[str, float], float]:
    """(params, operations of one clip, bytes by part while Flow-DPO trains on one GPU, at most while sampling)."""
    params = load_params(f"infra/profiles/{profile}.yaml")
    found, sft = budget(params), params.align.sft.training
    clips = params.candidates.prompts * params.candidates.per_prompt
    drawn = found.operations["candidates"] / clips
    each = {
        "drawn": drawn,
        "passed": drawn / params.sampling.steps / 2,  # guidance: two clips go through for each that is drawn
        "trained": found.operations["align@sft"] / (sft.steps * sft.batch_size * sft.accumulation),
    }
    return params, each, found.memory["align@dpo"][TRAINING], found.peak("candidates")


def score_operations() -> float:
    """Of VideoReward for one clip: two operations a weight and token; patches are 14 x 14, four of them a token, and two
    frames are one."""
    tokens = given("frames a clip that are scored") / 2 * (448 / 28) ** 2
    return 2 * (
        given("reward model") * (tokens + given("words of a scored prompt")) + given("its vision tower") * 4 * tokens
    )


def profiles_own(profile: str) -> Work:
    params, each, *_ = costs(profile)
    clips, pairs = params.candidates.prompts * params.candidates.per_prompt, params.candidates.prompts
    seen = {name: getattr(params.align, own.params).training for name, own in trained().items()}
    seen = {name: t.steps * t.batch_size * t.accumulation for name, t in seen.items()}
    samples = COMPARED * params.sample.prompts * params.sample.seeds_per_prompt
    return work(each, clips, pairs * params.align.draws, seen, samples)


def papers_own(profile: str) -> Work:
    """The paper's data by this generator: its pairs once, its clips drawn anew, the reference worked out while training."""
    _, each, *_ = costs(profile)
    clips, pairs = int(given("paper's prompts") * given("paper's videos a prompt")), int(given("paper's pairs"))
    return work(each, clips, pairs, dict.fromkeys(trained(), pairs), COMPARED * 946)  # VBench's prompts


def work(each: dict[str, float], clips: int, table: int, seen: dict[str, int], samples: int) -> Work:
    shared = {
        "candidates": clips * each["drawn"],
        "relabel": clips * score_operations(),
        "reference errors": table * 2 * each["passed"],
        f"sample, {COMPARED} methods": samples * each["drawn"],
    }
    aligned = {f"align@{name}": seen[name] * own.clips * each["trained"] for name, own in trained().items()}
    return Work(shared, aligned)


WORKLOADS: dict[str, Callable[[str], Work]] = {"profile's": profiles_own, "paper's": papers_own}


def table(*rows: list[str]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def show(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def inputs() -> str:
    rows = []
    for name, i in INPUTS.items():
        value = show(i.value) if i.value < 1e6 else f"{i.value:.3g}".replace("e+0", "e").replace("e+", "e")
        rows.append([name, f"{value} {i.unit}".strip(), i.kind, i.where])
    for profile in PROFILES:
        _, each, *_ = costs(profile)
        rows += [
            [f"a clip drawn, {profile}", f"{each['drawn'] / 1e15:,.1f} PFLOP", "counted", "components/planning/costs.py"],
            [f"a clip trained on, {profile}", f"{each['trained'] / 1e15:,.2f} PFLOP", "counted", "the same"],
        ]
    return table(["input", "value", "kind", "where from"], *rows)


def hours() -> str:
    rows = []
    for profile in PROFILES:
        for workload, make in WORKLOADS.items():
            by_pool = [make(profile).hours(gpus) for gpus in POOLS]
            rows += [[profile, workload, stage, *(show(found[stage]) for found in by_pool)] for stage in by_pool[0]]
            rows.append([profile, workload, "**together**", *(f"**{show(sum(found.values()))}**" for found in by_pool)])
    return table(["profile", "data", "stage", *(f"h on {gpus}" for gpus in POOLS)], *rows)


def queue() -> str:
    """Retrainings that a pool takes a week, and how long one waits on average: arrivals at random, each of one length."""
    rows = []
    full = given("a pool is full at")
    for profile in PROFILES:
        for workload, make in WORKLOADS.items():
            lengths = [sum(make(profile).hours(gpus).values()) for gpus in POOLS]
            rows.append(
                [profile, workload, *(f"{show(full * WEEK / h)}, {show(full / (2 * (1 - full)) * h)} h" for h in lengths)]
            )
    return table(["profile", "data", *(f"on {gpus}" for gpus in POOLS)], *rows)


def memory() -> str:
    rows = []
    for profile in PROFILES:
        _, _, training, sampling = costs(profile)
        whole = sum(training.values()) / 1e9
        eighth = (sum(training.values()) - training["activations"]) / 8e9 + training["activations"] / 1e9
        fits = given("its memory")
        for what, used in (
            ("sampling", sampling / 1e9),
            ("training on one", whole),
            ("training, eighths", eighth),
        ):
            rows.append([profile, what, f"{used:.1f}", "fits" if used <= fits else "does not fit"])
    return table(["profile", "what", "GB a GPU", f"of {fits:.0f} GB"], *rows)


def network() -> str:
    """FSDP over the GPUs of many machines: each gathers all weights twice a micro-batch, by its own part of the network."""
    rows = []
    rate = given("GPU") * given("share of it that is reached")
    for profile in PROFILES:
        params, each, training, _ = costs(profile)
        computing = 2 * params.align.dpo.training.batch_size * each["trained"] / rate
        moving = 2 * training["transformer"] / given("network of a GPU")
        rows.append([profile, f"{computing:.3g}", f"{moving:.3g}", f"{moving / computing:.1%}"])
    return table(["profile", "s computing", "s moving weights", "part"], *rows)


def batches() -> str:
    pools = (1, 8, 32, 64, 100)
    rows = [[str(gpus), str(math.ceil(given("paper's batch") / gpus)), f"{efficiency(gpus):.0%}"] for gpus in pools]
    return table(["GPUs on one batch", "pairs a GPU, at most", "of their time used"], *rows)


def scoring() -> str:
    rows = []
    speed = given("GPU") * given("share of it that is reached") / score_operations()
    pixels = given("decoding") * 48 * 256 * 256
    for profile in PROFILES:
        sampling = costs(profile)[0].sampling
        cores = pixels / (sampling.frames * sampling.height * sampling.width)
        slower = min(speed, cores * given("cores beside a GPU")) * 8
        rows.append([profile, f"{speed:.3g}", f"{cores:.3g}", f"{speed / cores:.3g}", show(1e6 / slower / 3600)])
    head = ["clips of", "clips/s a GPU", "clips/s a core decodes", "cores to feed a GPU", "h a million on eight GPUs"]
    return table(head, *rows)


def filled(text: str) -> str:
    """`text` with every table between <!-- NAME --> and <!-- end --> worked out anew."""
    tables = (inputs, hours, queue, memory, network, batches, scoring)
    for make in tables:
        name = make.__name__
        before, _, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert end, f"{PAGE} has no place for the table {name}"
        text = f"{before}<!-- {name} -->\n{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
