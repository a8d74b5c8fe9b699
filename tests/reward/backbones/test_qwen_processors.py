"""What Qwen2.5-VL and Qwen3-VL are given: token ids, pixels, grids, times and positions as their own processors make them.

processors.json has what transformers' processors (with torchvision, which is not installed here) made of the same clips."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.reward.backbones.registry import load_backbone
from components.reward.inputs import Clip
from components.reward.model import VideoReward, load_chat
from components.reward.prompt import PROMPT as PLACE
from components.reward.prompt import PromptBuilder
from components.reward.score import make_input, planned_clip
from components.video.frames import FramePlan
from tests.reward.backbones.small import KINDS, write_small

TOTAL, SOURCE_FPS = 37, 7.5
CASES = [(2.0, 24, 16), (3.0, 16, 16), (1.0, 32, 24)]  # planned rate, height, width
PROMPT = "a red circle moving up"
GOLDEN = json.loads((Path(__file__).parent / "processors.json").read_text())


def plan_of(fps: float) -> FramePlan:
    return FramePlan(fps=fps, frames=None, min_pixels=64, max_pixels=4096, factor=8)


def whole_clip(height: int, width: int) -> Clip:
    frames = np.random.default_rng(height).integers(0, 256, (TOTAL, height, width, 3), dtype=np.uint8)
    return Clip(frames, SOURCE_FPS)


def chosen_frames(fps: float, height: int, width: int) -> tuple[list[int], np.ndarray]:
    """Of the plan, as the processor is given them: their places among all frames, and they."""
    indices = plan_of(fps).indices(TOTAL, SOURCE_FPS)
    return indices, whole_clip(height, width).frames[indices]


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory) -> VideoReward:
    folder = write_small(tmp_path_factory.mktemp("base") / request.param, request.param)
    backbone = load_backbone(folder)
    prompts = PromptBuilder(load_chat(folder, backbone), backbone.video_token, PLACE, ["VQ"], "last")
    return VideoReward(backbone, prompts, "per_dimension", "multimodal").eval()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inputs_are_those_of_the_processor(model, case):
    kind = model.backbone.network.config.model_type
    (golden,) = [one for one in GOLDEN["cases"] if (one["kind"], one["case"]) == (kind, list(case))]
    clip = planned_clip(whole_clip(*case[1:]), plan_of(case[0]))
    assert isinstance(clip, Clip)
    batch = model.batch([make_input(model, clip, PROMPT)])
    assert model.prompts.tokenizer.decode(batch.input_ids[0]).replace(model.backbone.video_token, "^") == golden["text"]
    assert batch.grid[0].tolist() == golden["grid"]
    values = batch.pixels.double()
    assert list(values.shape) == golden["pixels"]["shape"]
    assert float(values.mean()) == pytest.approx(golden["pixels"]["mean"], abs=1e-6)
    weights = torch.arange(values.numel()).reshape(values.shape).cos()
    assert float((values * weights).sum()) == pytest.approx(golden["pixels"]["weighted"], abs=1e-3)
    video = batch.input_ids == model.prompts.video_id
    time, row, _ = model.backbone.positions(batch, video, "multimodal")
    assert time[0].tolist() == golden["time_positions"] and row[0].tolist() == golden["row_positions"]
    if kind == "qwen2_5_vl":
        assert (2 / batch.fps).tolist() == pytest.approx(golden["second_per_grid_ts"])
