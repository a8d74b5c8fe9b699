"""Published checkpoints against the reference implementation's own figures (shared data, absent in a bare clone)."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from components.errors import BadInput
from components.reward.model_files import ModelFiles
from components.reward.published import load_published
from components.reward.score import Clip, RewardModel, make_input, planned_clip, raw_scores
from components.reward.scores import Unscored
from components.video.decode import probe
from components.video.frames import FramePlan

OPEN = Path("../shared/data/reference-open")
VIDEOS = Path("../shared/data/videoalign/videos")
TEMPLATE = OPEN / "prompt_detailed_special.txt"
pytestmark = pytest.mark.skipif(not OPEN.exists(), reason="no reference-open folder beside the checkout")
GOLDEN = json.loads((OPEN / "golden.json").read_text()) if OPEN.exists() else {"runs": []}
RUNS = GOLDEN["runs"]


def load(run: dict) -> RewardModel:
    model, card = load_published(OPEN / run["checkpoint"], TEMPLATE, run["load_from_pretrained_step"])
    return RewardModel(model, card, "published")


def plan_of(model: RewardModel, run: dict) -> FramePlan:
    """The checkpoint's own plan with what the run passed in its place."""
    change = {"sampling": run["sample_type"]} | ({"max_pixels": run["max_pixels"]} if run["max_pixels"] else {})
    if run["num_frames"]:
        change |= {"fps": None, "frames": run["num_frames"]}
    elif run["fps"]:
        change |= {"fps": run["fps"], "frames": None}
    return replace(model.plan, **change)


