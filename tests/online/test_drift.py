"""Signals of a round's clips beside those of round 1: which change raises the alarm."""

import numpy as np
import pandas as pd
import pytest

from components.config.params import load_params
from components.errors import BadInput
from components.online.drift import SIGNALS, drift, measured
from components.video.encode import write_video
from tests.conftest import BareStage

LIMITS = load_params().evaluate.hacking
MEANS = {"brightness": 0.5, "saturation": 0.2, "dynamic_degree": 1.0, "diversity": 0.1}


def scores(seed: int, **changes: float) -> pd.DataFrame:
    """Signals of two clips of each of 40 prompts around MEANS and these changes."""
    rng = np.random.default_rng(seed)
    table = {name: np.repeat(rng.normal(mean + changes.get(name, 0), mean / 4, 40), 2) for name, mean in MEANS.items()}
    return pd.DataFrame({"prompt_id": np.repeat(np.arange(40), 2), **table})


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"brightness": 0.2}, ["brightness"]),
        ({"brightness": -0.2}, ["brightness"]),
        ({"saturation": 0.15}, ["saturation"]),
        ({"dynamic_degree": -0.5}, ["dynamic_degree"]),
        ({"dynamic_degree": 0.5}, []),
        ({"diversity": -0.06, "brightness": 0.2}, ["brightness", "diversity"]),
        ({"diversity": 0.06}, []),
        ({"brightness": 0.05}, []),  # sure, and within the limit
    ],
)
def test_changes_beyond_the_limits_raise_it(changes, reasons):
    assert [reason.partition(":")[0] for reason in drift(scores(1), scores(2, **changes), LIMITS)] == reasons


def test_the_reason_names_both_means():
    first, now = scores(1), scores(2, brightness=0.2)
    (reason,) = drift(first, now, LIMITS)
    assert reason == f"brightness: {now.brightness.mean():.3g} instead of round 1's {first.brightness.mean():.3g}"


def test_prompts_too_few_raise_none():
    one = scores(1).head(2)
    assert drift(one, one.assign(brightness=1.0), LIMITS) is None


def test_a_few_clips_with_a_wide_interval_raise_none():
    first, now = scores(1), scores(2)
    noisy = now.head(4).assign(brightness=[0.0, 0.0, 1.4, 1.4])
    assert noisy.brightness.mean() - first.brightness.mean() > LIMITS.brightness_shift
    assert drift(first, noisy, LIMITS) == []


def drawn(folder, clips: dict[str, list[int]]) -> pd.DataFrame:
    """Grey clips of these levels, by prompt."""
    rows = []
    for prompt, levels in clips.items():
        for number, level in enumerate(levels):
            write_video(folder / f"{prompt}-{number}.mp4", np.full((5, 32, 32, 3), level, np.uint8), 8)
            rows.append({"prompt_id": prompt, "path": f"{prompt}-{number}.mp4"})
    return pd.DataFrame(rows)


def test_two_clips_of_a_prompt_are_measured(tmp_path):
    table = drawn(tmp_path, {"a": [51, 102, 255], "b": [204]})
    found = measured(BareStage(tmp_path), table, tmp_path)
    assert list(found.columns) == list(SIGNALS)
    assert found.brightness.tolist() == pytest.approx([0.2, 0.4, np.nan, 0.8], abs=0.01, nan_ok=True)
    assert found.diversity.tolist() == pytest.approx([0.2, 0.2, np.nan, np.nan], abs=0.01, nan_ok=True)
    assert found.dynamic_degree.dropna().tolist() == pytest.approx([0, 0, 0], abs=0.01)


def test_a_clip_that_cannot_be_read_is_named(tmp_path):
    table = drawn(tmp_path, {"a": [51, 102]})
    (tmp_path / "a-1.mp4").write_bytes(b"no video")
    with pytest.raises(BadInput, match=r"a-1\.mp4"):
        measured(BareStage(tmp_path), table, tmp_path)
