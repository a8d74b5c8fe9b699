"""Resources that alignment needs: parameters, memory by stage and part, disk, and by stage operations, steps, clips drawn.

Memory counts weights, optimizer, activations kept for a backward pass, and what is alive in a pass without one (costs.py).
Temporary buffers of kernels are not counted. Models are built from shapes alone; `measure` takes seconds, `budget_of` is
arithmetic on what it found, so that settings can be compared (fit.py).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from components.config.params import BestOfNParams, NrgParams, Params, TrainingParams
from components.config.types import WHOLE, Decoding
from components.contracts import JUDGE_REWARD
from components.evaluation.prompt_sets import count_prompts
from components.generator.family import SECOND_PART, Family, VelocityModel, two_experts
from components.generator.prompts import BATCH
from components.generator.sampler import EMBEDDED
from components.methods import METHODS, trained
from components.planning.costs import ADAM, BYTES, Costs, alive, architecture, costs_of, models, size
from components.planning.guidance import LatentCosts, LatentSizes, latent_costs, latent_sizes
from components.planning.reward import RewardCosts, reward_costs, reward_sizes
from components.reward.backbones.protocol import Sizes

Parts = dict[str, float]  # bytes that are in memory together
Phases = dict[str, Parts]  # of a stage, one after the other
TEXT_ENCODER = "text_encoder"  # how the names of the parts that read prompts begin
TRAINING = "training"  # a phase whose batch GPUs share


@dataclass(frozen=True)
class Measured:
    """A profile's generator in figures that no batch, checkpointing, offload or decoding changes. encoding: bytes alive
    while one prompt is encoded; decoding: while one clip is decoded, by the way of it."""

    family: Family
    sizes: dict[str, int]
    layers: int
    lora: int
    costs: Costs
    latent: LatentSizes
    reward: Sizes
    encoding: float
    decoding: Callable[[Decoding], float]
    latents: float
    text: float


@dataclass(frozen=True)
class Budget:
    """Parameters by part; bytes by stage, phase and part; bytes on disk; operations, optimizer steps and clips drawn, by
    stage."""

    parameters: dict[str, int]
    memory: dict[str, Phases]
    disk: Parts
    operations: Parts
    steps: dict[str, int]
    draws: dict[str, int]

    def peak(self, stage: str) -> float:
        return max(sum(parts.values()) for parts in self.memory[stage].values())


@dataclass(frozen=True)
class Drawing:
    """Operations per clip for plain sampling, reward guidance and best of N, and the memory of each."""

    params: Params
    measured: Measured
    latent: LatentCosts
    reward: RewardCosts

    @property
    def guided(self) -> int:
        """Forward passes per step and clip: 2 with classifier-free guidance."""
        return 1 if self.params.sampling.guidance_scale == 1 or EMBEDDED in self.measured.family.reads else 2

    def plain(self, steps: int | None = None) -> float:
        return (self.params.sampling.steps if steps is None else steps) * self.guided * self.measured.costs.forward

    def nrg(self, guidance: NrgParams) -> float:
        acts = (self.params.sampling.steps - 1) if any(guidance.weights.values()) else 0  # t = 1 is skipped
        again = self.latent.forward if guidance.gradient_checkpointing else 0
        return self.plain() + acts * (self.latent.push + again)

    def guided_by(self, own: NrgParams | BestOfNParams) -> float:
        return self.best(own) if isinstance(own, BestOfNParams) else self.nrg(own)

    def best(self, best: BestOfNParams) -> float:
        if best.judge == "video_reward":
            return best.n * (self.plain() + self.reward.forward)
        steps = self.params.sampling.steps
        return best.n * (self.plain(best.rank_step) + self.latent.forward) + self.plain(steps - best.rank_step)

    def held(self) -> Parts:
        """Weights while sampling; the text encoder is gone by then."""
        held: Parts = {}
        for part, label in self.measured.family.parts.items():
            if part == SECOND_PART:  # one of two transformers is in memory at a time
                continue
            if part in self.measured.family.float32_parts:
                held[f"{label}, float32"] = self.measured.sizes[part] * 4.0
            elif not part.startswith(TEXT_ENCODER):
                held[label] = self.measured.sizes[part] * float(BYTES[self.params.base_generator.dtype])
        return held

    def encoding(self) -> Phases:
        bytes_each = BYTES[self.params.base_generator.dtype]
        weights = sum(size for part, size in self.measured.sizes.items() if part.startswith(TEXT_ENCODER)) * float(
            bytes_each
        )
        return {"encoding": {"text encoder": weights, "activations": BATCH * self.measured.encoding}}

    def sampled(self, at_once: int = 1) -> Phases:
        """Of plain sampling, with `at_once` clips for each job of a batch."""
        sampling = self.params.sampling
        clips = sampling.batch_size * at_once
        passes = clips * self.guided * self.measured.costs.alive
        decoded = (clips if sampling.decode == "whole" else 1) * self.measured.decoding(sampling.decoding)
        held = self.held()
        return {
            **self.encoding(),
            "sampling": held | {"activations": passes},
            "decoding": held | {"activations": decoded},
        }

    def guided_memory(self, own: NrgParams | BestOfNParams) -> Phases:
        """While sampling with guidance. All N clips of each job in a batch of best of N are drawn together."""
        if isinstance(own, NrgParams):
            phases, more = self.sampled(), {"latent reward": self.latent.weights}
            phases["sampling"] |= {"guidance's activations": self.latent.guiding(own, self.params.sampling.batch_size)}
        else:
            by_video = own.judge == "video_reward"
            phases = self.sampled(own.n if by_video else 1)
            more = (
                {"VideoReward": self.reward.scoring["VideoReward"]} if by_video else {"latent reward": self.latent.weights}
            )
            phases["sampling"] = self.sampled(own.n)["sampling"]
            if by_video:
                clips = self.params.sampling.batch_size * own.n
                phases["scoring"] = self.held() | {"activations": self.reward.scored(clips)}
        return {name: parts if name == "encoding" else parts | more for name, parts in phases.items()}

    def judge(self) -> Parts:
        """Weights of the second VideoReward, where it judges."""
        return {"judge": self.reward.scoring["VideoReward"]} if judged_by_reward(self.params) else {}

    def scored(self, clips: int) -> Phases:
        return {"scoring": self.reward.scoring | {"activations": self.reward.scored(clips)}}

    def traded(self) -> Phases:
        """All settings in turns, with VideoReward beside them, and the latent reward model."""
        params, latent = self.params, {"latent reward": self.latent.weights}
        ways: list[NrgParams | BestOfNParams] = [
            *params.tradeoff.best_of,
            *([params.nrg] if params.tradeoff.weights else []),
        ]
        beside = self.reward.scoring | self.judge() | (latent if any(not by_video(own) for own in ways) else {})
        phases = self.encoding()
        for own in [self.sampled(), *map(self.guided_memory, ways), self.scored(params.sampling.batch_size)]:
            for name, parts in own.items():
                if name != "encoding" and sum((parts | beside).values()) > sum(phases.get(name, {}).values()):
                    phases[name] = parts | beside
        phases["scoring"] |= self.held()
        return phases


def by_video(own: NrgParams | BestOfNParams) -> bool:
    return isinstance(own, BestOfNParams) and own.judge == "video_reward"


def judged_by_reward(params: Params) -> bool:
    return f"model:{JUDGE_REWARD}" in params.evaluate.judges


def measure(params: Params) -> Measured:
    """Of a profile; BadInput where neither a folder nor infra/architectures describes a model."""
    dtype = params.base_generator.dtype
    family, configs = architecture(params)
    parts = models(family, configs, dtype)
    sampling = params.sampling
    clip, text = family.example(configs, parts, (sampling.frames, sampling.height, sampling.width))
    model = VelocityModel(family, parts["transformer"])
    latent = latent_sizes(params, model, clip, text)
    sizes = {part: size(parts[part]) for part in family.parts}
    costs = costs_of(params, model, clip, text)

    def passes(decoding: Decoding) -> Any:
        return family.passes(configs, parts, clip, decoding)

    @cache
    def decoding(way: Decoding) -> float:
        return alive(passes(way)["vae"])

    return Measured(
        family,
        sizes,
        len(family.blocks(model.transformer)),
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        costs,
        latent,
        reward_sizes(params),
        alive(passes(WHOLE)[TEXT_ENCODER]),
        decoding,
        clip.numel() * 4.0,
        float(text.nbytes),
    )


def budget(params: Params) -> Budget:
    """The budget of a profile; BadInput where neither a folder nor infra/architectures describes a model."""
    return budget_of(params, measure(params))


def budget_of(params: Params, measured: Measured) -> Budget:
    """The budget of a profile whose models and clips are those of `measured`."""
    align, family, costs = params.align, measured.family, measured.costs
    latent, reward = latent_costs(params, measured.latent), reward_costs(params, measured.reward)
    drawing = Drawing(params, measured, latent, reward)
    clips = params.candidates.prompts * params.candidates.per_prompt
    methods = trained()
    training: dict[str, TrainingParams] = {name: getattr(align, own.params).training for name, own in methods.items()}
    seen = {name: examples(settings) for name, settings in training.items()}
    compared_with = [seen[name] for name, own in methods.items() if own.reference]
    table = pairs_at_most(params) * align.draws if align.reference == "cached" else sum(compared_with)
    guided = {name: getattr(params, method.guidance) for name, method in METHODS.items() if method.guidance}
    plain = [name for name, method in METHODS.items() if method.guidance is None]
    kept = costs.kept(measured.layers, align.gradient_checkpointing, align.offload)
    step = costs.step + (costs.forward if align.gradient_checkpointing else 0)
    sampled, compared = count_prompts(params) * params.sample.seeds_per_prompt, params.tradeoff.clips
    settings = [*params.tradeoff.weights, *params.tradeoff.best_of]
    traded = [drawing.nrg(params.nrg.model_copy(update={"weights": own})) for own in params.tradeoff.weights]
    traded += [drawing.best(best) for best in params.tradeoff.best_of] + [drawing.plain()]
    experts = len(align.trained_experts) if two_experts(family) else 1
    other = drawing.held()["transformer"] if two_experts(family) else 0.0
    transformers = drawing.held()["transformer"] * experts
    policy = {"transformer": transformers, "LoRA and Adam": float(experts * measured.lora * ADAM)}
    aligned: dict[str, Phases] = {
        f"align@{name}": {TRAINING: policy | {"activations": own.clips * training[name].batch_size * kept}}
        for name, own in methods.items()
    }
    on_disk = sum(drawing.held().values()) + other + drawing.encoding()["encoding"]["text encoder"]
    stages_of_all = (len(plain) + len(guided)) * sampled
    second = [f"judge_reward@{name}" for name in params.judge_reward.held_out]
    scorers = 2 if judged_by_reward(params) else 1
    return Budget(
        parameters={label: measured.sizes[part] for part, label in family.parts.items()}
        | {"LoRA": experts * measured.lora, "latent reward": latent.parameters, "VideoReward": reward.parameters},
        memory={
            "reward": {TRAINING: reward.training},
            "reward_bench": drawing.scored(reward.at_once),
            **{name: {TRAINING: reward.training, **drawing.scored(reward.at_once)} for name in second},
            "base_generator": drawing.sampled(),
            "candidates": drawing.sampled(),
            "relabel": drawing.scored(clips),
            **aligned,
            "latent_reward": {TRAINING: latent.training},
            **{f"sample@{name}": drawing.sampled() for name in plain},
            **{f"sample@{name}": drawing.guided_memory(own) for name, own in guided.items()},
            "tradeoff": drawing.traded(),
            "evaluate": {name: parts | drawing.judge() for name, parts in drawing.scored(stages_of_all).items()},
        },
        disk={
            "generator": 3 * on_disk,
            "latents": 2 * clips * measured.latents,
            "text": 2 * params.candidates.prompts * measured.text,
            "reward models": 2.0
            * (BYTES[params.reward.dtype] * reward.parameters * (1 + len(second)) + 4 * latent.parameters),
        },
        operations={
            "reward": examples(params.reward.training) * 2 * reward.step,
            **{name: examples(params.reward.training) * 2 * reward.step for name in second},
            "base_generator": params.base_generator.probe_prompts * drawing.plain(),
            "candidates": clips * drawing.plain(),
            "relabel": clips * reward.forward,
            "reference": table * 2 * costs.forward,
            **{f"align@{name}": seen[name] * own.clips * step for name, own in methods.items()},
            "latent_reward": latent.stage,
            f"sample ({len(plain)})": len(plain) * sampled * drawing.plain(),
            **{f"sample@{name}": sampled * drawing.guided_by(own) for name, own in guided.items()},
            "tradeoff": compared * (sum(traded) + (len(settings) + 1) * scorers * reward.forward),
            "evaluate": stages_of_all * scorers * reward.forward,
        },
        steps={f"align@{name}": own.steps for name, own in training.items()}
        | {"latent_reward": params.latent_reward.training.steps, "reward": params.reward.training.steps}
        | dict.fromkeys(second, params.reward.training.steps),
        draws={
            "base_generator": params.base_generator.probe_prompts,
            "candidates": clips,
            f"sample ({len(plain)})": len(plain) * sampled,
            **{f"sample@{name}": sampled * (own.n if isinstance(own, BestOfNParams) else 1) for name, own in guided.items()},
            "tradeoff": compared * (1 + len(params.tradeoff.weights) + sum(best.n for best in params.tradeoff.best_of)),
        },
    )


def examples(training: TrainingParams) -> int:
    return training.steps * training.batch_size * training.accumulation


def pairs_at_most(params: Params) -> int:
    k = params.candidates.per_prompt
    return params.candidates.prompts * (1 if params.relabel.choose == "best_worst" else k * (k - 1) // 2)
