"""The frame cache: decoded once, the same frames, and never half-read whatever a kill leaves."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts import SOURCE_VIDEOS
from components.errors import BadInput
from components.reward import frame_cache
from components.reward.frame_cache import FrameCache, cache_folder, cached_clips
from components.reward.inputs import Clip
from components.reward.pairs import Pairs
from components.reward.score import planned_clip
from components.video.encode import write_video
from components.video.frames import FramePlan

PLAN = FramePlan(fps=None, frames=4, min_pixels=64, max_pixels=256, factor=8)
CLIPS = {
    f"clip{n}": Clip(np.random.default_rng(n).integers(0, 256, (2, 2, 3 + n, 3), np.uint8), (n + 1) / 3) for n in range(6)
}


def pairs(*paths: str) -> Pairs:
    few = list(paths)
    labels, ratings = np.zeros((len(few), 1)), np.zeros((2, len(few), 1))
    return Pairs(Path("pairs.parquet"), *[few] * 6, labels, ratings, [2 + place for place in range(len(few))])


@pytest.fixture
def videos(bare_stage, tmp_path, monkeypatch):  # the stage first: it reads params.yaml
    """A working folder with three clips of unlike sizes, and a list of the clips that were decoded since."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        clip = np.random.default_rng(number).integers(0, 256, (5, 16, 16 + 8 * number, 3), np.uint8)
        write_video(SOURCE_VIDEOS / f"{number}.mp4", clip, fps=8)
    decoded = []

    def counted(video, plan, limits):
        decoded.append(Path(video).name)
        return planned_clip(video, plan, limits)

    monkeypatch.setattr(frame_cache, "planned_clip", counted)
    return decoded


def test_clips_are_decoded_once_and_read_as_they_were(videos, bare_stage):
    clips = cached_clips(bare_stage, [pairs("2.mp4", "0.mp4"), pairs("1.mp4", "2.mp4")], PLAN, threads=2)
    assert sorted(videos) == ["0.mp4", "1.mp4", "2.mp4"]
    for path, clip in clips.items():
        assert isinstance(clip.frames, np.memmap) and not clip.frames.flags.writeable
        assert_same(clip, planned_clip(SOURCE_VIDEOS / path, PLAN))
    videos.clear()
    again = cached_clips(bare_stage, [pairs("0.mp4", "1.mp4", "2.mp4")], PLAN, threads=2)
    assert videos == []
    for path, clip in clips.items():
        assert_same(clip, again[path])


def test_another_plan_and_another_clip_are_decoded_anew(videos, bare_stage):
    cached_clips(bare_stage, [pairs("0.mp4", "1.mp4")], PLAN, threads=1)
    videos.clear()
    fewer = FramePlan(fps=None, frames=2, min_pixels=64, max_pixels=256, factor=8)
    assert len(cached_clips(bare_stage, [pairs("0.mp4")], fewer, threads=1)["0.mp4"].frames) == 2
    assert videos == ["0.mp4"]
    (SOURCE_VIDEOS / "0.mp4").write_bytes((SOURCE_VIDEOS / "2.mp4").read_bytes())
    clip = cached_clips(bare_stage, [pairs("0.mp4", "1.mp4")], PLAN, threads=1)["0.mp4"]
    assert videos == ["0.mp4", "0.mp4"]
    assert_same(clip, planned_clip(SOURCE_VIDEOS / "2.mp4", PLAN))


def test_a_clip_that_cannot_be_read_is_named_and_costs_nothing_of_the_others(videos, bare_stage):
    (SOURCE_VIDEOS / "broken.mp4").write_bytes(b"no video")
    for missing, why in (("gone.mp4", "no such file"), ("broken.mp4", "unreadable")):
        with pytest.raises(BadInput, match=rf"annotations\.csv, row 3, key 'path_A': .*{why}"):
            cached_clips(bare_stage, [pairs("0.mp4", missing)], PLAN, threads=1)
    assert videos.count("0.mp4") == 1


def test_of_two_that_want_the_same_clips_one_decodes(videos, bare_stage):
    """As processes do that share a training; a lock of the file is between threads as it is between processes."""
    wanted = [pairs("0.mp4", "1.mp4", "2.mp4")]
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(cached_clips, bare_stage, wanted, PLAN, 1) for _ in range(2)]
        one, other = (clips.result() for clips in both)
    assert sorted(videos) == ["0.mp4", "1.mp4", "2.mp4"]
    for path, clip in one.items():
        assert_same(clip, other[path])


