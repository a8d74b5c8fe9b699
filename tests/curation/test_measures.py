"""Each measure answers to its own kind of change, and a broken clip is a row with a reason."""

import numpy as np
import pytest

from components.curation.manifest import CLIPS_SCHEMA, MEASURES
from components.curation.measures import measure_clip, measure_frames, perceptual_hash
from components.tables import read_table, write_table
from components.video.encode import write_video


def scene(frames: int = 12, size: int = 64, speed: int = 2, seed: int = 0) -> np.ndarray:
    """A smooth texture that shifts by `speed` px a frame, uint8 [T, H, W, 3]."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(60, 200, (size // 8, size // 8)), np.ones((8, 8)))
    kernel = np.ones(5) / 5
    for axis in (0, 1):
        texture = np.apply_along_axis(
            lambda line: np.convolve(np.r_[line[-2:], line, line[:2]], kernel, "valid"), axis, texture
        )
    shifted = [np.roll(texture, speed * index, axis=1) for index in range(frames)]
    return np.repeat(np.stack(shifted).astype(np.uint8)[..., None], 3, axis=3)


def test_still_and_moving():
    still, slow, fast = (measure_frames(scene(speed=speed), 8) for speed in (0, 1, 3))
    assert (still["flicker"], still["frozen_frames"]) == (0, 1)
    assert still["motion"] < 0.1 * slow["motion"] < 0.1 * fast["motion"]
    # The texture wraps, so every pixel moves by the same: 1 px a frame is 8 px a second of a diagonal of 90.5 px.
    assert slow["motion"] == pytest.approx(8 / np.hypot(64, 64), rel=0.3)
    assert slow["frozen_frames"] == 0


def test_flicker_is_vbench_definition():
    frames = scene(speed=0)
    frames[1::2] += 20
    measures = measure_frames(frames, 8)
    assert measures["flicker"] == pytest.approx(20 / 255)
    assert measures["frozen_frames"] == 0


def test_sharpness_falls_with_blur():
    frames = scene()
    blurred = np.mean([np.roll(frames, shift, axis) for shift in (-2, 0, 2) for axis in (1, 2)], axis=0).astype(np.uint8)
    assert measure_frames(blurred, 8)["sharpness"] < 0.8 * measure_frames(frames, 8)["sharpness"]


def test_light():
    black, white = np.zeros((3, 32, 32, 3), np.uint8), np.full((3, 32, 32, 3), 255, np.uint8)
    dark, bright = measure_frames(black, 8), measure_frames(white, 8)
    assert (dark["brightness"], dark["clipped_dark"], dark["clipped_bright"], dark["black_frames"]) == (0, 1, 0, 1)
    assert (bright["brightness"], bright["clipped_bright"], bright["black_frames"]) == (1, 1, 0)
    mixed = measure_frames(np.concatenate([black[:1], white]), 8)
    assert (mixed["black_frames"], mixed["brightness"]) == (0.25, 0.75)
    half = white.copy()
    half[:, :16] = 0
    assert measure_frames(half, 8)["clipped_dark"] == 0.5


def test_one_frame_has_no_motion():
    measures = measure_frames(scene(frames=1), 8)
    assert measures["flicker"] is measures["motion"] is measures["frozen_frames"] is None
    assert len(measures["phash"]) == 4 * 16


def test_perceptual_hash_is_near_for_the_near():
    def distance(one: np.ndarray, other: np.ndarray) -> int:
        return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()

    image = scene(size=32)[0, ..., 0]
    brighter = (image * 0.9 + 20).astype(np.uint8)
    other = scene(size=32, seed=1)[0, ..., 0]
    assert distance(image, image) == 0
    assert distance(image, brighter) <= 4
    assert distance(image, other) >= 16


def test_row_of_a_good_and_of_a_broken_clip(tmp_path):
    write_video(tmp_path / "good.mp4", scene(), 8)
    (tmp_path / "bad.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:500])
    good, bad = (measure_clip({"clip": name}, str(tmp_path)) for name in ("good.mp4", "bad.mp4"))
    assert (good["status"], good["reason"], good["frames"], good["width"], good["codec"]) == (
        "ok",
        None,
        12,
        64,
        "h264",
    )
    assert all(good[measure] is not None for measure in MEASURES)
    assert bad["status"] == "broken" and bad["reason"].startswith("unreadable")
    assert bad["bytes"] == 500 and bad["motion"] is None
    write_table(tmp_path / "a.parquet", [good, bad], CLIPS_SCHEMA)
    write_table(tmp_path / "b.parquet", [good, bad], CLIPS_SCHEMA)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_table(tmp_path / "a.parquet", CLIPS_SCHEMA) == [good, bad]
