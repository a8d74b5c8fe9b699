"""Costs of training the latent reward model and of guidance with it, from shapes alone."""

import math
from dataclasses import dataclass

import torch
from diffusers import WanTransformer3DModel

from components.alignment.lora import add_lora
from components.generator.costs import ADAM, BYTES, kept_by_a_layer, operations, size
from components.guidance.latent_reward import LatentReward, first_blocks, trunk_tokens
from components.guidance.train import BINS, VALIDATION_SHARE
from components.params import Params


@dataclass(frozen=True)
class LatentCosts:
    """Parameters beyond the generator's; operations of scoring a clip, of guidance per step and clip, and of the whole
    stage; bytes by part while guiding and while training."""

    parameters: int
    forward: float
    push: float
    stage: float
    while_guiding: dict[str, float]
    training: dict[str, float]


def latent_costs(params: Params, transformer: WanTransformer3DModel, clip: torch.Tensor, text: torch.Tensor) -> LatentCosts:
    """Costs of the profile's model on `transformer` (meta device, no LoRA); clip [1, C, T', H', W'], text [1, L, D]."""
    own, dtype = params.latent_reward, params.base_generator.dtype
    frozen = own.trunk == "frozen"
    with torch.device("meta"):
        model = LatentReward(first_blocks(transformer, own.blocks), own.dimensions, frozen).requires_grad_(False)
    trunk = size(model.trunk)
    head = size(model) - trunk
    leaf, t = clip.float().requires_grad_(True), clip.new_ones(1, dtype=torch.float32)
    forward = operations(lambda: model(clip, t, text))
    push = operations(lambda: model(leaf, t, text).sum().backward())
    if frozen:  # it reuses the generator's tokens
        push -= operations(lambda: trunk_tokens(model.trunk, clip, t, text))
    _, guiding = kept_by_a_layer(model.trunk, lambda: model(leaf, t, text))

    model.requires_grad_(True).trunk.requires_grad_(own.trunk == "full")
    if own.trunk == "full":
        model.trunk.float()
    if own.trunk == "lora":
        with torch.device("meta"):
            add_lora(model.trunk, own.lora, seed=0)
    entry, layer = kept_by_a_layer(model.trunk, lambda: model(clip, t, text))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    step = operations(lambda: model(clip, t, text).sum().backward())
    together, training = own.training.batch_size * params.candidates.per_prompt, own.training
    kept = own.blocks * entry + layer if own.gradient_checkpointing else own.blocks * layer
    if own.gradient_checkpointing and not frozen:
        step += forward
    if own.trunk == "full" and training.precision == "bf16":  # weights are float32, activations bfloat16
        kept /= 2
    clips = params.candidates.prompts * params.candidates.per_prompt
    passes = BINS + math.ceil(training.steps / training.validate_every)  # over the held-out prompts
    weights = 0 if own.trunk == "full" else trunk * BYTES[dtype]
    batch = params.sampling.batch_size
    return LatentCosts(
        parameters=head + (0 if frozen else trunk),
        forward=forward,
        push=push,
        stage=training.steps * training.accumulation * together * step + passes * VALIDATION_SHARE * clips * forward,
        while_guiding={
            "latent reward": head * 4.0 + (0 if frozen else trunk * BYTES[dtype]),
            "guidance's activations": batch * own.blocks * guiding,
        },
        training={
            "trunk, frozen": float(weights),
            "what trains and Adam": float(trained * ADAM),
            "activations": 0.0 if frozen else together * kept,
        },
    )
