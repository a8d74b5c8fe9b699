"""Write, read, and every way a file can be broken, by name."""

import av
import numpy as np
import pytest

from components.video.container import VideoError
from components.video.decode import probe, read_chosen, read_frames
from components.video.encode import write_video


def clip(frames: int = 9, size: int = 32) -> np.ndarray:
    """A bright square on the move over a smooth ground, uint8 [T, H, W, 3]."""
    ramp = np.linspace(40, 160, size).astype(np.uint8)
    made = np.broadcast_to(ramp[None, None, :, None], (frames, size, size, 3)).copy()
    for index in range(frames):
        made[index, size // 4 : size // 2, 2 + 2 * index % (size // 2) :][:, : size // 4] = 220
    return made


def remux(source, target, options=None, rotation=None):
    """Copy the video packets of `source` into another container."""
    with av.open(str(source)) as reader, av.open(str(target), "w", options=options or {}) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        if rotation:
            copy.set_display_rotation(rotation)
        for packet in reader.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                writer.mux(packet)
    return target


def write_sound(path):
    """A file with a sound track and no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture
def written(tmp_path):
    write_video(tmp_path / "clip.mp4", clip(60, 64), 8)
    return tmp_path / "clip.mp4"


def test_round_trip(tmp_path):
    frames = clip()
    write_video(tmp_path / "clip.mp4", frames, 8)
    info = probe(tmp_path / "clip.mp4")
    assert (info.width, info.height, info.fps, info.frames, info.codec, info.pixel_format) == (
        *(32, 32, 8.0, 9),
        *("h264", "yuv420p"),
    )
    assert info.duration == 9 / 8
    read = read_frames(tmp_path / "clip.mp4")
    assert read.shape == frames.shape and read.dtype == np.uint8
    assert np.abs(read.astype(int) - frames).mean() < 2


def test_same_frames_same_bytes(tmp_path):
    write_video(tmp_path / "a.mp4", clip(), 8)
    write_video(tmp_path / "b.mp4", clip(), 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_fractional_rate(tmp_path):
    write_video(tmp_path / "clip.mp4", clip(), 30000 / 1001)
    assert probe(tmp_path / "clip.mp4").fps == pytest.approx(30000 / 1001)


def test_wanted_frames_in_wanted_order(written):
    everything = read_frames(written)
    assert np.array_equal(read_frames(written, [0, 7, 59]), everything[[0, 7, 59]])
    assert np.array_equal(read_frames(written, [30, 2, 2]), everything[[30, 2, 2]])
    with pytest.raises(VideoError, match="60 frames, no frame 60"):
        read_frames(written, [0, 60])
    with pytest.raises(ValueError):
        read_frames(written, [-1])


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.h264"])
def test_wanted_frames_are_those_of_the_whole_clip_in_any_container(written, tmp_path, name):
    """Frames that no other refers to are left out; what is wanted must not change by it. A bare H.264 stream has no time
    stamps."""
    path = tmp_path / name
    if path != written:
        remux(written, path)
    everything = read_frames(path)
    assert len(everything) == 60
    for indices in ([0], [59], [1, 2, 3], [5, 17, 40, 58], list(range(60))):
        assert np.array_equal(read_frames(path, indices), everything[indices]), indices
        assert np.array_equal(read_chosen(path, lambda info, chosen=indices: chosen), everything[indices]), indices
    told = []
    assert len(read_chosen(path, lambda info: told.append(info) or [info.frames - 1])) == 1
    assert told == [probe(path)]


@pytest.mark.parametrize("shape", [(4, 31, 32, 3), (4, 32, 31, 3), (0, 32, 32, 3), (4, 32, 32, 4)])
def test_frames_that_cannot_be_written(tmp_path, shape):
    with pytest.raises(VideoError):
        write_video(tmp_path / "clip.mp4", np.zeros(shape, np.uint8), 8)
    assert not (tmp_path / "clip.mp4").exists()


@pytest.mark.parametrize("content", [b"", b"no video at all"])
def test_unreadable(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for read in (probe, read_frames):
        with pytest.raises(VideoError, match="unreadable"):
            read(path)


def test_missing(tmp_path):
    with pytest.raises(VideoError, match="is a folder"):
        probe(tmp_path)
    with pytest.raises(VideoError, match="no such file"):
        probe(tmp_path / "clip.mp4")


def test_truncated_before_its_index(written):
    written.write_bytes(written.read_bytes()[:-1000])
    with pytest.raises(VideoError, match="unreadable"):
        probe(written)


def test_truncated_behind_its_index(written, tmp_path):
    whole = remux(written, tmp_path / "fast.mp4", {"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    for read in (probe, read_frames, lambda path: read_chosen(path, lambda info: [0])):
        with pytest.raises(VideoError, match="truncated"):
            read(tmp_path / "cut.mp4")


def test_damaged_in_the_middle(written):
    content = bytearray(written.read_bytes())
    middle = content.find(b"mdat") + len(content) // 3
    content[middle : middle + 600] = bytes(600)
    written.write_bytes(content)
    with pytest.raises(VideoError, match="truncated or corrupt"):
        read_frames(written)


def test_container_without_a_frame_count(written, tmp_path):
    assert probe(remux(written, tmp_path / "clip.mkv")).frames == 60


def test_rotated(written, tmp_path):
    with pytest.raises(VideoError, match="rotated by 90"):
        probe(remux(written, tmp_path / "rotated.mp4", rotation=90))


def test_no_video_stream(tmp_path):
    write_sound(tmp_path / "sound.mp4")
    with pytest.raises(VideoError, match="no video stream"):
        probe(tmp_path / "sound.mp4")


def test_zero_frames(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w", options={"movflags": "empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    for read in (probe, read_frames):
        with pytest.raises(VideoError, match="no frames"):
            read(tmp_path / "none.mp4")
