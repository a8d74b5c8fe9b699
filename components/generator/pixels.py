"""Clips as bytes and as what a VAE reads and writes."""

import numpy as np
import torch

from components.errors import NonFinite


def pixels(clips: np.ndarray) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] to float [B, 3, T, H, W] in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def clips_of(decoded: torch.Tensor) -> np.ndarray:
    """Decoded [B, 3, T, H, W], [-1, 1] and beyond, to uint8 [B, T, H, W, 3]; NonFinite where a pixel is not finite."""
    for place, clip in enumerate(decoded):
        if not torch.isfinite(clip).all():
            raise NonFinite(f"clip {place + 1} of {len(decoded)} drawn together")
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).numpy(force=True)
