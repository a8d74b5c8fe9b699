"""Costs of training the latent reward model and of guidance with it, from shapes alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from components.alignment.lora import adapt
from components.config.params import NrgParams, Params
from components.generator.conditioning import Conditioning
from components.generator.family import VelocityModel
from components.guidance.latent_reward import LatentReward, first_blocks
from components.guidance.train import BINS, VALIDATION_SHARE
from components.planning.costs import ADAM, BYTES, kept, kept_by_a_layer, kept_for_backward, operations, size
from components.planning.layers import runs_of, shortened, summed


@dataclass(frozen=True)
class LatentSizes:
    """What no batch and no checkpointing changes. Parameters of trunk and head, and those that train; operations of scoring
    a clip, of guidance per step and clip, of a training step; bytes of a block's input and of what a block keeps for the
    backward pass, while guiding and while training, and of what the head keeps."""

    trunk: int
    head: int
    trained: int
    forward: float
    push: float
    step: float
    guided: tuple[float, float]
    training: tuple[float, float]
    read: float


@dataclass(frozen=True)
class LatentCosts:
    """Parameters beyond the generator's; operations of scoring a clip, of guidance per step and clip, and of the whole
    stage; bytes of weights beside the generator's, and by part while training."""

    parameters: int
    forward: float
    push: float
    stage: float
    weights: float
    training: dict[str, float]
    blocks: int
    guided: tuple[float, float]
    read: float

    def guiding(self, own: NrgParams, clips: int) -> float:
        """Bytes of activations of a step with guidance."""
        return clips * (kept(*self.guided, self.blocks, own.gradient_checkpointing, False) + self.read)


def latent_sizes(params: Params, generator: VelocityModel, clip: torch.Tensor, text: Conditioning) -> LatentSizes:
    """Of the profile's model on `generator` (meta device, no LoRA); clip [1, C, T', H', W'] and its conditioning."""
    family, own = generator.family, params.latent_reward
    frozen = own.trunk == "frozen"
    with torch.device("meta"):
        model = LatentReward(family, first_blocks(generator, own.blocks), own.dimensions, frozen).requires_grad_(False)
    trunk = size(model.trunk)
    head = size(model) - trunk
    leaf, t = clip.float().requires_grad_(True), clip.new_ones(1, dtype=torch.float32)

    def counted(function: Callable[[], object]) -> float:
        return summed(model.trunk, runs_of(model.trunk, family.blocks(model.trunk)), lambda: operations(function))

    def kept_with(x: torch.Tensor) -> tuple[float, float]:
        with shortened(model.trunk, runs_of(model.trunk, family.blocks(model.trunk))):
            return kept_by_a_layer(family.blocks(model.trunk), lambda: model(x, t, text))

    forward = counted(lambda: model(clip, t, text))
    push = counted(lambda: model(leaf, t, text).sum().backward())
    if frozen:  # it reuses the generator's tokens
        push -= counted(lambda: family.tokens(model.trunk, clip, t, text))
    guided = kept_with(leaf)

    model.requires_grad_(True).trunk.requires_grad_(own.trunk == "full")
    if own.trunk == "full":
        model.trunk.float()
    if own.trunk == "lora":
        with torch.device("meta"):
            adapt(model.trunk, own.lora, 0, family.lora_targets)
    training = kept_with(clip)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with torch.no_grad(), shortened(model.trunk, runs_of(model.trunk, family.blocks(model.trunk))):
        _, tokens, width = family.tokens(model.trunk, clip, t, text).shape
    step = counted(lambda: model(clip, t, text).sum().backward())
    read = kept_for_backward(lambda: model.read(clip.new_ones(1, tokens, width)))
    return LatentSizes(trunk, head, trained, forward, push, step, guided, training, read)


def latent_costs(params: Params, sizes: LatentSizes) -> LatentCosts:
    """Costs of the profile's model."""
    own, held = params.latent_reward, BYTES[params.base_generator.dtype]
    training, frozen = own.training, own.trunk == "frozen"
    together, again = training.batch_size * params.candidates.per_prompt, own.gradient_checkpointing
    step = sizes.step + (sizes.forward if again and not frozen else 0)
    entry, layer = sizes.training
    if again:  # one block's for the clips that are read together
        layer *= min(own.clips_at_once or together, together) / together
    head = 0 if own.offload else sizes.read
    activations = together * (kept(entry, layer, own.blocks, again, own.offload) + head)
    if own.trunk == "full" and training.precision == "bf16":  # weights are float32, activations bfloat16
        activations /= 2
    clips = params.candidates.prompts * params.candidates.per_prompt
    passes = BINS + math.ceil(training.steps / training.validate_every)  # over the held-out prompts
    return LatentCosts(
        parameters=sizes.head + (0 if frozen else sizes.trunk),
        forward=sizes.forward,
        push=sizes.push,
        stage=training.steps * training.accumulation * together * step + passes * VALIDATION_SHARE * clips * sizes.forward,
        weights=sizes.head * 4.0 + (0 if frozen else sizes.trunk * float(held)),
        training={
            "trunk, frozen": 0.0 if own.trunk == "full" else sizes.trunk * float(held),
            "what trains and Adam": float(sizes.trained * ADAM),
            "activations": together * head if frozen else activations,
        },
        blocks=own.blocks,
        guided=sizes.guided,
        read=sizes.read,
    )