def assert_same(clip: Clip, other: Clip) -> None:
    np.testing.assert_array_equal(clip.frames, other.frames)
    assert clip.fps == other.fps and clip.seconds == other.seconds


def fill(folder: Path, names: list[str]) -> None:
    with FrameCache(folder) as cache:
        for name in names:
            cache.add(name, CLIPS[name])


def assert_holds_all(folder: Path) -> None:
    with FrameCache(folder) as cache:
        assert list(cache.places) == list(CLIPS)
    for name, clip in cache.views({name: name for name in CLIPS}).items():
        assert_same(clip, CLIPS[name])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_is_left_of_a_cache_is_sound_and_can_be_filled_up(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cache")
    fill(folder, list(CLIPS)[:4])
    for name, most_zeros in (("frames.u8", 0), ("index.jsonl", 40)):  # zeros: what a power cut may leave of a line
        content = (folder / name).read_bytes()
        kept = data.draw(st.integers(0, len(content)), label=name)
        (folder / name).write_bytes(content[:kept] + bytes(data.draw(st.integers(0, most_zeros))))
    with FrameCache(folder) as cache:
        left = list(cache.places)
    assert left == list(CLIPS)[: len(left)]
    assert (folder / "frames.u8").stat().st_size == sum(CLIPS[name].frames.nbytes for name in left)
    fill(folder, list(CLIPS))
    assert_holds_all(folder)


def test_a_killed_filling_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_cache, "UNWRITTEN", 0)
    cache = FrameCache(tmp_path).__enter__()
    cache.add("clip0", CLIPS["clip0"])
    cache._frames.write(b"half a cl")
    cache._frames.flush()
    for file in (cache._frames, cache._index, cache._lock):
        file.close()  # as the end of a process does
    fill(tmp_path, list(CLIPS))
    assert_holds_all(tmp_path)


def test_the_least_recently_used_caches_are_emptied(tmp_path):
    names = ["oldest", "old", "filled", "young", "used"]
    for age, name in enumerate(reversed(names)):
        fill(tmp_path / name, list(CLIPS))
        os.utime(tmp_path / name / "index.jsonl", (1e9 - age, 1e9 - age))
    size = (tmp_path / "old/frames.u8").stat().st_size
    with FrameCache(tmp_path / "old") as cache:
        mapped = cache.views({"clip3": "clip3"})["clip3"]
    os.utime(tmp_path / "old/index.jsonl", (1e9 - 3, 1e9 - 3))

    def left() -> list[str]:
        return [name for name in names if (tmp_path / name / "frames.u8").exists()]

    frame_cache.evict(tmp_path / "used", 4 * size)
    assert left() == names
    with FrameCache(tmp_path / "filled"):
        os.utime(tmp_path / "filled/index.jsonl", (1e9 - 2, 1e9 - 2))
        frame_cache.evict(tmp_path / "used", 2 * size)
        assert left() == ["filled", "young", "used"]
        frame_cache.evict(tmp_path / "used", size - 1)
        assert left() == ["filled", "used"], "another process fills it"
    frame_cache.evict(tmp_path / "used", 0)
    assert left() == ["used"]
    assert_same(mapped, CLIPS["clip3"])  # as a process that reads it sees it
    fill(tmp_path / "old", list(CLIPS))
    assert_holds_all(tmp_path / "old")


def test_a_stage_keeps_the_cache_that_it_uses(videos, bare_stage, monkeypatch):
    monkeypatch.setattr(frame_cache, "KEPT_BYTES", 0)
    fewer = FramePlan(fps=None, frames=2, min_pixels=64, max_pixels=256, factor=8)
    for plan in (PLAN, fewer, fewer):
        clips = cached_clips(bare_stage, [pairs("0.mp4", "1.mp4")], plan, threads=1)
        assert [file.parent for file in frame_cache.CACHE.glob("*/frames.u8")] == [cache_folder(plan)]
        for path, clip in clips.items():
            assert_same(clip, planned_clip(SOURCE_VIDEOS / path, plan))
    assert videos == ["0.mp4", "1.mp4"] * 2


def test_the_code_that_decodes_is_part_of_the_name(monkeypatch):
    before = cache_folder(PLAN)
    monkeypatch.setattr(frame_cache, "code_digest", lambda modules: "another version")
    assert cache_folder(PLAN) != before
