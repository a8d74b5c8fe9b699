"""A reward model that reads noisy latents: r(x_t, t, y), one score per dimension (paper section 4.4).

The first blocks of the generator's transformer read the latents at noise level t with the prompt. One learned query per
dimension attends to their tokens, and a linear head gives its score. The paper does not specify blocks, pooling and head;
this design follows successors that published theirs.

The blocks are tuned in full (as in the paper), with a LoRA that is merged at the end, or not at all. A frozen trunk shares
the generator's weights: guidance then reads the tokens of the generator's velocity pass and needs no other.
"""

import copy
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from components.errors import BadInput
from components.generator.wan import TIMESTEPS, input_dtype, load_transformer
from components.guidance.facts import FACTS, read_facts
from components.param_types import Dtype
from components.stage import write_json
from components.text_files import read_json
from components.weights import check_tensors, load_tensors

WEIGHTS = "model.safetensors"


class LatentReward(nn.Module):
    """Scores [B, D] in float32 of noisy latents [B, C, T', H', W'] at t [B] under text [B, L, E].

    frozen: the trunk's weights are the generator's, unchanged. The trunk may be in half precision; pooling and head are in
    float32.
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


def load_trunk(folder: str | Path, blocks: int, dtype: Dtype) -> WanTransformer3DModel:
    """The first `blocks` blocks of the transformer of a WanPipeline folder, without gradients, on the CPU; the other blocks
    are not read."""
    check_blocks(blocks, read_json(Path(folder) / "transformer/config.json", "num_layers")["num_layers"])
    later = rf"blocks\.(?!({'|'.join(map(str, range(blocks)))})\.)"
    return cut(load_transformer(folder, dtype, unread=later, num_layers=blocks), blocks)


def first_blocks(transformer: WanTransformer3DModel, blocks: int, shared: bool = False) -> WanTransformer3DModel:
    """The first `blocks` blocks of the generator's transformer, without a LoRA: a copy, or with `shared` the same weights
    in memory."""
    check_blocks(blocks, len(transformer.blocks))
    part = copy.copy(transformer)
    part._modules, part._parameters = dict(transformer._modules), dict(transformer._parameters)
    part = cut(part, blocks)
    weights = [*part.parameters(), *part.buffers()] if shared else []
    trunk = copy.deepcopy(part, memo={id(weight): weight for weight in weights})
    if hasattr(trunk, "peft_config"):
        trunk.unload_lora()
    return trunk


def check_blocks(blocks: int, there: int) -> None:
    if blocks > there:
        raise BadInput("params.yaml", f"the generator has {there} blocks", key="latent_reward.blocks")


def cut(transformer: WanTransformer3DModel, blocks: int) -> WanTransformer3DModel:
    """Remove the later blocks and the output layer from the transformer, in place."""
    transformer.blocks = transformer.blocks[:blocks]
    del transformer.norm_out, transformer.proj_out
    transformer.scale_shift_table = None  # of the output layer
    return transformer


def trunk_tokens(trunk: WanTransformer3DModel, latents: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Tokens [B, N, width] after the trunk's last block, in its own precision: the transformer's forward without its output
    layer."""
    latents, text = latents.to(input_dtype(trunk)), text.to(input_dtype(trunk))
    rotary = trunk.rope(latents)
    tokens = trunk.patch_embedding(latents).flatten(2).transpose(1, 2).contiguous()
    _, modulation, context, _ = trunk.condition_embedder(t * TIMESTEPS, text, None)
    modulation = modulation.unflatten(1, (6, -1))
    for block in trunk.blocks:
        if torch.is_grad_enabled() and trunk.gradient_checkpointing:
            tokens = trunk._gradient_checkpointing_func(block, tokens, context, modulation, rotary)
        else:
            tokens = block(tokens, context, modulation, rotary)
    return tokens


def save_latent_reward(model: LatentReward, folder: Path, facts: dict) -> None:
    """Write weights and facts. `facts` has the digest of the trunk's generator; guidance refuses any other. A frozen trunk
    is not written, as the generator has its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if model.frozen:
        weights = {key: value for key, value in weights.items() if not key.startswith("trunk.")}
    save_file(weights, folder / WEIGHTS)
    shape = {"dimensions": model.dimensions, "blocks": len(model.trunk.blocks), "frozen": model.frozen}
    write_json(folder / FACTS, {**facts, **shape})


def load_latent_reward(folder: str | Path, transformer: WanTransformer3DModel, generator_digest: str) -> LatentReward:
    """Rebuild the model on `transformer`, the generator's without an adapter; a frozen trunk shares its layers.

    Raises BadInput when it was trained for another generator, and where a weight is missing, unexpected, of another shape
    or not finite.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    if facts.generator != generator_digest:
        why = f"trained for generator {facts.generator}, not for {generator_digest}"
        raise BadInput(folder / FACTS, why, key="generator")
    if facts.blocks > len(transformer.blocks):
        raise BadInput(folder / FACTS, f"the generator has {len(transformer.blocks)} blocks", key="blocks")
    model = LatentReward(first_blocks(transformer, facts.blocks, facts.frozen), facts.dimensions, facts.frozen)
    weights, own = load_tensors(folder / WEIGHTS), model.state_dict()
    if model.frozen:
        own = {key: value for key, value in own.items() if not key.startswith("trunk.")}
    check_tensors(folder / WEIGHTS, weights, {key: value.shape for key, value in own.items()})
    model.load_state_dict(weights, strict=not model.frozen)
    return model.requires_grad_(False).eval().to(transformer.device)
