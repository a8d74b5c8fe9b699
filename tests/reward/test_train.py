"""Stages reward and reward_bench on a handful of real files: they learn what can be learnt, nothing where labels are
shuffled, and say what they cannot know."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from components.config.params import FramePlanParams, LoraParams, RewardBenchParams, RewardParams, TrainingParams
from components.errors import BadInput, NonFinite
from components.files.tables import read_table, write_table
from components.reward import train as train_module
from components.reward.bench import reward_bench
from components.reward.card import read_card
from components.reward.inputs import Clip
from components.reward.model import load_video_reward
from components.reward.prompt import TEMPLATES
from components.reward.score import RewardModel, make_input
from components.reward.train import build, prepare, reward
from components.schemas import PAIRS_SCHEMA
from components.video.decode import read_frames
from components.video.encode import write_video
from tests.limits import LIMIT_PARAMS
from tests.reward.tiny import tiny_model

PARAMS = RewardParams(
    base="base",
    dtype="float32",
    dimensions=["VQ", "MQ", "TA"],
    template=str(TEMPLATES / "short.txt"),
    frames=FramePlanParams(fps=None, frames=2, min_pixels=64, max_pixels=256),
    positions="plain",
    readout="special",
    head="per_dimension",
    loss="btt",
    theta=5.0,
    shuffle_labels=False,
    lora=LoraParams(rank=2, alpha=4, targets=["q_proj", "v_proj"]),
    vision_learning_rate=0.01,
    head_learning_rate=0.02,
    gradient_checkpointing=False,
    training=TrainingParams(
        steps=40,
        batch_size=12,
        accumulation=1,
        learning_rate=0.01,
        warmup_steps=2,
        schedule="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        ema_decay=None,
        precision="fp32",
        log_every=10,
        validate_every=100,
        checkpoint_seconds=1000,
    ),
    token_budget=4096,
    decode_threads=1,
    offload=False,
)


class PlainStage:
    """What the stages use of a Stage, without a pipeline around it."""

    name, digest = "reward", "0" * 16

    def __init__(self, **reward):
        bench = RewardBenchParams(threshold_from="validation", bootstrap=50)
        self.params = SimpleNamespace(reward=PARAMS.model_copy(update=reward), reward_bench=bench, limits=LIMIT_PARAMS)
        self.registered = []

    def output(self, path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return Path(path)

    def state(self):
        Path("state").mkdir(exist_ok=True)
        return Path("state")

    def seed(self, *key):
        return 7

    def rng(self, *key):
        return np.random.default_rng(7)

    def progress(self, items, what, total=None):
        return items

    def log(self, metrics, step=None):
        pass

    def say(self, text):
        pass

    def register(self, *model):
        self.registered.append(model)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A working folder with pairs whose brighter clip is the better one; VQ has ties, TA no label, Overall is VQ."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    levels = rng.integers(20, 236, 40)
    for number, level in enumerate(levels):
        frames = np.clip(level + rng.normal(0, 10, (3, 16, 16, 3)), 0, 255).astype(np.uint8)
        write_video(f"data/source/videos/{number}.mp4", frames, fps=8)

    def pairs(split, count):
        rows = []
        for place in range(count):
            a, b = rng.choice(40, 2, replace=False)
            gap = int(levels[a]) - int(levels[b])
            label = 0 if abs(gap) < 30 else int(np.sign(gap))
            rows.append(
                {
                    "pair_id": f"{split}{place}",
                    "prompt": f"{split} prompt {place % 9}",
                    "path_A": f"{a}.mp4",
                    "path_B": f"{b}.mp4",
                    "model_A": None,
                    "model_B": None,
                    "VQ": label,
                    "MQ": -1 if gap > 0 else 1,
                    "TA": None,
                    "Overall": label,
                    **{f"MOS_{side}_{name}": None for side in "AB" for name in ("VQ", "MQ", "TA", "Overall")},
                    "decided_by": "given",
                    "annotators": ["given"],
                    "rows": [2 + len(rows)],
                }
            )
        write_table(f"data/pairs/{split}.parquet", rows, PAIRS_SCHEMA)

    pairs("train", 60)
    pairs("validation", 20)
    pairs("test", 60)
    model = tiny_model()
    model.backbone.network.save_pretrained("base")
    model.prompts.tokenizer.save_pretrained("base")
    return pairs


def bench(stage) -> dict:
    reward(stage)
    reward_bench(stage)
    return json.loads(Path("metrics/reward_bench.json").read_text())


def test_what_can_be_learnt_is_learnt(data):
    stage = PlainStage()
    report = bench(stage)
    assert report["model_version"] == RewardModel.load("models/video_reward").version
    assert (report["pairs"], report["prompts"]) == (60, 9)
    for name in ("VQ", "MQ"):
        entry = report["dimensions"][name]["accuracy_without_ties"]
        assert entry["value"] > 0.9 and entry["ci95"][0] <= entry["value"] <= entry["ci95"][1]
    tied = report["dimensions"]["VQ"]["accuracy_with_ties"]
    assert tied["value"] > report["baselines"]["VQ"]["random"] and tied["threshold_from"] == "validation"
    # Nobody said anything of TA: no figure, rather than a made-up one.
    assert report["dimensions"]["TA"]["accuracy_without_ties"] == {"value": None, "ci95": None, "n": 0}
    assert report["dimensions"]["TA"]["accuracy_with_ties"]["tie_threshold"] is None
    rows = Path("plots/reward_bench.csv").read_text().splitlines()
    assert len(rows) == 61 and rows[0].startswith("pair_id,prompt,model_A,model_B,VQ_label,VQ_score_A,VQ_score_B,MQ_label")
    facts = json.loads(Path("models/video_reward/video_reward.json").read_text())
    assert facts["head_trained"] and facts["provenance"]["train_pairs"] == 60
    kept = facts["reference"]
    assert kept["quantiles"].keys() == {"VQ", "MQ", "TA", "Overall"} and 20 < kept["clips"] <= 40
    for name, values in kept["quantiles"].items():
        assert len(values) == 101 and values == sorted(values) == [round(value, 4) for value in values]
        assert abs(np.mean(values)) < 0.1, "normalised on the very same clips"
        assert name == "Overall" or 0.8 < np.std(values) < 1.2
    assert [entry[0] for entry in stage.registered] == ["video_reward"]


def test_shuffled_labels_teach_nothing(data):
    report = bench(PlainStage(shuffle_labels=True))
    accuracies = [report["dimensions"][name]["accuracy_without_ties"]["value"] for name in ("VQ", "MQ")]
    assert abs(np.mean([accuracies[0], 1 - accuracies[1]]) - 0.5) < 0.35
    assert max(accuracies) < 0.9


def test_same_weights_again(data):
    reward(PlainStage())
    first = RewardModel.load("models/video_reward").version
    Path("models").rename("before")
    reward(PlainStage())
    assert RewardModel.load("models/video_reward").version == first


def test_gradient_checkpointing_changes_no_gradient():
    clips = [Clip(np.random.default_rng(n).integers(0, 256, (4, 16, 16, 3), np.uint8), 8.0) for n in range(2)]

    def loss_and_gradients(checkpointing):
        model = tiny_model()
        ran = []
        qwen = model.backbone.network.model
        qwen.visual.blocks[0].norm1.register_forward_hook(lambda *_: ran.append("vision"))
        qwen.language_model.layers[0].input_layernorm.register_forward_hook(lambda *_: ran.append("language"))
        prepare(model, PARAMS.model_copy(update={"gradient_checkpointing": checkpointing}))
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(0))
        batch = model.batch([make_input(model, clip, "a red circle") for clip in clips])
        loss = model.train()(batch).square().mean()
        loss.backward()
        return ran, loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    ran, loss, gradients = loss_and_gradients(False)
    ran_again, loss_again, gradients_again = loss_and_gradients(True)
    assert sorted(ran_again) == sorted([*ran, *ran]) == ["language", "language", "vision", "vision"]
    torch.testing.assert_close(loss_again, loss, atol=1e-6, rtol=1e-6)
    assert set(gradients_again) == set(gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_again[name], gradient, atol=1e-6, rtol=1e-6)


def test_only_ties_in_validation(data, monkeypatch):
    """As the examples profile may have it: no decided pair to measure on is no reason to fall over."""
    data("validation", 1)
    data("test", 1)
    report = bench(PlainStage(training=PARAMS.training.model_copy(update={"steps": 2})))
    assert report["pairs"] == 1


def test_bad_input(data):
    data("train", 0)
    with pytest.raises(BadInput, match=r"train\.parquet: no pairs"):
        reward(PlainStage())
    data("train", 30)
    Path("data/source/videos/3.mp4").unlink()
    with pytest.raises(BadInput, match=r"row \d+, key 'path_[AB]': .*no such file"):
        reward(PlainStage())


def rate(split, change):
    """Rewrite a split's pairs with the ratings that `change(row)` gives."""
    rows = read_table(f"data/pairs/{split}.parquet")
    write_table(f"data/pairs/{split}.parquet", [row | change(row) for row in rows], PAIRS_SCHEMA)


