"""Patches against a slow restatement of their order, and against the reference's golden numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from components.reward.backbones.qwen2_vl import Qwen2VL
from components.reward.inputs import Clip, PatchShape, PixelStatistics, collate, joined_patches, patches
from components.video.frames import FramePlan, resize_frame

PIXELS = PixelStatistics((0.5, 0.4, 0.3), (0.1, 0.2, 0.25))
GOLDEN = Path(__file__).parents[3] / "shared/data/reference-open/golden.json"


def test_order_of_patches():
    shape = PatchShape(size=2, temporal=2, merge=2)
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    pixels, grid = patches(frames[None], shape, PIXELS)
    assert grid == (2, 4, 6) and pixels.shape == (48, 24)
    assert shape.tokens(3, 8, 12) == 12
    values = (frames / 255 - np.array(PIXELS.mean)) / np.array(PIXELS.std)
    values = np.concatenate([values, values[-1:]])  # the odd last frame is repeated
    row = 0
    for t in range(2):
        for block_y in range(2):
            for block_x in range(3):
                for y in (2 * block_y, 2 * block_y + 1):
                    for x in (2 * block_x, 2 * block_x + 1):
                        patch = values[2 * t : 2 * t + 2, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]  # [T, Y, X, C]
                        expected = torch.from_numpy(patch.transpose(3, 0, 1, 2).ravel()).float()
                        torch.testing.assert_close(pixels[row], expected, atol=1e-6, rtol=1e-6)
                        row += 1


def test_size_that_does_not_fit():
    with pytest.raises(ValueError, match="12 x 10"):
        patches(np.zeros((1, 2, 10, 12, 3), np.uint8), PatchShape(2, 2, 2), PIXELS)


def test_videos_of_any_size_are_joined_in_order():
    shape = PatchShape(size=2, temporal=2, merge=2)
    draw = np.random.default_rng(0)
    sizes = [(2, 4, 4), (2, 4, 4), (3, 4, 8), (2, 4, 4)]
    videos = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for video in videos:
        video.flags.writeable = False  # as of a memory map
    pixels, grid = joined_patches(videos, shape, PIXELS)
    assert grid.tolist() == [[1, 2, 2], [1, 2, 2], [2, 2, 4], [1, 2, 2]]
    assert torch.equal(pixels, torch.cat([patches(video[None].copy(), shape, PIXELS)[0] for video in videos]))


def test_padding_is_on_the_right():
    shape = PatchShape(2, 2, 2)
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    batch = collate([([5, 6], Clip(frames, 2.0)), ([5, 6, 7], Clip(frames, 7.5))], shape, PIXELS, pad_id=9)
    assert batch.fps.tolist() == [2.0, 7.5] and batch.to(torch.device("cpu")).fps.tolist() == [2.0, 7.5]
    assert batch.input_ids.tolist() == [[5, 6, 9], [5, 6, 7]]
    assert batch.grid.tolist() == [[1, 2, 2]] * 2 and batch.pixels.shape == (8, 24)


def ramp(count: int, height: int, width: int) -> np.ndarray:
    """The reference's synthetic clip "ramp" (../shared/data/reference-open/README.md)."""
    t, y, x = np.ogrid[:count, :height, :width]
    red = (x * 255 // (width - 1) + 8 * t) % 256 + 0 * y
    green = (y * 255 // (height - 1) + 5 * t) % 256 + 0 * x
    blue = ((x + y) * 255 // (width + height - 2) + 3 * t) % 256
    clip = np.stack([red, green, blue], -1)
    inside = (width // 4 <= x - 4 * t) & (x - 4 * t < width // 2) & (height // 3 <= y) & (y < height // 2)
    return np.where(inside[..., None], 255 - clip, clip).astype(np.uint8)


@pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/data/reference-open is not here")
def test_reference_patches():
    golden = json.loads(GOLDEN.read_text())
    entries = {key: facts for key, facts in golden["preprocessing"].items() if key.startswith("syn_ramp")}
    assert len(entries) == 4
    for key, facts in entries.items():
        settings = dict(part.split("=") for part in key.split("|")[2].split(","))
        plan = FramePlan(
            fps=float(settings["fps"]),
            frames=None,
            min_pixels=128 * 28 * 28,
            max_pixels=int(settings["max_pixels"]),
            factor=28,
        )
        indices = plan.indices(facts["total_frames"], facts["avg_fps"])
        assert indices == facts["frame_indices"]
        frames = ramp(facts["total_frames"], facts["source_height"], facts["source_width"])[indices]
        frames = np.stack([resize_frame(frame, *plan.resize(*frame.shape[:2])) for frame in frames])
        pixels, grid = patches(frames[None], PatchShape(14, 2, 2), Qwen2VL.pixels)
        assert list(grid) == facts["video_grid_thw"]
        assert float(pixels.double().mean()) == pytest.approx(facts["pixel_values_mean"], abs=1e-6)
        first = pixels.flatten()[:8].tolist()
        assert first == pytest.approx(facts["pixel_values_first8"], abs=1e-5)
