"""The scoring engine: real files, per-item errors, each distinct video once, the same score in any company."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from components.reward import score as score_module
from components.reward.score import Clip, RewardModel, score_table, token_batches
from components.reward.scores import Unscored
from components.video.decode import read_frames
from components.video.encode import write_video
from tests.reward.tiny import saved_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("models") / "video_reward")


@pytest.fixture
def model(folder):
    return RewardModel.load(folder, token_budget=200)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for seed, (frames, height, width) in enumerate([(9, 32, 32), (5, 32, 48), (12, 64, 32)]):
        pixels = np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
        write_video(root / f"{seed}.mp4", pixels, fps=8)
    (root / "text.mp4").write_text("not a video")
    write_video(root / "short.mp4", pixels[:3], fps=8)
    return root


def test_scores_carry_where_they_come_from(model, videos):
    (one,) = model.score([(videos / "0.mp4", "a red circle")])
    assert one.model_version == model.version and len(model.version) == 16
    assert one.frame_plan == "4frames 64-1024px/8"
    for name in ("VQ", "MQ", "TA"):
        assert one.normalised[name] == pytest.approx((one.raw[name] - 0.5) / 2.0)
    assert one.overall == pytest.approx(sum(one.normalised.values()))


def test_the_same_score_in_any_company(model, videos):
    items = [(videos / f"{i}.mp4", prompt) for i in range(3) for prompt in ("a", "a longer prompt than that")]
    together = model.score(items)
    for item, score in zip(items, together, strict=True):
        (alone,) = model.score([item])
        assert list(alone.raw.values()) == pytest.approx(list(score.raw.values()), abs=1e-5)


def test_a_failure_is_no_score(model, videos):
    items = [
        (videos / "0.mp4", "a"),
        (videos / "missing.mp4", "a"),
        (videos / "text.mp4", "a"),
        (videos / "short.mp4", "a"),
        (videos / "0.mp4", ""),
        (videos / "0.mp4", "a" * 5000),
        (Clip(np.zeros((1, 32, 32, 3), np.uint8), 8), "a"),
        (videos / "1.mp4", "a"),
    ]
    scores = model.score(items)
    reasons = [score.reason if isinstance(score, Unscored) else None for score in scores]
    assert reasons[0] is None and reasons[7] is None
    for reason, part in zip(
        reasons[1:7], ["no such file", "unreadable", "3 frames", "empty", "at most 4096", "1 frame"], strict=True
    ):
        assert part in reason


def test_each_distinct_video_is_decoded_and_scored_once(model, videos, monkeypatch):
    read, scored = [], []
    planned, raw = score_module.planned_clip, score_module.raw_scores
    monkeypatch.setattr(score_module, "planned_clip", lambda *given: read.append(given[0]) or planned(*given))
    monkeypatch.setattr(
        score_module, "raw_scores", lambda model, inputs, budget: scored.extend(inputs) or raw(model, inputs, budget)
    )
    items = [(videos / "0.mp4", "a"), (videos / "1.mp4", "b"), (videos / "0.mp4", "a"), (videos / "0.mp4", "c")]
    scores = model.score(items)
    assert len(read) == 2 and len(scored) == 3
    assert scores[0] == scores[2] != scores[3]


def test_frames_in_memory_score_as_the_file_does(model, videos):
    frames = read_frames(videos / "1.mp4")
    from_file, from_memory = model.score([(videos / "1.mp4", "a"), (Clip(frames, 8.0), "a")])
    assert from_file == from_memory


def test_score_table(model, videos):
    stage = SimpleNamespace(progress=lambda items, what, total: items)
    rows = pd.DataFrame({"path": ["0.mp4", "missing.mp4"], "prompt": ["a", "a"]})
    table = score_table(stage, model, rows, videos)
    assert table["status"].tolist() == ["ok", "failed"]
    assert "no such file" in table["reason"][1] and table[["VQ", "Overall", "raw_TA"]].iloc[1].isna().all()
    assert table["reward_model"].fillna("none").tolist() == [model.version, "none"]


def test_batches_keep_the_budget():
    lengths = np.random.default_rng(0).integers(1, 100, 57)
    batches = list(token_batches(lengths, 250))
    assert sorted(place for batch in batches for place in batch) == list(range(57))
    assert all(len(batch) * lengths[batch].max() <= 250 for batch in batches)
    assert list(token_batches([300, 10], 250)) == [[1], [0]]  # one that is too long goes alone
