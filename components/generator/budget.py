"""Resources that alignment needs: parameters, memory by part, disk, and by stage operations, steps and clips drawn.

Memory counts weights, optimizer and activations kept for the backward pass. Attention is assumed not to store its matrix;
temporary buffers of kernels and of the VAE are not counted. Models are built from shapes alone (costs.py).
"""

from dataclasses import dataclass

from components.evaluation.prompt_sets import count_prompts
from components.generator.costs import ADAM, BYTES, architecture, costs_of, models, one_clip, size
from components.guidance.budget import LatentCosts, latent_costs
from components.params import BestOfNParams, NrgParams, Params, TrainingParams
from components.reward.budget import RewardCosts, reward_costs

Parts = dict[str, float]
PLAIN = ("base", "sft", "rwr", "dpo")  # methods without reward guidance or best of N


@dataclass(frozen=True)
class Budget:
    """Parameters by part; bytes by part while sampling, for methods that need more, and while training; bytes on disk;
    operations, optimizer steps and clips drawn, by stage."""

    parameters: dict[str, int]
    sampling: Parts
    methods: dict[str, Parts]
    training: Parts  # with Flow-DPO, the largest of the alignments
    rewards: dict[str, Parts]  # the training of the reward models
    disk: Parts
    operations: Parts
    steps: dict[str, int]
    draws: dict[str, int]


@dataclass(frozen=True)
class Drawing:
    """Operations per clip for plain sampling, reward guidance and best of N."""

    params: Params
    forward: float
    latent: LatentCosts
    reward: RewardCosts

    @property
    def guided(self) -> int:
        """Forward passes per step and clip: 2 with classifier-free guidance."""
        return 1 if self.params.sampling.guidance_scale == 1 else 2

    def plain(self, steps: int | None = None) -> float:
        return (self.params.sampling.steps if steps is None else steps) * self.guided * self.forward

    def nrg(self, guidance: NrgParams) -> float:
        acts = (self.params.sampling.steps - 1) if any(guidance.weights.values()) else 0  # t = 1 is skipped
        return self.plain() + acts * self.latent.push

    def best(self, best: BestOfNParams) -> float:
        if best.judge == "video_reward":
            return best.n * (self.plain() + self.reward.forward)
        steps = self.params.sampling.steps
        return best.n * (self.plain(best.look) + self.latent.forward) + self.plain(steps - best.look)


def budget(params: Params) -> Budget:
    """The budget of a profile; BadInput where neither a folder nor infra/architectures describes a model."""
    dtype, align = params.base_generator.dtype, params.align
    configs = architecture(params)
    transformer, vae, text_encoder = models(configs, dtype)
    clip, text = one_clip(params, transformer, vae, (configs["words"], text_encoder.config.d_model))
    latent, reward = latent_costs(params, transformer, clip, text), reward_costs(params)
    parameters = {"transformer": size(transformer), "text encoder": size(text_encoder), "VAE": size(vae)}
    costs = costs_of(params, transformer, clip, text)
    parameters["LoRA"] = sum(p.numel() for p in transformer.parameters() if p.requires_grad)
    parameters |= {"latent reward": latent.parameters, "VideoReward": reward.parameters}

    drawing = Drawing(params, costs.forward, latent, reward)
    layers, clips = len(transformer.blocks), params.candidates.prompts * params.candidates.per_prompt
    training: dict[str, TrainingParams] = {name: getattr(align, name).training for name in ("sft", "rwr", "dpo")}
    seen = {name: examples(settings) for name, settings in training.items()}
    table = pairs_at_most(params) * align.draws if align.reference == "cached" else seen["dpo"]
    together = 2 * align.dpo.training.batch_size  # both clips of a pair
    kept = layers * costs.entry + costs.layer if align.gradient_checkpointing else layers * costs.layer
    weights = parameters["transformer"] * BYTES[dtype]
    sampled, compared = count_prompts(params) * params.sample.seeds_per_prompt, params.tradeoff.clips
    sampling = {
        "transformer": weights,
        "text encoder": parameters["text encoder"] * BYTES[dtype],
        "VAE, float32": parameters["VAE"] * 4,
        "activations": drawing.guided * params.sampling.batch_size * costs.layer,
    }
    settings = [*params.tradeoff.weights, *params.tradeoff.best_of]
    traded = [drawing.nrg(params.nrg.model_copy(update={"weights": own})) for own in params.tradeoff.weights]
    traded += [drawing.best(best) for best in params.tradeoff.best_of] + [drawing.plain()]
    return Budget(
        parameters,
        sampling,
        methods={
            "sample@nrg": sampling | latent.while_guiding,
            "sample@best_of_n": best_of_n_memory(params, sampling, latent, reward),
        },
        training={"transformer": weights, "LoRA and Adam": parameters["LoRA"] * ADAM, "activations": together * kept},
        rewards={"latent_reward": latent.training, "reward": reward.training},
        disk={
            "generator": 3 * (weights + parameters["text encoder"] * BYTES[dtype] + parameters["VAE"] * 4),
            "latents": 2 * clips * clip.numel() * 4,
            "text": 2 * params.candidates.prompts * text.numel() * BYTES[dtype],
            "reward models": 2 * 4 * (reward.parameters + latent.parameters),
        },
        operations={
            "reward": examples(params.reward.training) * 2 * reward.step,
            "candidates": clips * drawing.plain(),
            "relabel": clips * reward.forward,
            "reference": table * 2 * costs.forward,
            "align@sft": seen["sft"] * costs.step,
            "align@rwr": seen["rwr"] * costs.step,
            "align@dpo": seen["dpo"] * 2 * costs.step,
            "latent_reward": latent.stage,
            f"sample ({len(PLAIN)})": len(PLAIN) * sampled * drawing.plain(),
            "sample@nrg": sampled * drawing.nrg(params.nrg),
            "sample@best_of_n": sampled * drawing.best(params.best_of_n),
            "tradeoff": compared * (sum(traded) + (len(settings) + 1) * reward.forward),
        },
        steps={f"align@{name}": own.steps for name, own in training.items()}
        | {"latent_reward": params.latent_reward.training.steps, "reward": params.reward.training.steps},
        draws={
            "candidates": clips,
            f"sample ({len(PLAIN)})": len(PLAIN) * sampled,
            "sample@nrg": sampled,
            "sample@best_of_n": sampled * params.best_of_n.n,
            "tradeoff": compared * (1 + len(params.tradeoff.weights) + sum(best.n for best in params.tradeoff.best_of)),
        },
    )


def best_of_n_memory(params: Params, sampling: Parts, latent: LatentCosts, reward: RewardCosts) -> Parts:
    """All N clips of each job in a batch are drawn together."""
    more = {"activations": params.best_of_n.n * sampling["activations"]}
    if params.best_of_n.judge == "video_reward":
        return sampling | more | {"VideoReward, float32": reward.parameters * 4.0}
    return sampling | more | {"latent reward": latent.while_guiding["latent reward"]}


def examples(training: TrainingParams) -> int:
    return training.steps * training.batch_size * training.accumulation


def pairs_at_most(params: Params) -> int:
    k = params.candidates.per_prompt
    return params.candidates.prompts * (1 if params.relabel.choose == "best_worst" else k * (k - 1) // 2)
