"""Each measure answers to its own kind of change, and a broken clip is a row with a reason."""

import os
import tracemalloc
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.curation import thumbnails
from components.curation.curate import numbers
from components.curation.measures import Cuts, Freezes, measure_clip, measure_frames
from components.curation.thumbnails import Thumbnails, low_frequencies, signs
from components.files.tables import read_table, write_table
from components.schemas import MEASURES_SCHEMA
from components.video.decode import read_frames
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
    still, slow, fast = (measure_frames(scene(speed=speed)) for speed in (0, 1, 3))
    assert (still["flicker"], still["frozen_frames"]) == (0, 1)
    assert still["motion"] < 0.1 * slow["motion"] < 0.1 * fast["motion"]
    # The texture wraps, so every pixel moves by the same: 1 px a frame of a diagonal of 90.5 px.
    assert slow["motion"] == pytest.approx(1 / np.hypot(64, 64), rel=0.3)
    assert slow["frozen_frames"] == 0


def test_flicker_is_vbench_definition():
    frames = scene(speed=0)
    frames[1::2] += 20
    measures = measure_frames(frames)
    assert measures["flicker"] == pytest.approx(20 / 255)
    assert measures["frozen_frames"] == 0


def test_sharpness_falls_with_blur():
    frames = scene()
    blurred = np.mean([np.roll(frames, shift, axis) for shift in (-2, 0, 2) for axis in (1, 2)], axis=0).astype(np.uint8)
    assert measure_frames(blurred)["sharpness"] < 0.8 * measure_frames(frames)["sharpness"]


def test_light():
    black, white = np.zeros((3, 32, 32, 3), np.uint8), np.full((3, 32, 32, 3), 255, np.uint8)
    dark, bright = measure_frames(black), measure_frames(white)
    assert (dark["brightness"], dark["clipped_dark"], dark["clipped_bright"], dark["black_frames"]) == (0, 1, 0, 1)
    assert (bright["brightness"], bright["clipped_bright"], bright["black_frames"]) == (1, 1, 0)
    mixed = measure_frames(np.concatenate([black[:1], white]))
    assert (mixed["black_frames"], mixed["brightness"]) == (0.25, 0.75)
    assert (bright["white_frames"], dark["white_frames"]) == (1, 0)
    half = white.copy()
    half[:, :16] = 0
    assert measure_frames(half)["clipped_dark"] == 0.5


def test_one_frame_has_no_motion():
    measures = measure_frames(scene(frames=1))
    assert measures["flicker"] is measures["motion"] is measures["frozen_frames"] is None
    assert len(measures["phash"]) == 4 * 16


def test_perceptual_hash_is_near_for_the_near():
    def distance(one: np.ndarray, other: np.ndarray) -> int:
        return (int(signs(low_frequencies(one)), 16) ^ int(signs(low_frequencies(other)), 16)).bit_count()

    image = scene(size=32)[0, ..., 0]
    brighter = (image * 0.9 + 20).astype(np.uint8)
    other = scene(size=32, seed=1)[0, ..., 0]
    assert distance(image, image) == 0
    assert distance(image, brighter) <= 4
    assert distance(image, other) >= 16


def test_the_hash_of_the_mirror_image():
    noise = np.random.default_rng(0).integers(0, 255, (10, 32, 32)).astype(np.uint8)
    there, mirrored = Thumbnails(), Thumbnails()
    for image in noise:
        there.add(image)
        mirrored.add(np.ascontiguousarray(image[:, ::-1]))
    found, other = there.measures(), mirrored.measures()
    assert (found["phash"], found["phash_mirrored"]) == (other["phash_mirrored"], other["phash"])


def test_row_of_a_good_and_of_a_broken_clip(tmp_path):
    write_video(tmp_path / "good.mp4", scene(), 8)
    (tmp_path / "bad.mp4").write_bytes((tmp_path / "good.mp4").read_bytes()[:500])
    good, bad = (measure_clip({"clip": name}, str(tmp_path), True) for name in ("good.mp4", "bad.mp4"))
    assert (good["broken"], good["frames"], good["width"], good["codec"]) == (None, 12, 64, "h264")
    assert (good["fps"], good["duration"], good["rate_variation"], good["rotation"]) == (8, 1.5, 0, 0)
    assert all(good[measure] is not None for measure in numbers(MEASURES_SCHEMA))
    assert good["motion"] == pytest.approx(8 * measure_frames(read_frames(tmp_path / "good.mp4"))["motion"])
    assert bad["broken"].startswith("unreadable")
    assert bad["bytes"] == 500 and bad["motion"] is None
    write_table(tmp_path / "a.parquet", [good, bad], MEASURES_SCHEMA)
    write_table(tmp_path / "b.parquet", [good, bad], MEASURES_SCHEMA)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert read_table(tmp_path / "a.parquet", MEASURES_SCHEMA) == [good, bad]


