"""A tiny untrained generator of the real classes."""

import torch

from components.config.pretrain import GeneratorShape
from components.generator.conditioning import Conditioning
from components.generator.families.wan import WanGenerator
from components.generator.families.wan_small import small_generator, text_of

SHAPE = GeneratorShape(
    heads=2, head_dim=12, layers=2, ffn_dim=32, text_dim=16, text_layers=1, text_tokens=16, vae_dim=8, latent_channels=4
)


def conditioning(*shape: int, dtype: torch.dtype = torch.float32, draw: torch.Generator | None = None) -> Conditioning:
    """Random text of this shape, as the small generator names it."""
    return Conditioning({"text": torch.randn(shape, generator=draw).to(dtype)})


def tiny_generator(seed: int = 0) -> WanGenerator:
    torch.manual_seed(seed)
    generator = small_generator(SHAPE, ["a", "red", "blue", "circle", "moving", "up", "down"])
    for part in (generator.model, generator.vae, text_of(generator).model):
        part.requires_grad_(False).eval()
    # An untrained output layer is nearly silent; with noise in it, a wrong wiring shows.
    torch.nn.init.normal_(generator.model.transformer.proj_out.weight, std=0.1)
    return generator
