"""The clips beside the headline follow their rule, and a path is that of the shape."""

import numpy as np
import pandas as pd
import pytest

from components.evaluation.hero import choose, difference_words, drawing, paths
from components.simulation.judge import track
from components.simulation.render import concrete, render
from components.simulation.world import Scene, prompt_of
from components.video.encode import write_video
from tests.evaluation.fixtures import make_samples


def scored(gains: dict[tuple[str, int], float]) -> pd.DataFrame:
    """Clips of base, all at 0.5, and of dpo with these gains."""
    rows = [
        {"method": method, "prompt_id": prompt, "seed": seed, "gold_Overall": 0.5 + (gain if method == "dpo" else 0.0)}
        for (prompt, seed), gain in gains.items()
        for method in ("base", "dpo")
    ]
    return pd.DataFrame(rows)


def test_the_rule():
    gains = {("a", 0): 0.4, ("a", 1): 0.3, ("b", 0): -0.2, ("c", 0): 0.1, ("d", 0): 0.11, ("e", 0): 0.3, ("f", 0): 0.0}
    chosen = choose(scored(gains), "dpo", "gold_Overall")
    assert [(one.why, one.prompt_id, one.seed) for one in chosen] == [
        ("Largest gain", "a", 0),
        ("Largest loss", "b", 0),
        ("Typical", "d", 0),  # the median is 0.11
        ("Typical", "c", 0),
    ]
    assert [one.difference for one in chosen] == pytest.approx([0.4, -0.2, 0.11, 0.1])


def test_a_method_that_always_gains_has_no_largest_loss():
    chosen = choose(scored({("a", 0): 0.4, ("b", 0): 0.1}), "dpo", "gold_Overall")
    assert [(one.why, one.prompt_id) for one in chosen] == [("Largest gain", "a"), ("Smallest gain", "b")]


def test_a_difference_that_rounds_to_nothing_is_level():
    (one,) = choose(scored({("a", 0): 0.004}), "dpo", "gold_Overall")
    assert difference_words(one, "Flow-DPO", "the gold judge") == "Flow-DPO level with base by the gold judge"


def test_a_path_is_the_distance_of_the_shape(tmp_path):
    scene = Scene("red", "circle", "left", "slowly")
    write_video(tmp_path / "clip.mp4", render(concrete(scene, np.random.default_rng(0))), fps=8)
    write_video(tmp_path / "empty.mp4", np.full((9, 32, 32, 3), 112, np.uint8), fps=8)
    films = [("base", "Base", tmp_path / "clip.mp4"), ("dpo", "Flow-DPO", tmp_path / "empty.mp4")]
    asked, taken = paths(prompt_of(scene), films)
    assert asked.points.tolist() == [[0, 0], [-6.4, 0]]
    assert [path.name for path in taken] == ["Base"]  # nothing is tracked in an empty clip
    assert np.abs(taken[0].points[-1] - [-6.4, 0]).max() < 1.0
    assert 'aria-label="Displacement. prompt: 6.4 px left; Base: 6' in drawing(asked, taken)
    assert paths("a dog on a beach", films) == (None, [])


def test_track_follows_the_world_at_any_size():
    scene = Scene("blue", "square", "down")
    for size in (32, 64):
        frames = render(concrete(scene, np.random.default_rng(1), size), size)
        moved = track(frames)
        assert np.abs((moved[-1] - moved[0]) * 32 / size - [0, 1.3 * 8]).max() < 1.0


def test_hero_of_the_report_has_the_extremes(tmp_path):
    clips, _ = make_samples(tmp_path, prompts=6, seeds=1)
    gain = clips[clips["method"] == "dpo"].set_index("prompt_id")["gold_Overall"]
    gain -= clips[clips["method"] == "base"].set_index("prompt_id")["gold_Overall"]
    chosen = choose(clips, "dpo", "gold_Overall")
    assert [one.prompt_id for one in chosen[:2]] == [gain.idxmax(), gain.idxmin()]
