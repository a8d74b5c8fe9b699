"""LoRA files made in tests: random tensors under the names of any dialect, beside a small Wan transformer."""

from functools import partial
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

from components.generator import lora, lora_file
from components.generator.families.wan_lora import wan_name
from components.generator.lora_file import LORA

WIDTH, RANK, BLOCKS = 96, 8, 2


apply_lora = partial(lora.apply_lora, original_name=wan_name)
read_lora = partial(lora_file.read_lora, original_name=wan_name)


def wan() -> WanTransformer3DModel:
    """A transformer of the width that ../shared/cases/lora_layouts.json was made for."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=24,
        in_channels=8,
        out_channels=8,
        text_dim=16,
        freq_dim=32,
        ffn_dim=4 * WIDTH,
        num_layers=BLOCKS,
        rope_max_seq_len=16,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.requires_grad_(False).eval()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 0.1


def pair(stem: str, down: str = "lora_A.weight", up: str = "lora_B.weight", rank: int = RANK) -> dict[str, torch.Tensor]:
    """A low-rank pair of a square layer."""
    return {f"{stem}.{down}": random(rank, WIDTH, seed=len(stem)), f"{stem}.{up}": random(WIDTH, rank, seed=len(stem) + 1)}


def write(folder: Path, tensors: dict[str, torch.Tensor], name: str = LORA, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, folder / name, metadata)
    return folder / name


def changes(before: torch.nn.Module, after: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What was added to each parameter that is another one now."""
    old = before.state_dict()
    return {name: value - old[name] for name, value in after.state_dict().items() if not torch.equal(value, old[name])}
