"""Qwen2.5-VL and Qwen3-VL as backbones: states are those of transformers' own models; they train, are saved and score."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from components.config.params import LoraParams
from components.errors import BadInput
from components.reward.backbones.qwen import in_windows
from components.reward.backbones.registry import backbone_class, load_backbone
from components.reward.export import export_videoalign
from components.reward.inputs import Clip
from components.reward.model import VideoReward, load_chat, load_video_reward
from components.reward.prompt import TEMPLATES, PromptBuilder, read_template
from components.reward.score import RewardModel, make_input, raw_scores
from tests.reward.backbones.small import KINDS, small_config, write_small
from tests.reward.test_train import PARAMS, PlainStage, bench, data  # noqa: F401
from tests.reward.tiny import DIMENSIONS, tiny_card

RNG = np.random.default_rng(0)
# Frames of 4 x 4 windows and of less, and an odd number of them.
SIZES = [(6, 32, 48, 4.0), (5, 24, 24, 7.5), (4, 40, 16, 1.0), (2, 40, 16, 0.3)]
CLIPS = [Clip(RNG.integers(0, 256, (t, h, w, 3), dtype=np.uint8), fps) for t, h, w, fps in SIZES]
PROMPTS = ["a red circle moving up", "blue", "a square " * 9, "x"]
DTYPES = ["float32", "bfloat16"]


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory) -> Path:
    return write_small(tmp_path_factory.mktemp("base") / request.param, request.param)


def reward_model(base: Path, dtype="float32", positions="multimodal") -> VideoReward:
    backbone = load_backbone(base, dtype)
    template = read_template(TEMPLATES / "short.txt", DIMENSIONS, "special")
    prompts = PromptBuilder(load_chat(base, backbone), backbone.video_token, template, DIMENSIONS, "special")
    return VideoReward(backbone, prompts, "per_dimension", positions).eval()


def inputs_of(model: VideoReward) -> list:
    return [make_input(model, clip, prompt) for clip, prompt in zip(CLIPS, PROMPTS, strict=True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positions", ["plain", "multimodal"])
def test_states_are_those_of_transformers(base, dtype, positions):
    model = reward_model(base, dtype)
    backbone = model.backbone
    theirs = KINDS[base.name].from_pretrained(base, dtype=getattr(torch, dtype)).eval()
    for network in (backbone.network, theirs):
        torch.manual_seed(1)  # of the rows of reward tokens
        network.resize_token_embeddings(len(model.prompts.tokenizer), mean_resizing=False)
    batch = model.batch(inputs_of(model))
    video = batch.input_ids == model.prompts.video_id
    pad = model.prompts.tokenizer.pad_token_id
    lengths = [len(ids) for ids, _ in inputs_of(model)]
    mask = torch.tensor([[1] * length + [0] * (batch.input_ids.shape[1] - length) for length in lengths])
    assert (batch.input_ids[mask == 0] == pad).all()
    more = {"position_ids": torch.arange(video.shape[1]).expand(3, *video.shape)} if positions == "plain" else {}
    if base.name == "qwen2_5_vl":
        more["second_per_grid_ts"] = torch.tensor([2 / clip.fps for clip in CLIPS])
    with torch.no_grad():
        features = backbone.embed_video(batch)
        embedded = backbone.embed_tokens(batch.input_ids).masked_scatter(video[..., None], features.tokens)
        ours = backbone.hidden_states(embedded, backbone.positions(batch, video, positions), video, features)
        expected = theirs.model(
            input_ids=batch.input_ids,
            attention_mask=mask,
            pixel_values_videos=batch.pixels.to(theirs.dtype),
            video_grid_thw=batch.grid,
            mm_token_type_ids=video.int() * 2,
            **more,
        ).last_hidden_state
    assert expected.dtype is getattr(torch, dtype) and expected.abs().max() > 1
    torch.testing.assert_close(ours[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_clip_scores_alike_in_any_company(base, dtype):
    model = reward_model(base, dtype)
    inputs = inputs_of(model)
    together, alone = raw_scores(model, inputs, 4096), raw_scores(model, inputs, 1)
    np.testing.assert_allclose(together, alone, atol=1e-4 if dtype == "float32" else 0.1)
    assert np.ptp(alone, axis=0).min() > 0.1


def test_time_and_motion_count(base):
    model = reward_model(base)
    clip = CLIPS[0]
    slower, still = replace(clip, fps=clip.fps / 4), replace(clip, frames=np.repeat(clip.frames[:1], 6, 0))
    plain, *others = raw_scores(model, [make_input(model, one, "x") for one in (clip, slower, still)], 4096)
    assert all(np.abs(other - plain).min() > 1e-3 for other in others)


def test_windows_are_put_together_by_length():
    found = in_windows(torch.tensor([0, 4, 6, 10, 12], dtype=torch.int32))
    assert found.runs == [(2, 2), (2, 4)]
    assert found.order.tolist() == [4, 5, 10, 11, 0, 1, 2, 3, 6, 7, 8, 9]
    assert found.order[found.back].tolist() == list(range(12))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_tower_and_lora_of_the_language_model_train(base, tmp_path, dtype):
    model = reward_model(base, dtype)
    model.prepare_training(LoraParams(rank=2, alpha=4, targets=["q_proj", "gate_proj", "down_proj"]))
    model.backbone.network.activation_checkpointing_enable({"use_reentrant": False})
    named = dict(model.train().named_parameters())
    adapted = [name for name in named if "lora_" in name]
    assert len(adapted) == 3 * 3 * 2 and not any("visual" in name for name in adapted)
    model(model.batch(inputs_of(model))).square().sum().backward()
    for name, parameter in named.items():
        trains = "visual" in name or name in adapted or name in ("head.weight", "reward_tokens")
        assert parameter.requires_grad == trains, name
        # One half of a LoRA that starts at zero has no gradient yet, and small frames do not need each learnt place.
        if trains and "lora_A" not in name and "pos_embed" not in name:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    model.merge(dtype)
    model.eval().save(tmp_path / "model", tiny_card(model, dtype=dtype))
    loaded, _ = load_video_reward(tmp_path / "model")
    assert np.array_equal(raw_scores(loaded, inputs_of(loaded), 4096), raw_scores(model, inputs_of(model), 4096))


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_can_be_learnt_is_learnt_and_served_from_the_folder(base, data, dtype):  # noqa: F811
    training = PARAMS.training.model_copy(update={"learning_rate": 0.003})
    rates = {"vision_learning_rate": 0.003, "head_learning_rate": 0.01}
    report = bench(PlainStage(base=str(base), positions="multimodal", dtype=dtype, training=training, **rates))
    for name in ("VQ", "MQ"):
        assert report["dimensions"][name]["accuracy_without_ties"]["ci95"][0] > 0.6, report["dimensions"][name]
    model = RewardModel.load("models/video_reward")
    assert model.model.backbone.network.config.model_type == base.name and model.plan.factor == 8
    with pytest.raises(BadInput, match=rf"key 'model_type': '{base.name}': readers of the layout load qwen2_vl"):
        export_videoalign(Path("models/video_reward"), Path("out"))
    assert not Path("out").exists()


def test_sizes_by_the_configuration_alone(base):
    model = reward_model(base)
    config = model.backbone.network.config.to_dict()
    sizes = backbone_class(base / "config.json", config).sizes(config)
    network = model.backbone.network.model
    assert sizes.parameters == sum(p.numel() for p in network.parameters())
    assert sizes.vision.weights + sizes.merger == sum(p.numel() for p in network.visual.parameters())
    assert (sizes.patch_shape, sizes.vision.layers, sizes.language.layers) == (model.patch_shape, 4, 3)
    assert len(sizes.linear) == 3 * 7 and small_config(base.name, model.prompts.tokenizer).vision_config.depth == 4
