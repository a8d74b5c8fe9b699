"""A backbone is one file and one line of the registry: a toy one goes through training, its folder and scoring; and nothing
outside a backbone's own file knows its names."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.config.params import LoraParams
from components.errors import BadInput
from components.reward.backbones.registry import BACKBONES, load_backbone
from components.reward.score import Clip, RewardModel, Score
from components.reward.train import build, reward
from components.video.decode import probe, read_frames
from tests.reward.backbones.toy import Toy, write_toy
from tests.reward.test_train import PARAMS, PlainStage, data  # noqa: F401

ROOT = Path(__file__).parents[3]
NAMES = re.compile(
    r"Qwen2VL|qwen2_vl|Qwen25VL|qwen2_5_vl|Qwen3VL|qwen3_vl|vision_config|text_config|spatial_merge|temporal_patch_size|mrope|get_rope_index|language_model"
    r"|\.visual\b|pooler_output|grid_thw|video_pad"
)
# The first four know them, the next how they were once called; then the list of members; the small model of the shapes world
# is built as one.
OWN = (
    "reward/backbones/qwen.py",
    "reward/backbones/qwen2_vl.py",
    "reward/backbones/qwen2_5_vl.py",
    "reward/backbones/qwen3_vl.py",
    "reward/backbones/videoalign.py",
    "reward/backbones/registry.py",
    "simulation/small_vlm.py",
)


def test_only_its_own_file_knows_a_backbones_names():
    files = [file for folder in ("components", "dags") for file in (ROOT / folder).rglob("*.py")]
    found = {
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in files
        if not str(file).endswith(OWN) and "generator/families" not in str(file)  # whose text encoders may be such models
        for line in file.read_text().splitlines()
        if NAMES.search(line)
    }
    assert len(files) > 100 and not found


@pytest.fixture
def toy(data, monkeypatch) -> PlainStage:  # noqa: F811
    """The stage with a toy backbone for its base."""
    monkeypatch.setitem(BACKBONES, "toy_vlm", Toy)
    write_toy(Path("toy"))
    return PlainStage(
        base="toy",
        positions="multimodal",
        lora=LoraParams(rank=2, alpha=4, targets=["q_proj"]),
        training=PARAMS.training.model_copy(update={"steps": 1, "warmup_steps": 0}),
    )


def test_another_backbone_trains_is_saved_and_scores(toy):
    fresh = {name: value.clone() for name, value in build(toy.params.reward).backbone.network.state_dict().items()}
    reward(toy)
    model = RewardModel.load("models/video_reward")
    assert isinstance(model.model.backbone, Toy) and str(model.plan) == "2frames 64-256px/6"
    trained = model.model.backbone.network.state_dict()
    for name in ("eye.weight", "layer.q_proj.weight"):
        assert not trained[name].equal(fresh[name]), f"{name} did not train"

    clip = Path("data/source/videos/0.mp4")
    first, again = model.score([(clip, "a red circle"), (clip, "a red circle")])
    assert isinstance(first, Score) and first == again
    reloaded = RewardModel.load("models/video_reward").score([(clip, "a red circle")])[0]
    assert reloaded == first


def test_the_frame_rate_reaches_the_positions(toy):
    reward(toy)
    model = RewardModel.load("models/video_reward")
    clip = Clip(read_frames("data/source/videos/0.mp4"), probe("data/source/videos/0.mp4").fps)
    same, slower = model.score([(clip, "a red circle"), (replace(clip, fps=clip.fps / 4), "a red circle")])
    from_file = model.score([("data/source/videos/0.mp4", "a red circle")])[0]
    assert same.raw == pytest.approx(from_file.raw, abs=1e-5)
    assert not np.isclose(same.raw["VQ"], slower.raw["VQ"], atol=1e-5)
    model.model.positions = "plain"
    same, slower = model.score([(clip, "a red circle"), (replace(clip, fps=clip.fps / 4), "a red circle")])
    assert same.raw == pytest.approx(slower.raw, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "llama"}, "key 'model_type': 'llama' is no known backbone of VideoReward: qwen2_vl"),
        ({}, "key 'model_type': missing, so no backbone of VideoReward can be chosen"),
        ([], "key 'model_type': missing, so no"),
    ],
)
def test_an_unknown_model_is_named_with_the_backbones_known(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=rf"config\.json, {said}"):
        load_backbone(tmp_path)
