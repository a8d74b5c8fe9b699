"""Long prompts and long clips: refused one by one before they cost anything, and never more in memory than there is room."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from components.reward import score as score_module
from components.reward.ahead import ahead
from components.reward.score import RewardModel, Score, Unscored
from components.video.encode import write_video
from components.video.limits import LIMITS
from tests.reward.tiny import saved_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return RewardModel.load(saved_model(tmp_path_factory.mktemp("models") / "video_reward"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8), fps=8)
    return path


def test_a_prompt_that_is_too_long_is_refused_before_its_video_and_its_tokens(model, clip, monkeypatch):
    read, encoded = [], []
    planned, encode = score_module.planned_clip, model.model.prompts._encode
    monkeypatch.setattr(score_module, "planned_clip", lambda *given: read.append(given[0]) or planned(*given))
    monkeypatch.setattr(model.model.prompts, "_encode", lambda prompt: encoded.append(prompt) or encode(prompt))
    long = "a red circle " * 100_000
    refused, missing, scored = model.score([(clip, long), ("missing.mp4", long), (clip, "a red circle")])
    why = f"the prompt has {len(long)} characters; at most {LIMITS.prompt} are read"
    assert refused == missing == Unscored(why)
    assert isinstance(scored, Score) and read == [clip] and long not in encoded


def test_a_clip_of_more_tokens_than_the_model_reads_is_refused_before_it_is_decoded(model, clip, monkeypatch):
    monkeypatch.setattr(model.model.backbone.network.config.text_config, "max_position_embeddings", 3)
    monkeypatch.setattr("components.video.decode._decode", None)
    (refused,) = model.score([(clip, "a red circle")])
    assert refused.reason == "4 frames of 32x32 take 32 tokens; the model reads at most 3"


def test_limits_are_the_models(model, clip, monkeypatch):
    monkeypatch.setattr(model, "limits", replace(LIMITS, pixels=1000))
    (refused,) = model.score([(clip, "a red circle")])
    assert "32x32 is 1024 pixels a frame; at most 1000 are read" in refused.reason


def test_what_waits_to_be_scored_is_bounded_by_its_bytes(model, clip, monkeypatch):
    batches, raw = [], score_module.raw_scores
    monkeypatch.setattr(
        score_module, "raw_scores", lambda model, inputs, budget: batches.append(len(inputs)) or raw(model, inputs, budget)
    )
    items = [(clip, "a red circle")] + [(clip.with_name(f"{n}.mp4"), "a") for n in range(5)]
    for path, _ in items[1:]:
        path.write_bytes(clip.read_bytes())
    together = model.score(items)
    monkeypatch.setattr(score_module, "HELD", 2 * 4 * 32 * 32 * 3)
    parted = model.score(items)
    assert batches == [6, 2, 2, 2, 0]
    for one, other in zip(together, parted, strict=True):
        assert list(one.raw.values()) == pytest.approx(list(other.raw.values()), abs=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
def test_results_wait_by_number_and_by_weight_and_come_in_order(threads):
    lock, now, most = threading.Lock(), 0, 0

    def make(number: int) -> int:
        nonlocal now, most
        time.sleep(0.001 * (number % 3))
        with lock:
            now += 1
            most = max(most, now)
        return number

    with ThreadPoolExecutor(threads) as pool:
        for room, count in ((5, 128), (10**9, 4)):
            now = most = 0
            for expected, number in enumerate(ahead(pool, make, range(60), count, lambda _: 1, room)):
                assert number == expected
                with lock:
                    now -= 1
            assert expected == 59 and most <= min(room, count) + threads
        begun = []
        results = ahead(pool, begun.append, range(1000), 128, lambda _: 1, 1)
        next(results)
        results.close()  # what was not begun is not: nothing waits for room for ever
    assert len(begun) <= 2 + threads


def test_a_failure_ends_the_work_and_is_raised():
    def fail(number: int) -> int:
        if number == 7:
            raise KeyError(number)
        return number

    with ThreadPoolExecutor(2) as pool, pytest.raises(KeyError):
        list(ahead(pool, fail, range(500), 128, lambda _: 1, 1))