def test_what_is_known_of_a_clip_that_breaks_off(tmp_path):
    """A frame that is lost in the middle: no measures, but what the container says stays."""
    rng = np.random.default_rng(0)
    write_video(tmp_path / "clip.mp4", rng.integers(0, 255, (12, 64, 64, 3)).astype(np.uint8), 8)
    whole = (tmp_path / "clip.mp4").read_bytes()
    start = whole.index(b"mdat") + len(whole) // 2
    (tmp_path / "clip.mp4").write_bytes(whole[:start] + bytes(2000) + whole[start + 2000 :])
    row = measure_clip({"clip": "clip.mp4"}, str(tmp_path), True)
    assert row["broken"].startswith("truncated or corrupt") and row["brightness"] is row["frames"] is None
    assert (row["codec"], row["width"], row["container"]) == ("h264", 64, "mov")


def test_the_pixels_digest_is_of_pixels(tmp_path):
    """A remux into another container is another file with the same pixels; one level in one pixel is not."""
    write_video(tmp_path / "clip.mp4", scene(), 8)
    with av.open(str(tmp_path / "clip.mp4")) as given, av.open(str(tmp_path / "clip.mkv"), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    first, second = (measure_clip({"clip": f"clip.{kind}"}, str(tmp_path), True) for kind in ("mp4", "mkv"))
    assert first["pixels"] == second["pixels"] and first["sha256"] != second["sha256"]
    frames = scene()
    other = frames.copy()
    other[3, 2, 1, 0] += 1
    assert measure_frames(frames)["pixels"] != measure_frames(other)["pixels"]


def test_a_rate_that_varies(tmp_path):
    """Every third frame dropped, time stamps kept: gaps of one and of two."""
    with av.open(str(tmp_path / "clip.mp4"), "w") as made:
        stream = made.add_stream("libx264", rate=30)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(scene(frames=18)):
            if index % 3 != 2:
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts, picture.time_base = index, Fraction(1, 30)
                made.mux(stream.encode(picture))
        made.mux(stream.encode())
    row = measure_clip({"clip": "clip.mp4"}, str(tmp_path), True)
    assert row["broken"] is None and row["frames"] == 12
    assert row["rate_variation"] == pytest.approx(1 / (16 / 11))  # longest less shortest gap 1, mean gap 16 / 11


def test_cuts_are_counted_and_motion_is_none():
    first, second = scene(frames=12), scene(frames=12, seed=1) // 2
    assert measure_frames(first)["cuts"] == 0
    cut = measure_frames(np.concatenate([first, second, first]))
    assert cut["cuts"] == 2 and cut["largest_change"] > 3 * measure_frames(first)["largest_change"]


def test_smooth_motion_and_jitter():
    rng = np.random.default_rng(0)
    still = scene(frames=1)[0]
    steady = np.stack([np.roll(still, index, axis=1) for index in range(12)])
    jitter = np.stack([np.roll(still, rng.integers(-2, 3, 2), axis=(0, 1)) for _ in range(12)])
    assert measure_frames(steady)["motion_smoothness"] > 0.7
    assert measure_frames(jitter)["motion_smoothness"] < 0.3
    assert measure_frames(np.stack([still] * 5))["motion_smoothness"] is None


def test_noise_is_the_deviation_that_was_added():
    rng = np.random.default_rng(0)
    grey = np.full((4, 64, 64, 1), 128.0)
    for sigma in (3, 10):
        noisy = np.rint(grey + rng.normal(0, sigma, grey.shape)).repeat(3, axis=3).astype(np.uint8)
        assert measure_frames(noisy)["noise"] == pytest.approx(sigma / 255, rel=0.05)
    assert measure_frames(grey.repeat(3, axis=3).astype(np.uint8))["noise"] == 0


@pytest.mark.parametrize(("flags", "longest"), [([], 0), ([False], 0), ([True] * 3, 3), ([1, 0, 1, 1, 0, 1], 2)])
def test_longest_run(flags, longest):
    freezes = Freezes()
    for flag in flags:
        freezes.add(bool(flag))
    assert (freezes.longest, freezes.repeats) == (longest, sum(flags))


def long_scene(frames: int, cuts: tuple[int, ...] = ()) -> Iterator[np.ndarray]:
    """Frames 48x40 one by one, with the negative from each of `cuts` on, and a black stretch."""
    texture = scene(frames=1, size=48)[0, :, :40]
    for number in range(frames):
        if number in cuts:
            texture = 255 - texture
        yield np.zeros_like(texture) if 20 <= number < 25 else np.roll(texture, number // 3, axis=1)


@pytest.mark.parametrize("frames", [3, 21, 22, 23, 24, 90])
def test_a_clip_that_is_not_kept_has_the_measures_of_one_that_is(frames, monkeypatch):
    kept = measure_frames(long_scene(frames))
    monkeypatch.setattr(thumbnails, "KEPT", 20)
    assert measure_frames(long_scene(frames), True, lambda: frames) == kept


def test_cuts_in_blocks_are_those_of_one_detector(monkeypatch):
    """The detector starts late in a clip that is still at first, and continues in the next blocks."""
    cuts = (150, 191, 192, 199, 260, 300)
    found = []
    for block in (64, 7, 1000):
        monkeypatch.setattr(Cuts, "BLOCK", block)
        counter = Cuts()
        for number, frame in enumerate(long_scene(320, cuts)):
            if number >= 25:  # behind the black stretch, which ends in cuts
                counter.add(frame)
        found.append(counter.count())
    assert found[0] == found[1] == found[2] >= 3


def test_the_memory_of_a_measure_does_not_grow_with_the_clip(monkeypatch):
    monkeypatch.setattr(thumbnails, "KEPT", 200)

    def peak(frames: int) -> int:
        tracemalloc.start()
        measure_frames(long_scene(frames), False, lambda: frames)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    measure_frames(long_scene(3), False)  # what is imported once
    few, many = peak(300), peak(1300)
    assert many - few < 1000 * 100, "a few numbers a frame, not pictures"


@given(st.integers(1, 5), st.integers(2, 40), st.integers(2, 40), st.integers(0, 255))
@settings(max_examples=25, deadline=None)
def test_any_size_and_length_is_measured(frames, height, width, level):
    clip = np.random.default_rng(level).integers(0, level + 1, (frames, height, width, 3)).astype(np.uint8)
    measures = measure_frames(clip)
    for name in ("brightness", "contrast", "clipped_dark", "clipped_bright", "noise", "black_frames"):
        assert 0 <= measures[name] <= 1
    compared = [
        measures[name] for name in ("flicker", "motion", "frozen_frames", "longest_freeze", "cuts", "largest_change")
    ]
    assert all(value is None for value in compared) == (frames == 1)
    assert measures["motion_smoothness"] is None or 0 <= measures["motion_smoothness"] <= 1


def test_small_things_that_move_are_no_freeze(tmp_path):
    """A disc of 16 pixels on a still ground changes the frame by less than an encoder's refresh does."""
    frames = np.full((24, 128, 128, 3), 120, np.uint8)
    for time, frame in enumerate(frames):
        frame[40:56, 20 + 2 * time : 36 + 2 * time] = 200
    write_video(tmp_path / "moving.mp4", frames, 24)
    frames[10:] = frames[10]
    write_video(tmp_path / "stops.mp4", frames, 24)
    moving, stops = (measure_clip({"clip": f"{name}.mp4"}, str(tmp_path), True) for name in ("moving", "stops"))
    assert moving["longest_freeze"] == 0 and stops["longest_freeze"] == pytest.approx(13 / 24)


def test_without_optical_flow(tmp_path):
    write_video(tmp_path / "clip.mp4", scene(), 8)
    with_flow, without = (measure_clip({"clip": "clip.mp4"}, str(tmp_path), flow) for flow in (True, False))
    assert without == with_flow | {"motion": None, "motion_smoothness": None}


def test_one_bad_file_is_a_row_with_a_reason(tmp_path):
    """A file that went away or may not be read, a pipe, a device, and one whose name no table can hold."""
    name = os.fsdecode(b"caf\xe9.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    (tmp_path / "folder.mp4").mkdir()
    clips = ("gone.mp4", "pipe.mp4", "device.mp4", "folder.mp4", name, "Style: a.mp4")
    write_video(tmp_path / name, scene(), 8)
    write_video(tmp_path / "Style: a.mp4", scene(), 8)
    rows = [measure_clip({"clip": clip}, str(tmp_path), True) for clip in clips]
    assert [row["broken"] for row in rows] == [
        "unreadable: No such file or directory",
        "unreadable: no regular file",
        "unreadable: no regular file",
        "unreadable: Is a directory",
        "the name of its file is not UTF-8",
        None,
    ]
    write_table(tmp_path / "a.parquet", rows, MEASURES_SCHEMA)
    assert [row["clip"] for row in read_table(tmp_path / "a.parquet")] == [*clips[:4], r"caf\xe9.mp4", clips[5]]
