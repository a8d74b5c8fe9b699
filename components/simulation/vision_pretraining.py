"""First phase of `pretrain_vlm`: the vision tower alone learns to see, as Qwen2-VL's own started from a trained ViT.

Linear probes on the tower's tokens are to tell, of rendered clips: where the object is and how it moves from each token,
its attributes, its outline, and how strong each defect is. Dense targets teach a small tower in minutes what captions
alone take hours for. The probes are thrown away.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from components.reward.inputs import PatchShape
from components.simulation.captions import ATTRIBUTES, MOTION, PICTURE, Take
from components.simulation.render import coverage
from components.simulation.small_vlm import tower_tokens
from components.simulation.world import SPEEDS

CHOICES = [(name, list(SPEEDS) if name == "speed" else values) for name, values in ATTRIBUTES]
DEFECTS = (*PICTURE, *MOTION)
OUTLINE = 8  # the object is drawn on OUTLINE x OUTLINE cells, two of its mean radii to each side
NEAR = 5.0  # px: tokens about this close to the object are asked about it


class Sight(nn.Module):
    """A vision tower with its probes."""

    def __init__(self, tower: nn.Module, hidden: int, shape: PatchShape):
        super().__init__()
        self.tower = tower
        self.shape = shape
        kinds = sum(len(values) for _, values in CHOICES)
        self.place = nn.Linear(hidden, 4)
        self.near = nn.Linear(hidden, kinds + OUTLINE**2)
        self.whole = nn.Linear(hidden, kinds + len(DEFECTS))

    def forward(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [B, N, hidden] of clips [B, T, H, W, 3] of one size, and their centres [N, 2] (x, y in px)."""
        tokens, (t, h, w) = tower_tokens(self.tower, frames, self.shape)
        rows, columns = h // self.shape.merge, w // self.shape.merge
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = (torch.stack([x, y], -1).reshape(-1, 2).repeat(t, 1) + 0.5) * self.shape.factor
        return tokens.view(len(frames), t * rows * columns, -1), centres


def sight_loss(model: Sight, takes: list[Take], indices: list[int]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Sum of the probes' losses, and how often the attributes are told right from the whole clip."""
    tokens, centres = model(np.stack([take.frames for take in takes]))
    time = torch.tensor([np.mean(indices)])
    start = torch.tensor([take.render.start for take in takes])
    velocity = torch.tensor([take.render.velocity for take in takes])
    stop = torch.tensor([1 - take.defects.get("frozen", 0.0) for take in takes]) * max(indices)
    middle = start + torch.minimum(time, stop)[:, None] * velocity
    offset = (middle[:, None] - centres) / model.shape.factor  # [B, N, 2], in tokens
    place = torch.cat([offset, velocity[:, None].expand_as(offset)], 2)
    loss = F.smooth_l1_loss(model.place(tokens).float(), place.float())

    weight = torch.exp(-(offset * model.shape.factor).square().sum(2) / (2 * NEAR**2))
    weight = (weight / weight.sum()).float()
    near, whole = model.near(tokens).float(), model.whole(tokens.mean(1)).float()
    logs, at = {}, 0
    for name, values in CHOICES:
        truth = torch.tensor([values.index(getattr(take.scene, name)) for take in takes])
        seen = torch.tensor([take.moving or name not in ("direction", "speed") for take in takes])
        part = slice(at, at + len(values))
        each = F.cross_entropy(near[..., part].transpose(1, 2), truth[:, None].expand(tokens.shape[:2]), reduction="none")
        loss = loss + (each * weight * seen[:, None]).sum()
        loss = loss + F.cross_entropy(whole[seen][:, part], truth[seen])
        logs[name] = (whole[seen][:, part].argmax(1) == truth[seen]).float().mean()
        at += len(values)
    outlines = torch.from_numpy(np.stack([outline(take) for take in takes]))
    loss = loss + ((near[..., at:] - outlines[:, None]).square().mean(2) * weight).sum()
    strengths = torch.tensor([[take.defects.get(kind, 0.0) for kind in DEFECTS] for take in takes])
    error = F.mse_loss(whole[:, at:], 4 * strengths)
    return loss + error, {**logs, "defects": error.detach()}


def outline(take: Take) -> np.ndarray:
    """The object by itself, centred, [OUTLINE ** 2] in [0, 4]."""
    size = 2 * OUTLINE
    scale = len(take.frames[0]) / 32
    cover = coverage(take.render.shape, take.render.radius / scale, np.full((1, 2), size / 2), size)[0]
    return 4 * cover.reshape(OUTLINE, 2, OUTLINE, 2).mean((1, 3)).ravel().astype(np.float32)
