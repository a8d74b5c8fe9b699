"""A reward model that reads noisy latents: r(x_t, t, y), a score a dimension (paper section 4.4).

The first blocks of the generator's own transformer read the latents at noise level t under the prompt; one learned query a
dimension attends to their tokens; a linear head makes its score. The paper leaves blocks, pooling and head unsaid: this is
our choice, after the successors that published theirs.
"""

import copy
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from components.errors import BadInput
from components.generator.wan import TIMESTEPS
from components.stage import read_json, write_json


class LatentReward(nn.Module):
    """Scores [B, D] of noisy latents [B, C, T', H', W'] at t [B] under text [B, L, E]."""

    def __init__(self, trunk: WanTransformer3DModel, dimensions: list[str]):
        super().__init__()
        width = trunk.config.num_attention_heads * trunk.config.attention_head_dim
        self.dimensions = dimensions
        self.trunk = trunk
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(len(dimensions), width) * width**-0.5)
        self.pool = nn.MultiheadAttention(width, trunk.config.num_attention_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.head = nn.Parameter(torch.zeros(len(dimensions), width))

    def forward(self, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        tokens = self.norm(trunk_tokens(self.trunk, latents, t, text))
        queries = self.query.expand(len(latents), -1, -1)
        pooled, _ = self.pool(queries, tokens, tokens, need_weights=False)
        return (self.mlp(pooled) * self.head).sum(-1)


def first_blocks(transformer: WanTransformer3DModel, blocks: int) -> WanTransformer3DModel:
    """A copy of the generator's transformer that ends after `blocks` blocks."""
    if blocks > len(transformer.blocks):
        why = f"the generator has {len(transformer.blocks)} blocks"
        raise BadInput("params.yaml", why, key="latent_reward.blocks")
    trunk = copy.deepcopy(transformer)
    trunk.blocks = trunk.blocks[:blocks]
    del trunk.norm_out, trunk.proj_out
    trunk.scale_shift_table = None  # of the output layer, which a trunk does not have
    return trunk


def trunk_tokens(trunk: WanTransformer3DModel, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Tokens [B, N, width] after the trunk's last block: the transformer's forward without its output layer."""
    rotary = trunk.rope(latents)
    tokens = trunk.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
    _, modulation, context, _ = trunk.condition_embedder(t * TIMESTEPS, text, None)
    modulation = modulation.unflatten(1, (6, -1))
    for block in trunk.blocks:
        tokens = block(tokens, context, modulation, rotary)
    return tokens


def bradley_terry(scores_a: torch.Tensor, scores_b: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r_w - r_l), mean over entries with a preference; scores [B, D], labels [B, D] of 1 (A), -1 (B), 0.

    Paper section 4.4 trains the noisy reward by Bradley-Terry: a pair keeps its preference at every noise level.
    """
    decided = labels != 0
    loss = -F.logsigmoid(labels * (scores_a - scores_b))
    return (loss * decided).sum() / decided.sum().clamp(min=1)


def save_latent_reward(model: LatentReward, folder: Path, facts: dict) -> None:
    """`facts` says which generator (digest) the trunk came from; guidance refuses another one."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    write_json(folder / "latent_reward.json", {**facts, "dimensions": model.dimensions, "blocks": len(model.trunk.blocks)})


def load_latent_reward(folder: str | Path, transformer: WanTransformer3DModel, generator_digest: str) -> LatentReward:
    """Rebuild the model on the shape of `transformer`; BadInput when it was trained for another generator."""
    folder = Path(folder)
    facts = read_json(folder / "latent_reward.json")
    if facts["generator"] != generator_digest:
        why = f"trained for generator {facts['generator']}, not for {generator_digest}"
        raise BadInput(folder / "latent_reward.json", why, key="generator")
    model = LatentReward(first_blocks(transformer, facts["blocks"]), facts["dimensions"])
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.requires_grad_(False).eval().to(transformer.device)
