"""Frames, rate and duration of every kind of file are what a player shows, and all that reads clips has the same ones."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from components.curation.measures import measure_clip
from components.judges.vbench import flickering
from components.video.container import VideoError
from components.video.decode import ClipReader, probe, read_chosen, read_frames
from tests.video.files import copy_packets, moving, set_edit, write

CASES = Path(__file__).parents[2] / "../shared/cases/videos"
GIFS = Path(__file__).parents[2] / "../shared/data/fetv/gif"
# Frames, frames a second, seconds.
RIGHT = {
    "av1.mp4": (30, 16, 1.875),
    "avi_empty_chunks.avi": (10, 10, 1),
    "avi_header_one_too_many.avi": (30, 15, 2),
    "cover_art_before_video.mp4": (30, 16, 1.875),
    "edit_list_ends_early.mp4": (48, 16, 3),
    "edit_list_hides_start.mp4": (44, 16, 2.75),
    "interlaced.mp4": (16, 8, 2),
    "metadata_latin1.mp4": (30, 16, 1.875),
    "metadata_shift_jis.avi": (30, 16, 1.875),
    "ts_cut_inside_group_of_pictures.ts": (56, 16, 3.5),
    "vp8_hidden_frames.webm": (29, 29 / 1.875, 1.875),
    "webm_variable_rate.webm": (50, 10, 5),
    "webm_without_default_duration.webm": (60, 28.5, 2.1),
    "spatial_attribute_camera_view_cogvideo_79.gif": (33, 10, 3.3),
    "spatial_attribute_camera_view_text2video_zero_60.gif": (16, 10, 1.6),
    "spatial_attribute_camera_view_text2video_zero_62.gif": (16, 10, 1.6),
    "spatial_attribute_camera_view_videofusion_62.gif": (16, 10, 1.6),
    "spatial_attribute_color_text2video_zero_137.gif": (16, 10, 1.6),
    "spatial_attribute_color_text2video_zero_149.gif": (16, 10, 1.6),
    "spatial_attribute_color_text2video_zero_157.gif": (16, 10, 1.6),
    "spatial_attribute_color_zeroscope_149.gif": (24, 10, 2.4),
}


def all_agree(path: Path, frames: int, fps: float, duration: float) -> None:
    """Probe, whole reading, reading of some, stage measure and VBench's flickering see the same frames at the same rate."""
    info = probe(path)
    assert info.frames == frames
    assert (info.fps, info.duration) == pytest.approx((fps, duration), rel=0.01)
    everything = read_frames(path)
    assert len(everything) == frames
    some = [0, frames // 2, frames - 1]
    told = []
    assert np.array_equal(read_chosen(path, lambda info: told.append(info) or some), everything[some])
    assert np.array_equal(read_frames(path, some[::-1]), everything[some[::-1]])
    assert told == [info]
    reader = ClipReader(path)
    assert sum(1 for _ in reader) == frames
    row = measure_clip({"clip": path.name}, str(path.parent), optical_flow=False)
    assert row["broken"] is None
    for facts in (reader.facts, row):
        assert {name: facts[name] for name in vars(info)} == vars(info)
    differences = np.abs(np.diff(everything.astype(np.int16), axis=0)).mean() / 255
    assert flickering(path) == pytest.approx(1 - differences, abs=0.02)  # ten bits
    assert row["flicker"] == pytest.approx(differences, abs=1e-9)
    assert flickering(path) < 1


@pytest.mark.parametrize("name", RIGHT)
def test_files_that_people_had(name):
    path = (GIFS if name.endswith(".gif") else CASES) / name
    if not path.exists():
        pytest.skip(f"no {path} beside the checkout")
    all_agree(path, *RIGHT[name])


FILM = Fraction(24000, 1001)
MS, CS = Fraction(1, 1000), Fraction(1, 100)
# Five frames at 30 a second, then five at 5. WebM does not say how long the last one is shown, MP4 does: a thirtieth.
UNEVEN = [0, 33, 67, 100, 133, 333, 533, 733, 933, 1133]
WRITTEN = {
    "plain.mp4": ({}, (30, 16, 1.875)),
    "film.mp4": ({"rate": FILM}, (30, 23.976, 30 / 23.976)),
    "film.mkv": ({"rate": FILM}, (30, 23.976, 30 / 23.976)),
    "fragmented.mp4": ({"muxer": {"movflags": "frag_keyframe+empty_moov"}}, (30, 16, 1.875)),
    "index_first.mp4": ({"muxer": {"movflags": "faststart"}}, (30, 16, 1.875)),
    "b_frames.avi": ({"codec": "mpeg4", "options": {"bf": "2"}}, (30, 16, 1.875)),
    "motion_jpeg.avi": ({"codec": "mjpeg", "pixels": "yuvj420p"}, (30, 16, 1.875)),
    "mpeg2.ts": ({"codec": "mpeg2video", "rate": 25}, (30, 25, 1.2)),
    "program.mpg": ({"codec": "mpeg2video", "rate": 25}, (30, 25, 1.2)),
    "flash.flv": ({"codec": "flv"}, (30, 16, 1.875)),
    "windows.wmv": ({"codec": "wmv2"}, (30, 16, 1.875)),
    "hevc.mp4": ({"codec": "libx265"}, (30, 16, 1.875)),
    "prores.mov": ({"codec": "prores_ks", "pixels": "yuv422p10le"}, (30, 16, 1.875)),
    "ten_bit.mp4": ({"pixels": "yuv420p10le"}, (30, 16, 1.875)),
    "odd.mkv": ({"codec": "ffv1", "pixels": "bgr0", "size": (56, 40)}, (30, 16, 1.875)),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}, (30, 16, 1.875)),
    "vp9_hidden.webm": (
        {"codec": "libvpx-vp9", "frames": 40, "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
        (40, 16, 2.5),
    ),
    "alpha.apng": ({"codec": "apng", "pixels": "rgba"}, (30, 16, 1.875)),
    "eight.gif": ({"codec": "gif", "pixels": "rgb8", "rate": 8}, (30, 8, 3.75)),
    "uneven.gif": (
        {"codec": "gif", "pixels": "rgb8", "frames": 4, "times": [0, 10, 20, 120], "tick": CS, "rate": 100,
         "muxer": {"final_delay": "180"}},
        (4, 4 / 3, 3),
    ),
    "uneven.webm": ({"codec": "libvpx", "frames": 10, "times": UNEVEN, "tick": MS, "rate": 30}, (10, 10 / 1.333, 1.333)),
    "uneven.mkv": ({"frames": 10, "times": UNEVEN, "tick": MS, "rate": 30}, (10, 10 / 1.333, 1.333)),
    "uneven.mp4": ({"frames": 10, "times": UNEVEN, "tick": MS, "rate": 30}, (10, 10 / 1.166, 1.166)),
    # A default duration that the time stamps belie, and a first frame an hour after 0.
    "wrong_header.mkv": ({"times": list(range(0, 3000, 100)), "tick": MS, "rate": 60}, (30, 10, 3)),
    "late.mkv": ({"times": list(range(3_600_000, 3_603_000, 100)), "tick": MS, "rate": 10}, (30, 10, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_every_kind(name, tmp_path):
    how, right = WRITTEN[name]
    all_agree(write(tmp_path / name, **how), *right)


@pytest.mark.parametrize(("start", "length", "frames"), [(0, 20, 20), (7, 23, 23), (5, 10, 10), (9, 60, 21)])
def test_an_edit_list_hides_frames(tmp_path, start, length, frames):
    """Of 30 frames, from frame `start` on; the header counts all. With B-frames the track begins two frames late."""
    path = write(tmp_path / "whole.mp4", options={"preset": "medium"})
    everything = read_frames(path)
    set_edit(path, (start + 2) * 1024, length * 1024)
    all_agree(path, frames, 16, frames / 16)
    assert np.array_equal(read_frames(path), everything[start : start + frames])


@pytest.mark.parametrize(
    "options", [{}, {"preset": "medium", "g": "12"}, {"preset": "medium", "g": "12", "x264-params": "open-gop=1"}]
)
def test_a_transport_stream_cut_anywhere(tmp_path, options):
    """Frames that lean on what was cut off are in the packets, and are not shown; all that read it agree on the others."""
    whole = write(tmp_path / "whole.ts", 48, options=options).read_bytes()
    path = tmp_path / "cut.ts"
    size = len(whole)
    for start, end in ((size // 6, size), (size // 3, size - 1000), (size // 2, size), (564, size * 3 // 5)):
        path.write_bytes(whole[:564] + whole[start // 188 * 188 : end])
        try:
            info = probe(path)
        except VideoError as error:
            for read in (read_frames, flickering, lambda path: read_chosen(path, lambda info: [0])):
                with pytest.raises(VideoError) as other:
                    read(path)
            assert error.why.startswith(("no frames", "truncated or corrupt", "no video stream")), other
            continue
        assert 0 < info.frames < 48
        all_agree(path, info.frames, info.fps, info.duration)


def test_time_stamps_that_are_there_twice(tmp_path):
    """All frames count; which shares its time with which is of no use."""
    whole = write(tmp_path / "whole.mkv", options={"bf": "0"})

    def pair(packet):
        packet.pts = packet.dts = packet.pts // 125 * 125
        return packet

    path = copy_packets(whole, tmp_path / "twice.mkv", pair)
    all_agree(path, 30, 30 / 1.8125, 1.8125)


def test_a_last_frame_without_duration(tmp_path):
    """Some writers of MP4 give the last frame no duration: eight frames at 8 a second took 0.875 s."""
    whole = write(tmp_path / "whole.mp4", 8, rate=8, options={"bf": "0"})
    counted = []

    def last_is_short(packet):
        counted.append(packet)
        packet.duration = packet.duration if len(counted) < 8 else 1
        return packet

    all_agree(copy_packets(whole, tmp_path / "short.mp4", last_is_short), 8, 8, 1)


def test_one_frame(tmp_path):
    for name, how in (("one.mp4", {}), ("one.gif", {"codec": "gif", "pixels": "rgb8"})):
        path = write(tmp_path / name, 1, **how)
        assert probe(path).frames == len(read_frames(path)) == 1
        assert ClipReader(path).facts == {}
        with pytest.raises(VideoError, match="one frame"):
            flickering(path)


def test_a_bare_stream_has_the_rate_of_its_header(tmp_path):
    path = copy_packets(write(tmp_path / "whole.mp4", rate=25), tmp_path / "bare.h264")
    assert (probe(path).frames, probe(path).fps) == (30, 25)
    assert len(read_frames(path)) == 30


def test_pixels_are_those_of_the_frames(tmp_path):
    """Lossless, uneven times: the frame asked for is the frame given."""
    path = write(tmp_path / "clip.mkv", 10, "ffv1", 30, "bgr0", UNEVEN, MS)
    assert np.array_equal(read_frames(path), moving(10))
    assert np.array_equal(read_frames(path, [8, 1]), moving(10)[[8, 1]])
