"""Triton's side of VideoReward, `video_reward_model`: what each packaged version's model.py imports, under this name.

All that counts happens in components/reward/score.py, the code that scores offline. Here tensors become clips or files, and
the requests that Triton collected are scored together, whatever the lengths and sizes of their clips. A request that cannot
be scored is answered by an error with the reason; the others of the same batch get their scores.

Every text travels as UTF-8 bytes in a UINT8 tensor: Triton's Python backend 2.51 breaks string tensors when the
environment has NumPy 2. One in a request kills the process, one in a response arrives empty. For the same reason
tensors cross by DLPack.
"""

import json
import math
import os
from contextlib import ExitStack
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import torch

# There only inside Triton, which adds most of its names later: hence the quoted types.
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from components.pipeline.memory import SpareMemory, keep_freed_memory
from components.reward.score import Clip, RewardModel, Score, Unscored
from components.serving.backend_metrics import Metrics
from components.serving.repository import WARMUP_PROMPT
from components.serving.served_log import FOLDER, SHADOW, ServedLog, describe
from components.video.decode import VideoInfo
from components.video.limits import Limits

BYTES_A_CHARACTER = 4  # of UTF-8, at most
Read = tuple[Clip | str, str] | Unscored  # clip or file and prompt, or what is wrong with the request


class TritonPythonModel:
    """Triton finds a Python model by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the reward model that lies beside this file. What it raises keeps the version from serving."""
        keep_freed_memory()
        config = json.loads(args["model_config"])
        if args["model_instance_kind"] == "GPU":
            torch.cuda.set_device(int(args["model_instance_device_id"]))
        else:
            torch.set_num_threads(max(1, torch.get_num_threads() // config["instance_group"][0]["count"]))
        parameters = config["parameters"]
        budget = parameters["token_budget"]["string_value"]
        folder = Path(args["model_repository"]) / args["model_version"] / "video_reward"
        limits = {field.name: int(parameters[f"limit_{field.name}"]["string_value"]) for field in fields(Limits)}
        self.model = RewardModel.load(folder, token_budget=int(budget), limits=Limits(**limits))
        self.spare = SpareMemory(self.model.pool, self.model.threads)
        self.log = ServedLog(os.environ.get(FOLDER), self.model.version)
        self.metrics = Metrics(pb_utils, args["model_version"], self.model)

    def finalize(self) -> None:
        """Triton is about to end this process."""
        self.metrics.close()
        self.log.close()

    def execute(self, requests: list[Any]) -> "list[pb_utils.InferenceResponse]":
        """A response for each request, in order."""
        responses = self.answer(requests)
        self.spare.give_back()
        return responses

    def answer(self, requests: list[Any]) -> "list[pb_utils.InferenceResponse]":
        """Scores or errors; the files of the requests are gone after it."""
        with ExitStack() as files:
            read = [read_request(request, files, self.model.limits) for request in requests]
            good = [item for item in read if not isinstance(item, Unscored)]
            infos: dict[Any, VideoInfo] = {}  # by path
            scores = iter(self.model.score(good, note=infos.__setitem__))
            answers = [item if isinstance(item, Unscored) else next(scores) for item in read]
            self.keep([request.request_id() for request in requests], read, answers, infos)
            videos = [None if isinstance(item, Unscored) else item[0] for item in read]
            return [respond(video, answer) for video, answer in zip(videos, answers, strict=True)]

    def keep(self, ids: list[str], read: list[Read], answers: list[Score | Unscored], infos: dict[str, VideoInfo]) -> None:
        """Log and count what was answered, but for questions of our own: warm-up, probes, a deployment's comparison."""
        lines = []
        for request_id, item, answer in zip(ids, read, answers, strict=True):
            video, prompt = (None, None) if isinstance(item, Unscored) else item
            if request_id != SHADOW and prompt != WARMUP_PROMPT:
                lines.append(describe(item, answer, infos.get(video) if isinstance(video, str) else None))
        self.metrics.count(lines, self.log.write(lines))


def read_request(request: Any, files: ExitStack, limits: Limits) -> Read:
    """The clip or file and the prompt of a request, or what is wrong with it: what is beyond `limits` is not read.

    prompt [1, N] uint8, UTF-8; and either frames [1, T, H, W, 3] uint8 RGB, all that the clip has, with fps [1, 1] float64,
    or video [1, N] uint8, the bytes of a video file.
    """
    if any(name.lower() == "origin" for name in json.loads(request.parameters())):
        return Unscored("a request of a page in a browser; ask from a program")
    inputs = {tensor.name(): torch.from_dlpack(tensor.to_dlpack()) for tensor in request.inputs()}
    if inputs.keys() not in ({"prompt", "frames", "fps"}, {"prompt", "video"}):
        return Unscored(f"a request has frames, fps and prompt, or video and prompt; this one {', '.join(sorted(inputs))}")
    for tensor in inputs.values():
        if len(tensor) != 1:
            return Unscored(f"a request holds one clip, this one {len(tensor)}")
    if len(inputs["prompt"][0]) > BYTES_A_CHARACTER * limits.prompt:
        return Unscored(f"the prompt has {len(inputs['prompt'][0])} bytes; at most {limits.prompt} characters are read")
    try:
        prompt = inputs["prompt"][0].numpy().tobytes().decode()
    except UnicodeDecodeError as error:
        return Unscored(f"the prompt is not UTF-8: {error}")
    if "video" in inputs:
        why = limits.refuse_file(len(inputs["video"][0]))
        return Unscored(why) if why else read_file(inputs["video"][0], prompt, files)
    frames, rate = inputs["frames"], inputs["fps"].item()
    if 0 in frames.shape[2:4]:
        return Unscored(f"frames of {frames.shape[3]} x {frames.shape[2]} px")
    if not (math.isfinite(rate) and rate > 0):
        return Unscored(f"frame rate {rate} is not a positive number")
    return Clip(frames[0].numpy(), rate), prompt


def read_file(video: torch.Tensor, prompt: str, files: ExitStack) -> tuple[str, str]:
    """A path for the bytes of a video, as the shared decoder takes paths. The file is in memory only, and gone with the
    process however that ends."""
    descriptor = os.memfd_create("video")
    files.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(video.numpy())  # pyright: ignore[reportArgumentType]
    return f"/proc/self/fd/{descriptor}", prompt


def respond(video: Clip | str | None, score: Score | Unscored) -> "pb_utils.InferenceResponse":
    """The tensors of a score, or an error with the reason and no tensor at all."""
    if isinstance(score, Unscored):
        reason = score.reason.removeprefix(f"{video}: ") if isinstance(video, str) else score.reason
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, pb_utils.TritonError.INVALID_ARG))
    outputs = {
        "raw": torch.tensor([list(score.raw.values())], dtype=torch.float64),
        "normalised": torch.tensor([list(score.normalised.values())], dtype=torch.float64),
        "overall": torch.tensor([[score.overall]], dtype=torch.float64),
        "dimensions": text_tensor(",".join(score.raw)),
        "model_version": text_tensor(score.model_version),
        "frame_plan": text_tensor(score.frame_plan),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack(name, value) for name, value in outputs.items()])


@cache
def text_tensor(text: str) -> torch.Tensor:
    """uint8 [1, N]. A loaded model has three of them."""
    return torch.tensor([list(text.encode())], dtype=torch.uint8)