def test_a_loss_over_ratings_needs_them(data, monkeypatch):
    monkeypatch.setattr(train_module, "cached_clips", lambda *a: pytest.fail("it went on"))
    with pytest.raises(BadInput, match=r"train\.parquet, key 'MOS_A_VQ': no ratings"):
        reward(PlainStage(loss="regression"))
    rate("train", lambda row: {"MOS_A_VQ": 4.0, "MOS_B_VQ": 2.0, "MOS_A_MQ": 3.0})
    with pytest.raises(BadInput, match=r"train\.parquet, key 'MOS_A_TA': no ratings"):
        reward(PlainStage(loss="scaled"))
    with pytest.raises(BadInput, match=r"train\.parquet, key 'MOS_B_MQ': no ratings"):
        reward(PlainStage(loss="margin", dimensions=["VQ", "MQ"]))


def test_ratings_alone_can_be_learnt(data):
    """Regression reads no label: those of training are taken away."""
    levels = {f"{n}.mp4": float(read_frames(f"data/source/videos/{n}.mp4").mean()) for n in range(40)}

    def ratings(row):
        a, b = (1 + 4 * levels[row[f"path_{side}"]] / 255 for side in "AB")
        return {"VQ": None, "MQ": None, "MOS_A_VQ": a, "MOS_B_VQ": b, "MOS_A_MQ": 6 - a, "MOS_B_MQ": 6 - b}

    rate("train", ratings)
    report = bench(PlainStage(loss="regression", dimensions=["VQ", "MQ"], template=two_template()))
    for name in ("VQ", "MQ"):
        assert report["dimensions"][name]["accuracy_without_ties"]["value"] > 0.9
    assert json.loads(Path("models/video_reward/video_reward.json").read_text())["loss"] == "regression"