def video_of(name: str) -> Path | Clip:
    """A file, or one of the synthetic clips that the fixtures define by formula."""
    facts = GOLDEN["synthetic_clips"].get(name)
    if facts is None:
        return VIDEOS / name
    t, y, x = np.ogrid[: facts["frames"], : facts["height"], : facts["width"]]
    height, width = facts["height"], facts["width"]
    if facts["kind"] == "ramp":
        ramps = (x * 255 // (width - 1) + 8 * t, y * 255 // (height - 1) + 5 * t)
        both = (x + y) * 255 // (width + height - 2) + 3 * t
        frames = np.stack([np.broadcast_to(r, (len(t), height, width)) % 256 for r in (*ramps, both)], -1)
        box = (x - 4 * t >= width // 4) & (x - 4 * t < width // 2) & (y >= height // 3) & (y < height // 2)
        frames = np.where(np.broadcast_to(box, frames.shape[:3])[..., None], 255 - frames, frames)
    else:
        channels = [(x * (3 + c) + y * (5 + 2 * c) + 7 * t * (c + 1)) ^ ((x // 8) * (y // 8)) for c in range(3)]
        frames = np.stack(channels, -1) & 255
    frames = frames.astype(np.uint8)
    assert hashlib.sha256(frames.tobytes()).hexdigest() == facts["sha256_uint8_thwc"]
    return Clip(frames, facts["fps"])


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run['id']}-{run['checkpoint']}-{run['group']}")
def test_frames_ids_and_scores_are_the_references(run):
    model = load(run)
    plan = plan_of(model, run)
    inputs = []
    for item in run["items"]:
        facts, video = GOLDEN["preprocessing"][item["preprocessing"]], video_of(item["video"])
        total, fps = (len(video.frames), video.fps) if isinstance(video, Clip) else probe_of(video)
        assert plan.indices(total, fps) == facts["frame_indices"]
        clip = planned_clip(video, plan)
        frames = clip.frames
        t, h, w = facts["video_grid_thw"]
        assert frames.shape == (facts["nframes"], h * 14, w * 14, 3) and -(-facts["nframes"] // 2) == t
        assert int(frames.sum(dtype=np.int64)) == pytest.approx(facts["resized_sum"], abs=0.5)
        ids, _ = made = make_input(model.model, clip, GOLDEN["prompts"][item["prompt"]])
        assert hashlib.sha256(np.array(ids, "<i8").tobytes()).hexdigest() == facts["input_ids_sha256_int64le"]
        inputs.append(made)
    raw = raw_scores(model.model, inputs, token_budget=10**6)
    for found, golden, norm in zip(raw, run["raw"], run["norm"], strict=True):
        score = model._score(found)
        assert score.raw == pytest.approx({k: golden[k] for k in ("VQ", "MQ", "TA")}, abs=1e-4)
        assert score.overall == pytest.approx(norm["Overall"], abs=1e-4)


def probe_of(video: Path) -> tuple[int, float]:
    info = probe(video)
    return info.frames, info.fps


@pytest.fixture
def run(tmp_path) -> Path:
    """A copy of a LoRA run beside its base model."""
    shutil.copytree(OPEN / "ckpt_a", tmp_path / "ckpt_a", ignore=shutil.ignore_patterns("checkpoint-9"))
    shutil.copytree(OPEN / "base", tmp_path / "base")
    return tmp_path / "ckpt_a"


def change(run: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors of the run's trained parts other than LoRA; None takes one out."""
    file = run / "checkpoint-12/non_lora_state_dict.pth"
    tensors = torch.load(file, weights_only=True) | changes
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


HEAD = "base_model.model.rm_head.weight"
EMBEDDING = "base_model.model.model.embed_tokens.weight"
VISUAL = "base_model.model.visual.merger.ln_q.weight"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({HEAD: None}, "'rm_head.weight': missing"),
        ({VISUAL: None}, "'model.visual.merger.ln_q.weight': missing"),
        ({HEAD: torch.zeros(2, 64)}, r"'rm_head.weight': is \(2, 64\), not \(1, 64\)"),
        ({HEAD: torch.full((1, 64), float("nan"))}, "'rm_head.weight': a weight is not finite"),
        ({"base_model.model.extra.weight": torch.zeros(3)}, "'extra.weight': this model has no such tensor"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_its_tensor(run, changes, said):
    change(run, **changes)
    with pytest.raises(BadInput, match=f"checkpoint-12, key {said}"):
        load_published(run, TEMPLATE)


def test_what_the_layout_lacks_is_said(run, tmp_path):
    with pytest.raises(BadInput, match="--template"):
        load_published(run, None)
    with pytest.raises(BadInput, match="missing"):
        load_published(run, tmp_path / "no-such-template.txt")
    config = run / "model_config.json"
    whole = config.read_text()
    config.write_text(whole.replace("model_name_or_path", "model_name"))
    with pytest.raises(BadInput, match=r"model_config.json, key 'model_config.model_name_or_path': missing"):
        load_published(run, TEMPLATE)
    config.write_text(whole)
    adapter = run / "checkpoint-12/adapter_model.safetensors"
    factors = load_file(adapter)
    save_file({name: factor for name, factor in factors.items() if "layers.0.mlp.up_proj.lora_B" not in name}, adapter)
    with pytest.raises(BadInput, match=r"key 'model\.language_model\.layers\.0\.mlp\.up_proj': LoRA has only A"):
        load_published(run, TEMPLATE)
    (run / "checkpoint-12/non_lora_state_dict.pth").write_bytes(b"not a pickle")
    with pytest.raises(BadInput, match="not a file of tensors"):
        load_published(run, TEMPLATE)


def configure(run: Path, **model_config) -> None:
    config = json.loads((run / "model_config.json").read_text())
    config["model_config"] |= model_config
    (run / "model_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("reward_token", "readout"), [("last", "last"), ("mean", "mean_but_last")])
def test_other_reward_tokens(run, tmp_path, reward_token, readout):
    """A head row a dimension; with the reward tokens in the text all the same, and without any."""
    video = [(VIDEOS / "example_3_A.mp4", "a cat")]
    configure(run, reward_token=reward_token, output_dim=3)
    change(run, **{HEAD: torch.eye(3, 64)})
    model = RewardModel.load(run, template=TEMPLATE)
    assert model.model.prompts.readout == model.card.readout == readout
    assert len(model.model.prompts.reward_ids) == 3
    (with_tokens,) = model.score(video)

    configure(run, use_special_tokens=False)
    with pytest.raises(BadInput, match="it holds reward tokens, and this model was trained without"):
        load_published(run, TEMPLATE)
    (tmp_path / "plain.txt").write_text("Rate it: {text_prompt}")
    with pytest.raises(BadInput, match=r"embed_tokens.weight': is \(3017, 64\), not \(3072, 64\)"):
        load_published(run, tmp_path / "plain.txt")
    change(run, **{HEAD: torch.eye(3, 64), EMBEDDING: None})  # what a run without tokens leaves: no embedding
    (without,) = RewardModel.load(run, template=tmp_path / "plain.txt").score(video)
    assert len(set(with_tokens.raw.values()) | set(without.raw.values())) == 6


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"reward_token": "first"}, r"key 'model_config.reward_token': 'first' is none of special, last, mean"),
        ({"use_special_tokens": False}, r"key 'model_config.use_special_tokens': false, and reward_token 'special'"),
        ({"reward_token": "last"}, r"key 'model_config.output_dim': 1 outputs for 3 dimensions"),
    ],
)
def test_a_readout_that_cannot_be(run, config, said):
    configure(run, **config)
    with pytest.raises(BadInput, match=said):
        load_published(run, TEMPLATE)


def test_a_run_scores_through_the_ordinary_door(run):
    model = RewardModel.load(run, template=TEMPLATE)
    good, bad = model.score([(VIDEOS / "example_3_A.mp4", GOLDEN["prompts"]["csv3"]), (VIDEOS / "none.mp4", "a cat")])
    golden = next(r for r in RUNS if r["id"] == "r004" and r["items"][0]["video"] == "example_3_A.mp4")
    assert good.raw["TA"] == pytest.approx(golden["raw"][0]["TA"], abs=1e-4)
    assert isinstance(bad, Unscored) and "no such file" in bad.reason


@pytest.mark.parametrize("step", [9, -1])
def test_version_and_dimensions_are_known_without_the_weights(step):
    files = ModelFiles(str(OPEN / "ckpt_a"), str(TEMPLATE), step)
    model = RewardModel.load(files.folder, template=files.template, step=step)
    assert (files.version(), files.dimensions()) == (model.version, model.dimensions)
    assert not any(model.card.tie_thresholds.values()) and files.tie_thresholds() == {}


@pytest.fixture
def whole(tmp_path) -> Path:
    """A copy of a run of whole tensors beside its base model."""
    shutil.copytree(OPEN / "ckpt_b", tmp_path / "ckpt_b")
    shutil.copytree(OPEN / "base", tmp_path / "base", dirs_exist_ok=True)
    return tmp_path / "ckpt_b"


def newer(name: str) -> str:
    """The name that transformers 4.52 and later give a tensor."""
    for old, new in (("visual.", "model.visual."), ("model.layers", "model.language_model.layers")):
        name = re.sub(rf"^((?:base_model\.model\.)?){re.escape(old)}", rf"\1{new}", name)
    for part in ("embed_tokens", "norm"):
        name = re.sub(rf"^((?:base_model\.model\.)?)model\.{part}\b", rf"\1model.language_model.{part}", name)
    return name


def scores_of(run: Path) -> dict[str, float]:
    ramp = np.linspace(0, 255, 4 * 56 * 56 * 3).reshape(4, 56, 56, 3).astype(np.uint8)
    (score,) = RewardModel.load(run, template=TEMPLATE).score([(Clip(ramp, 2.0), "a cat")])
    return score.raw


def test_names_of_later_versions_of_transformers(run, whole):
    """As 4.52 and later save them: LoRA beside trained parts, and every tensor in one file."""
    before = scores_of(run)
    adapter, rest = run / "checkpoint-12/adapter_model.safetensors", run / "checkpoint-12/non_lora_state_dict.pth"
    save_file({newer(name): tensor for name, tensor in load_file(adapter).items()}, adapter)
    old = torch.load(rest, weights_only=True)
    assert newer(EMBEDDING) != EMBEDDING and newer(VISUAL) != VISUAL
    torch.save({newer(name): tensor for name, tensor in old.items()}, rest)
    assert scores_of(run) == before
    torch.save({newer(name): tensor for name, tensor in old.items()} | {VISUAL: old[VISUAL]}, rest)
    with pytest.raises(BadInput, match="there twice, under names of two versions"):
        load_published(run, TEMPLATE)

    before, file = scores_of(whole), whole / "checkpoint-15/model.pth"
    tensors = torch.load(file, weights_only=True)
    torch.save({newer(name): tensor for name, tensor in tensors.items()}, file)
    assert scores_of(whole) == before


@pytest.mark.parametrize("wrapped", ["state_dict", "module", "model_state_dict", "prefix"])
def test_tensors_as_trainers_wrap_them(run, wrapped):
    before, file = scores_of(run), run / "checkpoint-12/non_lora_state_dict.pth"
    tensors = torch.load(file, weights_only=True)
    if wrapped == "prefix":
        torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, file)
    else:
        torch.save({wrapped: tensors, "epoch": 3}, file)
    assert scores_of(run) == before


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {"state_dict": {"a": None}}, torch.ones(2)])
def test_a_pth_of_something_else(run, value):
    torch.save(value, run / "checkpoint-12/non_lora_state_dict.pth")
    with pytest.raises(BadInput, match="not a mapping of names to tensors"):
        load_published(run, TEMPLATE)


NORMS = {f"{name}_{of}": 1.5 for name in ("VQ", "MQ", "TA") for of in ("mean", "std")}
CONFIGS = {
    "a list": (lambda c: [c], "not a JSON object of sections"),
    "a section a list": (lambda c: c | {"data_config": []}, "key 'data_config': is"),
    "norms of some": (
        lambda c: c | {"inference_config": {"VQ_mean": 1.0, "VQ_std": 2.0}},
        "key 'inference_config.MQ_mean': missing, and others are there",
    ),
    "a norm of text": (lambda c: c | {"inference_config": NORMS | {"TA_std": "x"}}, "key 'inference_config.TA_std': is 'x'"),
    "a width of nothing": (
        lambda c: c | {"inference_config": NORMS | {"TA_std": 0}},
        "TA_std': not positive",
    ),
    "no rate": (lambda c: data(c, fps=None, num_frames=None), r"key 'data_config\.fps': null, and num_frames too"),
    "rate of text": (lambda c: data(c, fps="two"), r"key 'data_config\.fps': is 'two'"),
    "one frame": (lambda c: data(c, num_frames=1), r"key 'data_config\.num_frames': is 1"),
    "another sampling": (lambda c: data(c, sample_type="random"), r"key 'data_config\.sample_type': is 'random'"),
    "no dimension": (lambda c: data(c, eval_dim=[]), r"key 'data_config\.eval_dim': is \[\]"),
    "dimensions by number": (lambda c: data(c, eval_dim=[1, 2]), r"key 'data_config\.eval_dim\.0': is 1"),
    "a dimension twice": (lambda c: data(c, eval_dim=["VQ", "VQ"]), "names a dimension twice"),
    "pixels": (lambda c: data(c, max_frame_pixels=0), r"key 'data_config\.max_frame_pixels': is 0"),
}


def data(config: dict, **changes) -> dict:
    return config | {"data_config": config["data_config"] | changes}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_cannot_be_is_one_line(run, case):
    edit, said = CONFIGS[case]
    file = run / "model_config.json"
    file.write_text(json.dumps(edit(json.loads(file.read_text()))))
    with pytest.raises(BadInput, match=rf"model_config\.json.*{said}") as raised:
        load_published(run, TEMPLATE)
    assert "\n" not in str(raised.value)


def test_one_dimension_as_text(run, tmp_path):
    """The reference takes `eval_dim: VQ` as one dimension, not as V and Q."""
    file = run / "model_config.json"
    file.write_text(json.dumps(data(json.loads(file.read_text()), eval_dim="VQ")))
    assert ModelFiles(str(run), str(TEMPLATE), -1).dimensions() == ["VQ"]
    (tmp_path / "one.txt").write_text("Rate {text_prompt}: <|VQ_reward|>")
    change(run, **{EMBEDDING: torch.load(run / "checkpoint-12/non_lora_state_dict.pth", weights_only=True)[EMBEDDING][:-2]})
    _, card = load_published(run, tmp_path / "one.txt")
    assert card.dimensions == ["VQ"] and list(card.normalisation) == ["VQ"]


@pytest.mark.parametrize("name", ["Qwen/base", "/home/somebody/models/base", "../../base"])
def test_a_base_model_of_another_machine_is_looked_for_beside_the_run(run, tmp_path, name):
    before = scores_of(run)
    configure(run, model_name_or_path=name)
    assert scores_of(run) == before
    shutil.rmtree(tmp_path / "base")
    fetch = "Qwen/base" if name.startswith("Qwen") else "OWNER/base"
    with pytest.raises(BadInput, match=rf"nor beside the run.*`reelign fetch {fetch} --to downloads/base`"):
        load_published(run, TEMPLATE)


def test_a_checkpoint_in_place_of_its_run(run):
    with pytest.raises(BadInput, match=rf"checkpoint-12: a checkpoint of a run: give the run's folder, {run} \(--step 12"):
        RewardModel.load(run / "checkpoint-12", template=TEMPLATE)
    with pytest.raises(BadInput, match="give the run's folder"):
        ModelFiles(str(run / "checkpoint-12"), str(TEMPLATE), -1).dimensions()


def test_a_damaged_adapter(run):
    checkpoint = run / "checkpoint-12"
    config, adapter = checkpoint / "adapter_config.json", checkpoint / "adapter_model.safetensors"
    whole = config.read_text()
    for values, said in (
        ({"r": None}, "its config has rank None and alpha 16"),
        ({"r": 4}, "LoRA of rank 8, its config has 4"),
        ({"alpha_pattern": {"layers.0": 4}}, r"adapter_config\.json, key 'alpha_pattern'"),
    ):
        config.write_text(json.dumps(json.loads(whole) | values))
        with pytest.raises(BadInput, match=said):
            load_published(run, TEMPLATE)
    config.write_text(whole)
    adapter.write_bytes(adapter.read_bytes()[:900])
    with pytest.raises(BadInput, match=r"adapter_model\.safetensors: no safetensors"):
        load_published(run, TEMPLATE)
