"""The frame plan against the reference's golden values, and its invariants."""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.video.decode import read_frames
from components.video.frames import FramePlan, resize_frame, smart_resize

REFERENCE = Path(__file__).parents[2] / "../shared/data/reference-open/golden.json"
VIDEOS = Path(__file__).parents[2] / "../shared/data/videoalign/videos"
MIN_PIXELS, MAX_PIXELS, FACTOR = 128 * 28 * 28, 448 * 448, 28


def plan_of(case: str) -> FramePlan:
    """The plan in a golden key such as `a.mp4|prompt|fps=2.0,max_pixels=100352`; nothing there is the defaults."""
    settings = case.split("|")[2]
    values = dict(part.split("=") for part in settings.split(",")) if settings else {}
    frames = values.get("num_frames")
    fps = None if frames else float(values.get("fps", 2.0))
    max_pixels = int(values.get("max_pixels", 100352))
    return FramePlan(fps, int(frames) if frames else None, min(MIN_PIXELS, max_pixels), max_pixels, FACTOR)


def golden_cases() -> dict[str, dict]:
    if not REFERENCE.exists():
        return {}
    cases = json.loads(REFERENCE.read_text())["preprocessing"]
    # Another way of sampling than the uniform one, which only published checkpoints may ask for.
    return {key: value for key, value in cases.items() if not key.endswith("multi_pts")}


CASES = golden_cases()


@pytest.mark.parametrize("case", CASES or [pytest.param("", marks=pytest.mark.skip(reason="no golden data here"))])
def test_golden_indices_and_sizes(case):
    golden = CASES[case]
    plan = plan_of(case)
    assert plan.indices(golden["total_frames"], golden["avg_fps"]) == golden["frame_indices"]
    size = plan.resize(golden["source_height"], golden["source_width"])
    assert size == (golden["resized_height"], golden["resized_width"])


@pytest.mark.skipif(not VIDEOS.exists(), reason="the example videos are not here")
@pytest.mark.parametrize("case", [key for key in CASES if key[:11] in ("example_2_A", "example_3_B")][:2])
def test_golden_pixels_of_real_videos(case):
    golden = CASES[case]
    frames = read_frames(VIDEOS / golden["video"], golden["frame_indices"])
    assert frames.sum(dtype=np.int64) == golden["decoded_sum"]
    resized = np.stack([resize_frame(one, golden["resized_height"], golden["resized_width"]) for one in frames])
    assert resized.sum(dtype=np.int64) == golden["resized_sum"]
    np.testing.assert_allclose(resized.mean((1, 2, 3)), golden["resized_frame_means"], rtol=1e-12)


@pytest.mark.skipif(not REFERENCE.exists(), reason="no golden data here")
def test_golden_pixels_of_a_synthetic_clip():
    height, width, frames = 90, 160, 10
    t, y, x = np.meshgrid(*(np.arange(size) for size in (frames, height, width)), indexing="ij")
    ramps = [
        x * 255 // (width - 1) + 8 * t,
        y * 255 // (height - 1) + 5 * t,
        (x + y) * 255 // (width + height - 2) + 3 * t,
    ]
    clip = np.stack(ramps, -1) % 256
    inverted = (width // 4 <= x - 4 * t) & (x - 4 * t < width // 2) & (height // 3 <= y) & (y < height // 2)
    clip = np.where(inverted[..., None], 255 - clip, clip).astype(np.uint8)
    golden = json.loads(REFERENCE.read_text())
    assert hashlib.sha256(clip.tobytes()).hexdigest() == golden["synthetic_clips"]["syn_ramp_90x160"]["sha256_uint8_thwc"]
    case = golden["preprocessing"]["syn_ramp_90x160|short|fps=2.0,max_pixels=100352"]
    resized = np.stack(
        [resize_frame(clip[at], case["resized_height"], case["resized_width"]) for at in case["frame_indices"]]
    )
    assert resized.sum(dtype=np.int64) == case["resized_sum"]


@given(total=st.integers(2, 20000), source_fps=st.floats(1, 240), fps=st.floats(0.1, 60))
def test_invariants_by_rate(total, source_fps, fps):
    indices = FramePlan(fps, None, MIN_PIXELS, MAX_PIXELS, FACTOR).indices(total, source_fps)
    assert len(indices) % 2 == 0
    assert min(4, total // 2 * 2) <= len(indices) <= min(768, total)
    assert (indices[0], indices[-1]) == (0, total - 1)
    assert all(before < after for before, after in itertools.pairwise(indices))


@given(total=st.integers(2, 3000), frames=st.integers(2, 800))
def test_invariants_by_count(total, frames):
    plan = FramePlan(None, frames, MIN_PIXELS, MAX_PIXELS, FACTOR)
    if round(frames / 2) * 2 > total:
        with pytest.raises(ValueError, match="frames"):
            plan.indices(total, 24)
        return
    indices = plan.indices(total, 24)
    assert len(indices) == round(frames / 2) * 2
    assert (indices[0], indices[-1]) == (0, total - 1)
    assert indices == sorted(set(indices))


@given(height=st.integers(16, 4000), width=st.integers(16, 4000), factor=st.sampled_from([8, 28, 32]))
def test_resize_keeps_multiples_and_range(height, width, factor):
    least, most = 64 * factor**2, 1024 * factor**2
    if max(height, width) > 16 * min(height, width):
        return  # a strip: multiples of the factor cannot keep both its shape and its area
    new_height, new_width = smart_resize(height, width, factor, least, most)
    assert new_height % factor == new_width % factor == 0
    assert least <= new_height * new_width <= most


def test_plans_that_make_no_sense():
    for fps, frames in ((None, None), (2.0, 8), (0.0, None), (None, 1)):
        with pytest.raises(ValueError):
            FramePlan(fps, frames, MIN_PIXELS, MAX_PIXELS, FACTOR)
    with pytest.raises(ValueError, match="1 frame"):
        FramePlan(2.0, None, MIN_PIXELS, MAX_PIXELS, FACTOR).indices(1, 24)
    with pytest.raises(ValueError, match="aspect ratio"):
        smart_resize(10, 3000, 28, MIN_PIXELS, MAX_PIXELS)


def test_plan_text():
    assert str(FramePlan(2.0, None, MIN_PIXELS, MAX_PIXELS, FACTOR)) == "2fps 100352-200704px/28"
    assert str(FramePlan(None, 8, 1024, 1024, 16)) == "8frames 1024-1024px/16"


@given(st.integers(0, 2**32 - 1), *[st.integers(1, 80)] * 4)
def test_a_frame_is_resized_to_the_bit_as_the_kernel_has_all_channels(seed, height, width, new_height, new_width):
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    for size in ((height, width), (new_height, new_width)):
        kernel = torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
        expected = kernel[0].clamp(0, 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(resize_frame(frame, *size), expected)
