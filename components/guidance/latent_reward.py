"""A reward model that reads noisy latents: r(x_t, t, y), a score a dimension (paper section 4.4).

The first blocks of the generator's own transformer read the latents at noise level t under the prompt; one learned query a
dimension attends to their tokens; a linear head makes its score. The paper leaves blocks, pooling and head unsaid: this is
our choice, after the successors that published theirs.

The blocks are tuned in full (the paper's way), by a LoRA that is merged in the end, or not at all. A frozen trunk is the
generator's own, weight for weight: guidance then reads the tokens of the generator's velocity pass and pays for no other.
"""

import copy
from pathlib import Path
from typing import Annotated

import torch
from diffusers import WanTransformer3DModel
from pydantic import BaseModel, Field, ValidationError
from safetensors.torch import save_file
from torch import nn

from components.errors import BadInput
from components.generator.wan import TIMESTEPS, input_dtype, load_transformer
from components.param_types import Count, Dtype
from components.stage import write_json
from components.text_files import read_json
from components.weights import load_tensors

FACTS = "latent_reward.json"


class Facts(BaseModel):
    """The content of FACTS: digest of its generator, dimensions, blocks of its trunk, whether that is frozen."""

    generator: str
    dimensions: Annotated[list[str], Field(min_length=1)]
    blocks: Count
    frozen: bool


class LatentReward(nn.Module):
    """Scores [B, D] in float32 of noisy latents [B, C, T', H', W'] at t [B] under text [B, L, E].

    frozen: the trunk's weights are the generator's as they are. The trunk may be in half precision; what reads its tokens is
    in float32.
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
    """The transformer of a WanPipeline folder up to its block number `blocks`, without gradients, on the CPU; the other
    blocks are not read."""
    check_blocks(blocks, read_json(Path(folder) / "transformer/config.json", "num_layers")["num_layers"])
    later = rf"blocks\.(?!({'|'.join(map(str, range(blocks)))})\.)"
    return cut(load_transformer(folder, dtype, unread=later, num_layers=blocks), blocks)


def first_blocks(transformer: WanTransformer3DModel, blocks: int, shared: bool = False) -> WanTransformer3DModel:
    """The generator's transformer up to its block number `blocks`, without a LoRA: a copy of these blocks alone, or `shared`
    with the same weights in memory."""
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
    """The transformer itself without its later blocks and its output layer."""
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
    """`facts` says which generator (digest) the trunk came from; guidance refuses another one. A frozen trunk is not
    written: it is the generator's."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if model.frozen:
        weights = {key: value for key, value in weights.items() if not key.startswith("trunk.")}
    save_file(weights, folder / "model.safetensors")
    shape = {"dimensions": model.dimensions, "blocks": len(model.trunk.blocks), "frozen": model.frozen}
    write_json(folder / FACTS, {**facts, **shape})


def read_facts(folder: str | Path) -> Facts:
    """Of a saved model; BadInput where they are missing or of another kind."""
    file = Path(folder) / FACTS
    try:
        return Facts.model_validate(read_json(file, *Facts.model_fields))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(file, first["msg"], key=".".join(map(str, first["loc"]))) from error


def load_latent_reward(folder: str | Path, transformer: WanTransformer3DModel, generator_digest: str) -> LatentReward:
    """Rebuild the model on `transformer`, the generator's without an adapter; a frozen trunk is that one's own layers.

    Raises BadInput when it was trained for another generator, or its files are not those of a latent reward model.
    """
    folder, facts = Path(folder), read_facts(folder)
    if facts.generator != generator_digest:
        why = f"trained for generator {facts.generator}, not for {generator_digest}"
        raise BadInput(folder / FACTS, why, key="generator")
    trunk = first_blocks(transformer, facts.blocks, shared=facts.frozen)
    model = LatentReward(trunk, facts.dimensions, facts.frozen)
    file = folder / "model.safetensors"
    weights, own = load_tensors(file), model.state_dict()
    needed = {key for key in own if not (model.frozen and key.startswith("trunk."))}
    other = needed ^ weights.keys() | {key for key in needed & weights.keys() if own[key].shape != weights[key].shape}
    if other:
        raise BadInput(file, f"not the weights of its own {FACTS}", key=min(other))
    for key, value in weights.items():
        if not torch.isfinite(value).all():
            raise BadInput(file, "a weight is not finite", key=key)
    model.load_state_dict(weights, strict=False)
    return model.requires_grad_(False).eval().to(transformer.device)
