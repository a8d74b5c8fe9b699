"""A reward model that reads noisy latents: r(x_t, t, y), a score a dimension (paper section 4.4).

The first blocks of the generator's own transformer read the latents at noise level t under the prompt; one learned query a
dimension attends to their tokens; a linear head makes its score. The paper leaves blocks, pooling and head unsaid: this is
our choice, after the successors that published theirs.

The blocks are tuned in full (the paper's way), by a LoRA that is merged in the end, or not at all. A frozen trunk is the
generator's own, weight for weight: guidance then reads the tokens of the generator's velocity pass and pays for no other.
"""

import copy
from itertools import chain
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from components.errors import BadInput
from components.generator.wan import TIMESTEPS
from components.stage import write_json
from components.text_files import read_json


class LatentReward(nn.Module):
    """Scores [B, D] of noisy latents [B, C, T', H', W'] at t [B] under text [B, L, E].

    frozen: the trunk's weights are the generator's as they are.
    """

    def __init__(self, trunk: WanTransformer3DModel, dimensions: list[str], frozen: bool = False):
        super().__init__()
        self.frozen = frozen
        width = trunk.config.num_attention_heads * trunk.config.attention_head_dim
        self.dimensions = dimensions
        self.trunk = trunk
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(len(dimensions), width) * width**-0.5)
        self.pool = nn.MultiheadAttention(width, trunk.config.num_attention_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.head = nn.Parameter(torch.zeros(len(dimensions), width))

    def forward(self, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.read(trunk_tokens(self.trunk, latents, t, text))

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores [B, D] of the trunk's last tokens [B, N, width]."""
        tokens = self.norm(tokens.to(self.norm.weight.dtype))
        queries = self.query.expand(len(tokens), -1, -1)
        pooled, _ = self.pool(queries, tokens, tokens, need_weights=False)
        return (self.mlp(pooled) * self.head).sum(-1)


def first_blocks(transformer: WanTransformer3DModel, blocks: int, shared: bool = False) -> WanTransformer3DModel:
    """The generator's transformer up to its block number `blocks`: a copy, or `shared` with the same weights in memory."""
    if blocks > len(transformer.blocks):
        why = f"the generator has {len(transformer.blocks)} blocks"
        raise BadInput("params.yaml", why, key="latent_reward.blocks")
    weights = chain(transformer.parameters(), transformer.buffers()) if shared else ()
    trunk = copy.deepcopy(transformer, memo={id(weight): weight for weight in weights})
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


def save_latent_reward(model: LatentReward, folder: Path, facts: dict) -> None:
    """`facts` says which generator (digest) the trunk came from; guidance refuses another one. A frozen trunk is not
    written: it is the generator's."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if model.frozen:
        weights = {key: value for key, value in weights.items() if not key.startswith("trunk.")}
    save_file(weights, folder / "model.safetensors")
    shape = {"dimensions": model.dimensions, "blocks": len(model.trunk.blocks), "frozen": model.frozen}
    write_json(folder / "latent_reward.json", {**facts, **shape})


def load_latent_reward(folder: str | Path, transformer: WanTransformer3DModel, generator_digest: str) -> LatentReward:
    """Rebuild the model on `transformer`, the generator's without an adapter; a frozen trunk is that one's own layers.

    Raises BadInput when it was trained for another generator.
    """
    folder = Path(folder)
    facts = read_json(folder / "latent_reward.json")
    if facts["generator"] != generator_digest:
        why = f"trained for generator {facts['generator']}, not for {generator_digest}"
        raise BadInput(folder / "latent_reward.json", why, key="generator")
    trunk = first_blocks(transformer, facts["blocks"], shared=facts["frozen"])
    model = LatentReward(trunk, facts["dimensions"], facts["frozen"])
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    missing = [key for key in missing if not (model.frozen and key.startswith("trunk."))]
    if missing or unexpected:
        raise BadInput(
            folder / "model.safetensors", "not the weights of its own latent_reward.json", key=[*missing, *unexpected][0]
        )
    return model.requires_grad_(False).eval().to(transformer.device)
