"""VideoReward in bfloat16: what is in which dtype, and scores stamped with it."""

import json
import shutil

import numpy as np
import pytest
import torch

from components.config.params import LoraParams
from components.errors import BadInput
from components.pipeline.stage import folder_digest
from components.reward.card import CARD, read_card
from components.reward.check import check_reward
from components.reward.inputs import Clip
from components.reward.model import load_video_reward
from components.reward.model_files import ModelFiles
from components.reward.published import published_dtype
from components.reward.score import RewardModel, make_input, raw_scores
from tests.reward.test_published import OPEN, RUNS, TEMPLATE
from tests.reward.tiny import saved_model, tiny_card, tiny_model

LORA = LoraParams(rank=2, alpha=4, targets=["q_proj", "v_proj", "down_proj"])
ITEMS = [
    (Clip(np.random.default_rng(seed).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8), 8.0), "a red circle")
    for seed in range(3)
]


def dtypes(parameters) -> set[torch.dtype]:
    return {parameter.dtype for parameter in parameters}


def in_bfloat16():
    model = tiny_model()
    for parameter in model.backbone.network.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


def trained(tmp_path, precision=torch.float32):
    """A model whose frozen weights are in bfloat16, after one step; what trains, and what is frozen."""
    model = in_bfloat16()
    model.prepare_training(LORA)
    trains = [p for p in model.parameters() if p.requires_grad]
    frozen = [p for p in model.parameters() if not p.requires_grad]
    found = dtypes(trains), dtypes(frozen)
    batch = model.batch([make_input(model, clip, prompt) for clip, prompt in ITEMS])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
        scores = model(batch)
    assert scores.dtype is torch.float32
    scores.square().mean().backward()
    optimizer = torch.optim.AdamW(trains, lr=0.01)
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in trains)
    optimizer.step()
    model.merge("bfloat16")
    return model.eval(), found


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_what_trains_is_float32_and_what_is_kept_scores_alike(tmp_path, precision):
    model, (trains, frozen) = trained(tmp_path, precision)
    assert trains == {torch.float32} and frozen == {torch.bfloat16}
    inputs = [make_input(model, clip, prompt) for clip, prompt in ITEMS]
    scores = raw_scores(model, inputs, 200)
    model.save(tmp_path / "model", tiny_card(model, dtype="bfloat16"))
    loaded, card = load_video_reward(tmp_path / "model")
    assert card.dtype == "bfloat16"
    assert dtypes(loaded.backbone.network.parameters()) == {torch.bfloat16}
    assert dtypes([loaded.head.weight, loaded.reward_tokens]) == {torch.float32}
    assert np.array_equal(raw_scores(loaded, inputs, 200), scores)  # frequencies of positions were not rounded
    assert np.ptp(scores, axis=0).min() > 0


def test_another_dtype_is_part_of_the_version(tmp_path):
    folder = saved_model(tmp_path / "model")
    assert "dtype" not in json.loads((folder / CARD).read_text())  # as models were written before
    assert read_card(folder).dtype == "float32"
    for chosen, suffix in ((None, ""), ("float32", ""), ("bfloat16", "-bfloat16")):
        model = RewardModel.load(folder, dtype=chosen)
        assert model.version == folder_digest(folder) + suffix
        assert ModelFiles(str(folder), None, -1, chosen).version() == model.version
        (score, *_) = model.score(ITEMS)
        assert score.model_version == model.version
        assert model.model.head.weight.dtype is torch.float32


def test_scores_in_bfloat16_are_near_and_sound(tmp_path):
    folder = saved_model(tmp_path / "model")
    exact, rounded = (RewardModel.load(folder, dtype=dtype) for dtype in ("float32", "bfloat16"))
    a, b = (np.array([list(score.raw.values()) for score in model.score(ITEMS)]) for model in (exact, rounded))
    assert 0 < np.abs(a - b).max() < 0.3 < np.abs(a).max()
    assert [finding.name for finding in check_reward(rounded, ITEMS) if finding.holds is False] == []


def test_a_wrong_dtype_in_a_card(tmp_path):
    folder = saved_model(tmp_path / "model")
    card = json.loads((folder / CARD).read_text()) | {"dtype": "float16"}
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(BadInput, match="dtype"):
        read_card(folder)


@pytest.mark.skipif(not OPEN.exists(), reason="no reference-open folder beside the checkout")
def test_a_published_model_loads_in_the_dtype_that_its_config_names(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(OPEN / RUNS[0]["checkpoint"], run)
    shutil.copytree(OPEN / "base", tmp_path / "base")
    step = RUNS[0]["load_from_pretrained_step"]

    def names(dtype, base="float32"):
        for file, section, value in (
            (run / "model_config.json", "model_config", dtype),
            (tmp_path / "base/config.json", None, base),
        ):
            config = json.loads(file.read_text())
            (config[section] if section else config)["torch_dtype"] = value
            file.write_text(json.dumps(config))

    names("float32")
    exact = RewardModel.load(run, template=TEMPLATE, step=step)
    names("bfloat16")
    own = RewardModel.load(run, template=TEMPLATE, step=step)
    assert own.card.dtype == "bfloat16" and "-" not in own.version
    assert dtypes(own.model.backbone.network.parameters()) == {torch.bfloat16}
    assert RewardModel.load(run, template=TEMPLATE, step=step, dtype="float32").version == f"{own.version}-float32"
    items = [(Clip(clip.frames.repeat(4, 1).repeat(4, 2), 8.0), prompt) for clip, prompt in ITEMS]
    a, b = (np.array([list(score.raw.values()) for score in model.score(items)]) for model in (exact, own))
    assert 0 < np.abs(a - b).max() < 0.3
    names("auto", "bfloat16")
    assert published_dtype(run) == "bfloat16"
    names(None)
    assert published_dtype(run) == "float32"
    names("float16")
    with pytest.raises(BadInput, match=r"model_config\.torch_dtype.*float16.*--dtype"):
        RewardModel.load(run, template=TEMPLATE, step=step)
