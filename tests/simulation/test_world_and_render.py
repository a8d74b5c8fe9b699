"""A prompt reads back to its scene; clips show what was asked, all of it in the frame; defects grow with strength."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.simulation.render import DEFECTS, EXTENTS, concrete, coverage, defect, render, spoiled
from components.simulation.world import BACKGROUNDS, COLOURS, Scene, all_scenes, prompt_of, scene_of

SCENES = all_scenes()
scenes = st.sampled_from(SCENES)
seeds = st.integers(0, 2**32 - 1)


def test_world_has_every_combination_once():
    assert len(SCENES) == len(set(SCENES)) == 6 * 4 * 4 * 3 * 4
    assert all_scenes() == SCENES
    assert len({prompt_of(scene) for scene in SCENES}) == len(SCENES)


def test_every_prompt_reads_back_to_its_scene():
    assert [scene_of(prompt_of(scene)) for scene in SCENES] == SCENES


def test_prompts_read_as_agreed():
    assert prompt_of(Scene("red", "circle", "up")) == "a red circle moving up"
    full = Scene("blue", "cross", "left", "quickly", "grey")
    assert prompt_of(full) == "a blue cross moving quickly to the left on a grey background"


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a red circle",
        "A red circle moving up",
        "a red circle moving left",
        "a red circle moving to the up",
        "a pink circle moving up",
        "a red circle moving up on a red background",
        " a red circle moving up",
    ],
)
def test_other_sentences_are_refused(prompt):
    with pytest.raises(ValueError, match="not a sentence of the shapes world"):
        scene_of(prompt)


@given(scenes, seeds)
@settings(max_examples=40, deadline=None)
def test_the_whole_object_stays_inside_and_moves_as_told(scene, seed):
    r = concrete(scene, np.random.default_rng(seed))
    first, last = np.array(r.start), np.array(r.start) + 8 * np.array(r.velocity)
    reach = r.radius * np.array(EXTENTS[r.shape])
    for centre in (first, last):
        assert (centre - reach > -1e-9).all() and (centre + reach < 32 + 1e-9).all()
    clip = render(r)
    assert clip.shape == (9, 32, 32, 3) and clip.dtype == np.uint8
    if scene.background:
        assert tuple(np.median(clip, axis=(0, 1, 2))) == BACKGROUNDS[scene.background]
    x, y = np.floor(first).astype(int)
    assert np.abs(clip[0, y, x].astype(int) - COLOURS[scene.colour]).max() <= 1


@given(scenes, seeds, st.sampled_from(DEFECTS), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_clips_are_the_same_for_the_same_seed(scene, seed, kind, strength):
    def clip():
        rng = np.random.default_rng(seed)
        return spoiled(concrete(scene, rng), {kind: strength}, rng)

    assert np.array_equal(clip(), clip())


@pytest.mark.parametrize("kind", DEFECTS)
def test_defects_start_at_nothing_and_grow(kind):
    def mean_change(strength):
        changes = []
        for k in range(12):
            r = concrete(SCENES[k * 97], np.random.default_rng(k))
            # The seed of the defect is the same for every strength: only the strength differs.
            clip = spoiled(r, {kind: strength}, np.random.default_rng(k))
            changes.append(np.abs(clip.astype(int) - render(r)).mean())
        return np.mean(changes)

    weak, middle, strong = (mean_change(s) for s in (0.0, 0.3, 0.9))
    assert weak == 0 and 0 < middle < strong


def test_sizes_scale_together():
    scene = Scene("green", "triangle", "right", "quickly", "black")
    small, large = (concrete(scene, np.random.default_rng(3), size) for size in (32, 64))
    assert large.radius == pytest.approx(2 * small.radius)
    assert large.velocity[0] == pytest.approx(2 * small.velocity[0])
    assert render(large, 64).shape == (9, 64, 64, 3)


@pytest.mark.parametrize("shape", sorted(EXTENTS))
def test_coverage_is_anti_aliased(shape):
    """The covered area follows sub-pixel moves: it is the same wherever between pixels the shape lies."""
    areas = [coverage(shape, 5.0, np.array([[16 + d, 16 + d / 2]]), 32).sum() for d in np.linspace(0, 1, 9)]
    assert np.ptp(areas) < 0.02 * np.mean(areas)


def test_unknown_kinds_and_tracks_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    r = concrete(SCENES[0], rng)
    with pytest.raises(ValueError, match="no such defect: rain"):
        spoiled(r, {"rain": 0.5}, rng)
    with pytest.raises(ValueError, match="not a defect of pixels: 'jitter'"):
        defect(render(r), "jitter", 0.5, rng)
    with pytest.raises(ValueError, match="do not fit"):
        concrete(Scene("red", "circle", "up", "quickly"), rng, frames=40)
