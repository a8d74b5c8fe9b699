"""A reward model that reads noisy latents: r(x_t, t, y), one score per dimension (paper section 4.4).

The first blocks of the generator's transformer read the latents at noise level t with the prompt. One learned query per
dimension attends to their tokens, and a linear head gives its score. The paper does not specify blocks, pooling and head;
this design follows successors that published theirs.

The blocks are tuned in full (as in the paper), with a LoRA that is merged at the end, or not at all. A frozen trunk shares
the generator's weights: guidance then reads the tokens of the generator's velocity pass and needs no other.
"""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.family import Family, Network, VelocityModel, check_blocks
from components.generator.spec import SamplerSpec, generator_once
from components.guidance.facts import FACTS, read_facts
from components.pipeline.stage import folder_digest, write_json
from components.runtime.weights import check_tensors, load_tensors

WEIGHTS = "model.safetensors"


class LatentReward(nn.Module):
    """Scores [B, D] in float32 of noisy latents [B, C, T', H', W'] at t [B] under a conditioning of B rows.

    trunk: first blocks of a transformer of `family`. frozen: its weights are the generator's, unchanged. It may be in half
    precision; pooling and head are in float32. clips_at_once: read together with gradients; None is all of a batch.
    """

    def __init__(
        self,
        family: Family,
        trunk: Network,
        dimensions: list[str],
        frozen: bool = False,
        clips_at_once: int | None = None,
    ):
        super().__init__()
        self.family, self.frozen, self.dimensions, self.clips_at_once = family, frozen, dimensions, clips_at_once
        heads, head_width = family.attention(trunk)
        width = heads * head_width
        self.trunk = trunk
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(len(dimensions), width) * width**-0.5)
        self.pool = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.head = nn.Parameter(torch.zeros(len(dimensions), width))

    @property
    def blocks(self) -> int:
        """How many blocks of the generator the trunk has."""
        return len(self.family.blocks(self.trunk))

    def forward(self, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        rows = self.clips_at_once if torch.is_grad_enabled() else None
        if rows is None:
            return self.read(self.family.tokens(self.trunk, latents, t, conditioning))
        parts = zip(latents.split(rows), t.split(rows), conditioning.split(rows), strict=True)
        return torch.cat([self.read(self.family.tokens(self.trunk, *part)) for part in parts])

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores [B, D] of the trunk's last tokens [B, N, width]."""
        tokens = self.norm(tokens.to(self.norm.weight.dtype))
        queries = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.pool(queries, tokens, tokens, need_weights=False)
        return (self.mlp(pooled) * self.head).sum(-1)


def first_blocks(generator: VelocityModel, blocks: int, shared: bool = False) -> Network:
    """The first `blocks` blocks of the generator's transformer, without a LoRA: a copy, or with `shared` the same weights
    in memory."""
    family, transformer = generator.family, next(iter(generator.networks.values()))
    check_blocks(blocks, len(family.blocks(transformer)))
    part = copy.copy(transformer)
    part._modules, part._parameters = dict(transformer._modules), dict(transformer._parameters)
    family.cut(part, blocks)
    weights = [*part.parameters(), *part.buffers()] if shared else []
    trunk = copy.deepcopy(part, memo={id(weight): weight for weight in weights})
    if hasattr(trunk, "peft_config"):
        trunk.unload_lora()
    return trunk


def save_latent_reward(model: LatentReward, folder: Path, facts: dict) -> None:
    """Write weights and facts. `facts` has the digest of the trunk's generator; guidance refuses any other. A frozen trunk
    is not written, as the generator has its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if model.frozen:
        weights = {key: value for key, value in weights.items() if not key.startswith("trunk.")}
    save_file(weights, folder / WEIGHTS)
    shape = {"dimensions": model.dimensions, "blocks": model.blocks, "frozen": model.frozen}
    write_json(folder / FACTS, {**facts, **shape})


def load_latent_reward(folder: str | Path, generator: VelocityModel, generator_digest: str) -> LatentReward:
    """Rebuild the model on the generator's transformer without an adapter; a frozen trunk shares its layers.

    Raises BadInput when it was trained for another generator, and where a weight is missing, unexpected, of another shape
    or not finite.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    if facts.generator != generator_digest:
        why = f"trained for generator {facts.generator}, not for {generator_digest}"
        raise BadInput(folder / FACTS, why, key="generator")
    family, there = generator.family, len(generator.family.blocks(next(iter(generator.networks.values()))))
    if facts.blocks > there:
        raise BadInput(folder / FACTS, f"the generator has {there} blocks", key="blocks")
    trunk = first_blocks(generator, facts.blocks, facts.frozen)
    model = LatentReward(family, trunk, facts.dimensions, facts.frozen)
    weights, own = load_tensors(folder / WEIGHTS), model.state_dict()
    if model.frozen:
        own = {key: value for key, value in own.items() if not key.startswith("trunk.")}
    check_tensors(folder / WEIGHTS, weights, {key: value.shape for key, value in own.items()})
    model.load_state_dict(weights, strict=not model.frozen)
    return model.requires_grad_(False).eval().to(generator.device)


@functools.cache
def latent_reward_once(spec: SamplerSpec, folder: str) -> LatentReward:
    """The model for the generator of `spec`, loaded once per process. BadInput where it reads the base generator's blocks,
    which the LoRA of `spec` changes."""
    reward = load_latent_reward(folder, generator_once(spec).model, folder_digest(spec.base))
    if reward.frozen and spec.lora is not None:
        raise BadInput(folder, "reads the base generator's blocks (trunk: frozen), which --lora changes", key="frozen")
    return reward


def dimension_weights(reward: LatentReward, weights: Mapping[str, float], device: torch.device) -> torch.Tensor:
    """Weights [D] in float32, in the order of the model's dimensions; 0 for unlisted ones."""
    for name in weights:
        if name not in reward.dimensions:
            raise BadInput(
                "params.yaml", f"the latent reward model has only {', '.join(reward.dimensions)}", key=f"weights.{name}"
            )
    values = [weights.get(name, 0.0) for name in reward.dimensions]
    return torch.tensor(values, dtype=torch.float32, device=device)