def two_template() -> str:
    Path("two.txt").write_text("<|VQ_reward|><|MQ_reward|>{text_prompt}")
    return "two.txt"


@pytest.mark.parametrize("readout", ["special", "last"])
def test_seven_dimensions_from_pairs_to_figures(data, readout):
    names = [f"trait{n}" for n in range(7)]
    kept = [field for field in PAIRS_SCHEMA if not field.name.startswith("MOS") and field.name not in ("VQ", "MQ", "TA")]
    schema = pa.schema([*kept, *(pa.field(name, pa.int8()) for name in names)])
    for split in ("train", "validation", "test"):
        rows = read_table(f"data/pairs/{split}.parquet")
        rows = [row | {name: row["MQ"] * (-1) ** n for n, name in enumerate(names)} for row in rows]
        write_table(f"data/pairs/{split}.parquet", [{k: row[k] for k in schema.names} for row in rows], schema)
    Path("seven.txt").write_text("{text_prompt}" + "".join(f"<|{name}_reward|>" for name in names))
    report = bench(PlainStage(dimensions=names, template="seven.txt", readout=readout))
    assert set(report["dimensions"]) == {*names, "Overall"}
    assert all(report["dimensions"][name]["accuracy_without_ties"]["value"] > 0.8 for name in names)


def test_a_loss_that_is_not_finite_stops_training(data, monkeypatch):
    monkeypatch.setattr(train_module, "pair_loss", lambda name, theta: lambda a, b, *_: (a - b).sum() * float("nan"))
    with pytest.raises(NonFinite):
        reward(PlainStage())
    assert not Path("models").exists()


def test_training_goes_on_from_a_model(data, tmp_path):
    reward(PlainStage())
    shutil.move("models/video_reward", "before")
    again = PlainStage(base="before")
    start = build(again.params.reward)
    assert torch.equal(start.head.weight, load_video_reward("before")[0].head.weight)
    still = PARAMS.training.model_copy(update={"steps": 1, "learning_rate": 1e-9})
    reward(PlainStage(base="before", vision_learning_rate=1e-9, head_learning_rate=1e-9, training=still))
    before, after = (read_card(folder).normalisation["VQ"].mean for folder in ("before", "models/video_reward"))
    assert after == pytest.approx(before, abs=1e-4)


def test_what_a_model_was_trained_with_cannot_change_when_it_is_trained_on(data):
    reward(PlainStage())
    shutil.move("models/video_reward", "before")
    with pytest.raises(BadInput, match=r"reward\.positions.*before was trained with"):
        reward(PlainStage(base="before", positions="multimodal"))
