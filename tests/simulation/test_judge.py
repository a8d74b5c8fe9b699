"""The gold judge: each planted defect lowers its own dimension, clearly, and leaves the others nearly alone."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from components.simulation.judge import Verdict, judge
from components.simulation.render import concrete, render, spoiled
from components.simulation.world import Scene, all_scenes, prompt_of
from components.video.decode import read_frames
from components.video.encode import write_video

SCENES = all_scenes()
CLIPS = 30
# Defect: (strength, the dimension it must lower, by how much on average). The strengths are moderate: half of the
# gross end for what comes in degrees, the whole for what is right or wrong.
PLANTED = {
    "blur": (0.5, "VQ", 0.15),
    "noise": (0.4, "VQ", 0.2),
    "flicker": (0.5, "MQ", 0.3),
    "jitter": (0.4, "MQ", 0.3),
    "frozen": (0.5, "MQ", 0.3),
    "wrong_colour": (1.0, "TA", 0.2),
    "wrong_shape": (1.0, "TA", 0.2),
    "wrong_direction": (1.0, "TA", 0.2),
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """(defect or None, through a file?) -> verdicts of the same scenes, computed once."""
    folder = tmp_path_factory.mktemp("clips")

    @cache
    def of(kind: str | None, as_file: bool) -> list[Verdict]:
        found = []
        for k in range(CLIPS):
            rng = np.random.default_rng(k)
            scene = SCENES[rng.integers(len(SCENES))]
            clip = spoiled(concrete(scene, rng), {kind: PLANTED[kind][0]} if kind else {}, rng)
            if as_file:
                write_video(folder / "clip.mp4", clip, fps=8)
                clip = read_frames(folder / "clip.mp4")
            found.append(judge(clip, prompt_of(scene)))
        return found

    return of


@pytest.mark.parametrize("as_file", [False, True], ids=["frames", "mp4"])
@pytest.mark.parametrize("kind", PLANTED)
def test_a_defect_lowers_its_own_dimension_only(verdicts, kind, as_file):
    _, own, margin = PLANTED[kind]
    clean, planted = verdicts(None, as_file), verdicts(kind, as_file)
    for dimension in ("VQ", "MQ", "TA"):
        before = np.array([getattr(v, dimension) for v in clean])
        after = np.array([getattr(v, dimension) for v in planted])
        if dimension == own:
            assert (before - after).mean() >= margin
            assert (after < before).mean() >= 0.95
        else:
            assert abs((after - before).mean()) < 0.05
    assert np.mean([p.Overall for p in planted]) < np.mean([c.Overall for c in clean]) - 0.04


@pytest.mark.parametrize("as_file", [False, True], ids=["frames", "mp4"])
def test_clean_clips_are_right_and_tie_on_alignment(verdicts, as_file):
    found = verdicts(None, as_file)
    assert all(v.prompt_right and v.TA == 1.0 for v in found)
    assert min(v.MQ for v in found) > 0.97
    assert min(v.VQ for v in found) > (0.7 if as_file else 0.97)


def test_wrong_attributes_make_the_prompt_wrong(verdicts):
    for kind in ("wrong_colour", "wrong_shape", "wrong_direction"):
        assert not any(v.prompt_right for v in verdicts(kind, True))
    for kind in ("flicker", "noise", "frozen"):
        assert np.mean([v.prompt_right for v in verdicts(kind, True)]) > 0.9


@pytest.mark.parametrize("kind", ["blur", "noise", "flicker", "jitter"])
def test_scores_fall_evenly_with_strength(kind):
    """No cliff and no plateau: every step of the defect costs something, so that worse can be told from bad."""
    own = PLANTED[kind][1]
    means = []
    for strength in (0.0, 0.25, 0.5, 0.8):
        scores = []
        for k in range(10):
            r = concrete(SCENES[k * 113], np.random.default_rng(k))
            clip = spoiled(r, {kind: strength}, np.random.default_rng(k))
            scores.append(getattr(judge(clip, prompt_of(SCENES[k * 113])), own))
        means.append(np.mean(scores))
    assert (np.diff(means) < -0.02).all()


def test_a_still_clip_moves_nowhere():
    """Wholly frozen, a clip cannot show its direction: MQ is nearly nothing, and TA stays half right on that count."""
    scene = Scene("red", "square", "up", None, "black")
    rng = np.random.default_rng(0)
    verdict = judge(spoiled(concrete(scene, rng), {"frozen": 1.0}, rng), prompt_of(scene))
    assert verdict.MQ < 0.15 and verdict.dynamic_degree < 0.05 and verdict.speed_error > 1.2
    assert verdict.VQ > 0.97 and 0.8 < verdict.TA < 0.9 and not verdict.prompt_right


@given(st.sampled_from(SCENES), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_time_and_mirror_symmetry(scene, seed):
    clip = render(concrete(scene, np.random.default_rng(seed)))
    forward, backward = judge(clip, prompt_of(scene)), judge(clip[::-1], prompt_of(scene))
    assert np.allclose(forward.velocity, -np.array(backward.velocity), atol=0.02)
    assert (forward.colour, forward.shape, forward.background) == (backward.colour, backward.shape, backward.background)
    assert forward.prompt_right and not backward.prompt_right
    assert pytest.approx(backward.VQ, abs=0.01) == forward.VQ and pytest.approx(backward.MQ, abs=0.01) == forward.MQ
    # Every shape is its own mirror image, so only left and right change.
    other = {"left": "right", "right": "left"}.get(scene.direction, scene.direction)
    mirrored = Scene(scene.colour, scene.shape, other, scene.speed, scene.background)
    image = judge(clip[:, :, ::-1], prompt_of(mirrored))
    assert image.TA == forward.TA == 1.0
    assert pytest.approx(forward.VQ, abs=0.01) == image.VQ and pytest.approx(forward.MQ, abs=0.01) == image.MQ


@given(arrays.arrays(np.uint8, (5, 32, 32, 3)), st.sampled_from(SCENES))
@settings(max_examples=30, deadline=None)
def test_any_pixels_get_a_verdict(clip, scene):
    verdict = judge(clip, prompt_of(scene))
    assert all(0 <= score <= 1 for score in verdict.scores().values())
    assert np.isfinite(verdict.velocity).all()
    assert judge(clip.copy(), prompt_of(scene)) == verdict


@pytest.mark.parametrize("fill", ["black", "white", "static", "ramp"])
def test_clips_without_an_object_score_low(fill):
    rng = np.random.default_rng(0)
    clip = {
        "black": np.zeros((9, 32, 32, 3)),
        "white": np.full((9, 32, 32, 3), 255),
        "static": rng.integers(0, 256, (9, 32, 32, 3)),
        "ramp": np.broadcast_to(np.arange(0, 256, 8)[None, None, :, None], (9, 32, 32, 3)),
    }[fill].astype(np.uint8)
    verdict = judge(clip, "a red circle moving up")
    assert verdict.VQ < 0.15 and verdict.MQ < 0.15 and verdict.Overall < 0.25 and not verdict.prompt_right


def test_other_layouts_are_refused():
    for shape in ((9, 32, 32), (2, 32, 32, 3), (9, 32, 16, 3), (9, 3, 32, 32)):
        with pytest.raises(ValueError, match="square clip"):
            judge(np.zeros(shape, np.uint8), "a red circle moving up")
    with pytest.raises(ValueError, match="not a sentence"):
        judge(np.zeros((9, 32, 32, 3), np.uint8), "a cat")
