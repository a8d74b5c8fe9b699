"""A tiny untrained generator of the real classes."""

import torch

from components.generator.wan import Generator, small_generator
from components.pretrain_params import WanShape

SHAPE = WanShape(
    heads=2, head_dim=12, layers=2, ffn_dim=32, text_dim=16, text_layers=1, text_tokens=16, vae_dim=8, latent_channels=4
)


def tiny_generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    generator = small_generator(SHAPE, ["a", "red", "blue", "circle", "moving", "up", "down"])
    for part in (generator.transformer, generator.vae, generator.text_encoder):
        part.requires_grad_(False).eval()
    # An untrained output layer is nearly silent; with noise in it, a wrong wiring shows.
    torch.nn.init.normal_(generator.transformer.proj_out.weight, std=0.1)
    return generator
