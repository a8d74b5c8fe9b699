"""Triton's side of the model `video_reward`: stage `package` copies this file into the model repository.

All that counts happens in components/reward/score.py, the code that scores offline. Here tensors become clips, and the
requests that Triton collected are scored together, whatever the lengths and sizes of their clips. A request that cannot
be scored is answered by an error that says why; the others of the same batch get their scores.

Every text travels as UTF-8 bytes in a UINT8 tensor: Triton's Python backend 2.51 breaks string tensors when the
environment has NumPy 2 (one in a request kills the process, one in a response arrives empty). For the same reason
tensors cross by DLPack.
"""

import json
import math
from pathlib import Path
from typing import Any

import torch

# There only inside Triton, which adds most of its names after this file has been read: hence the quoted types.
import triton_python_backend_utils as pb_utils

from components.reward.score import Clip, RewardModel, Score, Unscored


class TritonPythonModel:
    """Triton finds a Python model by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the reward model that lies beside this file. What it raises keeps the version from serving."""
        budget = json.loads(args["model_config"])["parameters"]["token_budget"]["string_value"]
        folder = Path(args["model_repository"]) / args["model_version"] / "video_reward"
        self.model = RewardModel.load(folder, token_budget=int(budget))

    def execute(self, requests: list[Any]) -> "list[pb_utils.InferenceResponse]":
        """A response for each request, in order."""
        read = [read_request(request) for request in requests]
        scores = iter(self.model.score([item for item in read if not isinstance(item, Unscored)]))
        return [respond(item if isinstance(item, Unscored) else next(scores)) for item in read]


def read_request(request: Any) -> tuple[Clip, str] | Unscored:
    """The clip and prompt of a request, or what is wrong with it.

    frames [1, T, H, W, 3] uint8 RGB, all that the clip has; prompt [1, N] uint8, UTF-8; fps [1, 1] float64.
    """
    frames, prompt, fps = (
        torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())
        for name in ("frames", "prompt", "fps")
    )
    if len(frames) != 1:
        return Unscored(f"a request holds one clip, this one {len(frames)}")
    if 0 in frames.shape[2:4]:
        return Unscored(f"frames of {frames.shape[3]} x {frames.shape[2]} px")
    rate = fps.item()
    if not (math.isfinite(rate) and rate > 0):
        return Unscored(f"frame rate {rate} is not a positive number")
    try:
        text = bytes(prompt[0].tolist()).decode()
    except UnicodeDecodeError as error:
        return Unscored(f"the prompt is not UTF-8: {error}")
    return Clip(frames[0].numpy(), rate), text


def respond(score: Score | Unscored) -> "pb_utils.InferenceResponse":
    """The tensors of a score, or an error with the reason and no tensor at all."""
    if isinstance(score, Unscored):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(score.reason, pb_utils.TritonError.INVALID_ARG))
    outputs = {
        "raw": torch.tensor([list(score.raw.values())], dtype=torch.float64),
        "normalised": torch.tensor([list(score.normalised.values())], dtype=torch.float64),
        "overall": torch.tensor([[score.overall]], dtype=torch.float64),
        "dimensions": text_tensor(",".join(score.raw)),
        "model_version": text_tensor(score.model_version),
        "frame_plan": text_tensor(score.frame_plan),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(name, value) for name, value in outputs.items()])


def text_tensor(text: str) -> torch.Tensor:
    """uint8 [1, N]."""
    return torch.tensor([list(text.encode())], dtype=torch.uint8)
