"""What is larger than the limits is refused by name before it is decoded, and of what is read one frame is in memory."""

import tracemalloc
import weakref
from dataclasses import replace

import av
import numpy as np
import pytest

from components.curation.measures import measure_clip
from components.evaluation.previews import data_uri
from components.judges.vbench import flickering
from components.reward.score import Clip, Unscored, planned_clip
from components.video import decode
from components.video.container import VideoError
from components.video.decode import ClipReader, probe, read_chosen, read_frames
from components.video.encode import write_video
from components.video.frames import FramePlan
from components.video.limits import LIMITS
from tests.limits import write_flat
from tests.video.files import moving

PLAN = FramePlan(fps=None, frames=8, min_pixels=64, max_pixels=256, factor=8)
READERS = {
    "probe": probe,
    "read_frames": lambda path, limits: read_frames(path, [0], limits=limits),
    "read_chosen": lambda path, limits: read_chosen(path, lambda info: [info.frames - 1], limits=limits),
    "ClipReader": lambda path, limits: list(ClipReader(path, limits)),
}


@pytest.fixture
def pictures(monkeypatch):
    """Counts the pictures that were made of frames, and how many of them are in memory at a time."""

    class Count:
        made = now = most = 0

        def __call__(self, frame, reformatter, make=decode._rgb):
            picture = make(frame, reformatter)
            self.made, self.now = self.made + 1, self.now + 1
            self.most = max(self.most, self.now)
            weakref.finalize(picture, self.gone)
            return picture

        def gone(self):
            self.now -= 1

    count = Count()
    monkeypatch.setattr(decode, "_rgb", count)
    return count


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_what_is_too_large_is_refused_by_its_header(tmp_path, pictures, read):
    clip = write_flat(tmp_path / "clip.mp4", 64, 48, 12)
    size = clip.stat().st_size
    cases = [
        (replace(LIMITS, pixels=64 * 48 - 1), "64x48 is 3072 pixels a frame; at most 3071 are read"),
        (replace(LIMITS, bytes=size - 1), f"a file of {size} bytes; at most {size - 1} are read"),
    ]
    for limits, why in cases:
        with pytest.raises(VideoError) as error:
            read(clip, limits)
        assert error.value.why == why and pictures.made == 0
    read(clip, replace(LIMITS, pixels=64 * 48, frames=12, bytes=size))


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_frames_are_counted_as_they_come(tmp_path, pictures, read):
    clip = write_flat(tmp_path / "clip.mkv", 64, 48, 30)  # a container that does not say how many
    with pytest.raises(VideoError, match="more than 9 frames, the most that are read"):
        read(clip, replace(LIMITS, frames=9))
    assert pictures.made <= 9


def test_a_stream_that_grows_midway_is_refused_before_the_large_frame_is_made(tmp_path):
    parts = [write_flat(tmp_path / f"{side}.h264", side, side, 300, 25) for side in (64, 640)]
    clip = tmp_path / "late.h264"
    clip.write_bytes(b"".join(part.read_bytes() for part in parts))
    for read in (lambda path, limits: list(ClipReader(path, limits)), lambda path, limits: read_frames(path, limits=limits)):
        with pytest.raises(VideoError, match="640x640 is 409600 pixels a frame; at most 100000 are read"):
            read(clip, replace(LIMITS, pixels=100_000))
        with pytest.raises(VideoError, match="the frame size changes from 64x64 to 640x640"):
            read(clip, LIMITS)


def test_a_picture_whose_size_only_its_decoder_knows(tmp_path):
    with av.open(str(tmp_path / "clip.gif"), "w") as made:
        stream = made.add_stream("gif", rate=8)
        stream.width, stream.height, stream.pix_fmt = 300, 200, "rgb8"
        picture = av.VideoFrame(300, 200, "rgb8")
        for number in range(3):
            picture.planes[0].update(bytes([number]) * picture.planes[0].buffer_size)
            picture.pts = number
            made.mux(stream.encode(picture))
        made.mux(stream.encode())
    assert probe(tmp_path / "clip.gif").frames == 3
    with pytest.raises(VideoError, match="pixels"):
        probe(tmp_path / "clip.gif", replace(LIMITS, pixels=300 * 200 - 1))


def test_frames_are_made_small_as_they_are_decoded(tmp_path, pictures):
    rng = np.random.default_rng(0)
    write_video(tmp_path / "clip.mp4", rng.integers(0, 256, (30, 64, 48, 3), np.uint8), 8)
    planned = planned_clip(tmp_path / "clip.mp4", PLAN)
    assert planned.fps == pytest.approx(8 * 8.0 / 30)
    assert planned.frames.shape == (8, 16, 8, 3) and pictures.made == 8
    assert pictures.most <= 2, "all eight were in memory at their own size before"
    whole = read_frames(tmp_path / "clip.mp4")
    assert np.array_equal(planned_clip(Clip(whole, 8.0), PLAN).frames, planned.frames)
    assert pictures.now == 0


def test_a_preview_is_written_as_its_frames_come(tmp_path, pictures):
    rng = np.random.default_rng(0)
    path = tmp_path / "clip.mp4"
    write_video(path, rng.integers(0, 256, (30, 320, 400, 3), np.uint8), 8)
    data_uri(path, probe(path))
    assert pictures.made == 30 and pictures.most <= 2
    flickering(path)
    assert pictures.most <= 3


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 33, 200])
def test_a_whole_clip_is_in_memory_once(tmp_path, frames):
    write_video(tmp_path / "clip.mp4", moving(frames, 96, 128), 8)
    read_frames(tmp_path / "clip.mp4", [0])  # what is imported once
    tracemalloc.start()
    read = read_frames(tmp_path / "clip.mp4")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    expected = np.stack(list(ClipReader(tmp_path / "clip.mp4")))
    assert read.dtype == np.uint8 and read.flags.owndata and np.array_equal(read, expected)
    assert most < 1.2 * read.nbytes + 20 * 96 * 128 * 3  # np.stack beside a list of frames takes twice the clip
    small = read_frames(tmp_path / "clip.mp4", change=lambda frame: frame[::2, ::4])
    assert np.array_equal(small, expected[:, ::2, ::4])


def test_frames_in_memory_have_limits_too():
    clip = Clip(np.zeros((9, 16, 16, 3), np.uint8), 8.0)
    assert planned_clip(clip, PLAN, replace(LIMITS, frames=8)) == Unscored("more than 8 frames, the most that are read")
    refused = planned_clip(clip, PLAN, replace(LIMITS, pixels=255))
    assert refused == Unscored("16x16 is 256 pixels a frame; at most 255 are read")


def test_a_clip_beyond_the_limits_is_a_broken_one(tmp_path):
    write_flat(tmp_path / "clip.mp4", 64, 48, 12)
    for limits, why in ((replace(LIMITS, pixels=100), "64x48 is"), (replace(LIMITS, frames=5), "more than 5 frames")):
        row = measure_clip({"clip": "clip.mp4"}, str(tmp_path), True, limits)
        assert row["broken"].startswith(why) and row["brightness"] is None and row["sha256"]


def test_8k_is_read():
    assert LIMITS.refuse_frame(7680, 4320) is None and LIMITS.refuse_frame(8192, 4320) is None
