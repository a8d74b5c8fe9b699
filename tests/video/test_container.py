"""Files of any name and metadata are opened, the track that a player shows is read, and what is no video is named."""

import os
import socket
from pathlib import Path

import av
import numpy as np
import pytest

from components.judges.vbench import flickering
from components.video.container import VideoError
from components.video.decode import ClipReader, probe, read_frames
from components.video.encode import write_video
from tests.video.files import moving, write

CASES = Path(__file__).parents[2] / "../shared/cases/videos"
NAMES = ["Style: a.mp4", "http:a.mp4", "file:a.mp4", "data:,a.mp4", "100%d.mp4", "a%03d.mp4", "-lead.mp4", "a b#?&[0].mp4"]
NAMES += ["üñ 猫 🐱.mp4", "two\nlines.mp4", "no_ending", "wrong_ending.gif", os.fsdecode(b"lat\xe9.mp4")]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(name, moving(9), 8)
    assert os.path.isfile(name)
    assert probe(name).frames == len(read_frames(name)) == len(list(ClipReader(tmp_path / name))) == 9
    assert 0 < flickering(name) < 1


@pytest.mark.parametrize("name", ["title.mp4", "title.mkv", "title.avi"])
def test_metadata_in_any_encoding(tmp_path, name):
    path = write(tmp_path / name, 9, codec="mpeg4", title="ascii title here")
    content = path.read_bytes()
    assert b"ascii title here" in content
    path.write_bytes(content.replace(b"ascii title here", b"caf\xe9 \x83e\x83X\x83g \xff\xfe\x80 "))
    with pytest.raises(UnicodeDecodeError):
        av.open(str(path)).close()
    assert probe(path).frames == len(read_frames(path)) == 9


def test_cover_art_is_not_the_clip(tmp_path):
    """A picture before and behind the track."""
    source = write(tmp_path / "clip.mp4", 9)
    for first in (True, False):
        path = tmp_path / f"{first}.mp4"
        with av.open(str(source)) as given, av.open(str(path), "w") as made:
            track = given.streams.video[0]
            streams = {}
            for kind in ("cover", "track") if first else ("track", "cover"):
                if kind == "track":
                    streams[kind] = made.add_stream_from_template(track)
                else:
                    streams[kind] = made.add_stream("mjpeg", rate=1)
                    streams[kind].height, streams[kind].width, streams[kind].pix_fmt = 128, 128, "yuvj420p"
                    streams[kind].disposition = av.stream.Disposition.attached_pic
            cover = av.VideoFrame.from_ndarray(moving(1, 128, 128)[0], format="rgb24")
            made.mux([*streams["cover"].encode(cover), *streams["cover"].encode()])
            for packet in given.demux(track):
                if packet.size:
                    packet.stream = streams["track"]
                    made.mux(packet)
        assert np.array_equal(read_frames(path), read_frames(source))
        assert (probe(path).codec, probe(path).frames) == ("h264", 9)
        assert flickering(path) == flickering(source)


OTHERS = {
    "empty.mp4": (b"", "unreadable: empty file"),
    "text.mp4": (b"no video at all", "unreadable: Invalid data"),
    "pointer.mp4": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "unreadable: a Git LFS pointer"),
    "page.mp4": (b"\n<!DOCTYPE HTML><html><body>Not found</body></html>", "unreadable: a web page"),
    "picture.mp4": (b"\x89PNG\r\n\x1a\n" + bytes(60), "unreadable: a still image"),
    "animated.webp": (b"RIFF\x24\x00\x00\x00WEBPVP8X" + bytes(28), "unreadable: WebP, which FFmpeg's reader does not take"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_video_is_named(tmp_path, name):
    content, why = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    for read in (probe, read_frames, flickering):
        with pytest.raises(VideoError, match=why):
            read(tmp_path / name)


# Files of text that name other files or addresses to open.
LISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n",
    "HLS of HLS": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nfile:{clip}\n",
    "concat": "ffconcat version 1.0\nfile '{clip}'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="a" mimeType="video/mp4"><BaseURL>{clip}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "IMF": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2013">{clip}'
    "</CompositionPlaylist>",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "reference": "rtsptext{clip}",
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_playlist_opens_nothing(tmp_path, kind):
    """As a file, and from memory as the server has it."""
    clip = write(tmp_path / "clip.mp4", 9)
    text = LISTS[kind].format(clip=clip)
    path = tmp_path / "list.mp4"
    path.write_text(text)
    descriptor = os.memfd_create("video")
    try:
        os.write(descriptor, text.encode())
        for place in (path, f"/proc/self/fd/{descriptor}"):
            for read in (probe, read_frames, lambda place: list(ClipReader(place)), flickering):
                with pytest.raises(VideoError, match="unreadable"):
                    read(place)
    finally:
        os.close(descriptor)


def test_ffmpeg_itself_follows_a_playlist(tmp_path):
    """So that the test above tests something."""
    clip = write(tmp_path / "clip.mp4", 9)
    (tmp_path / "list.txt").write_text(LISTS["concat"].format(clip=clip))
    with av.open(str(tmp_path / "list.txt"), options={"safe": "0"}) as opened:
        assert sum(1 for _ in opened.decode(video=0)) == 9


@pytest.mark.parametrize(
    "name", ["pipe:0", "fd:0", "-", "concat:{clip}|{clip}", "subfile,,start,0,end,0,,:{clip}", "cache:{clip}"]
)
def test_a_descriptor_or_protocol_as_a_name_is_no_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    clip = write(tmp_path / "clip.mp4", 9)
    for read in (probe, read_frames):
        with pytest.raises(VideoError, match="no such file"):
            read(name.format(clip=clip))


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_regular_file_is_not_read(tmp_path, kind):
    """A pipe would be waited for, a device has no end."""
    place = tmp_path / "clip.mp4"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(place))
    for read in (probe, read_frames):
        with pytest.raises(VideoError, match="no such file"):
            read(place)


@pytest.mark.skipif(not CASES.exists(), reason="no folder ../shared/cases beside the checkout")
def test_a_real_animated_webp():
    with pytest.raises(VideoError, match="unreadable: WebP"):
        probe(CASES / "animated.webp")


@pytest.mark.parametrize("path", ["", "a" * 300 + ".mp4", "nul\0.mp4"])
def test_a_path_that_is_no_file(path):
    with pytest.raises(VideoError, match="no such file"):
        probe(path)


def test_a_codec_without_decoder(tmp_path):
    path = write(tmp_path / "clip.mp4", 9)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    for read in (probe, read_frames):
        with pytest.raises(VideoError):
            read(path)


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_an_avi_that_is_cut_is_not_one_whose_header_counts_too_many(tmp_path, cut):
    """Where a chunk ends, so that no packet is damaged."""
    path = write(tmp_path / "clip.avi", codec="mjpeg", pixels="yuvj420p")
    content = path.read_bytes()
    start = content.rindex(b"00dc", 0, int(cut * content.index(b"idx1")))
    path.write_bytes(content[:start])
    for read in (probe, read_frames):
        with pytest.raises(VideoError, match=r"truncated: .* of 30 frames"):
            read(path)


def test_damage_anywhere_is_a_reason_or_the_same_count_everywhere(tmp_path):
    """Bytes changed at random, ends cut off: a reader gives what the others give, or says what is damaged."""
    rng = np.random.default_rng(0)
    kinds = {"a.mp4": {}, "a.mkv": {}, "a.webm": {"codec": "libvpx"}, "a.gif": {"codec": "gif", "pixels": "rgb8"}}
    wholes = [write(tmp_path / name, 9, **how).read_bytes() for name, how in kinds.items()]
    path = tmp_path / "damaged"
    for number in range(120):
        content = bytearray(wholes[number % 4])
        for at in rng.integers(0, len(content), rng.integers(1, 12)):
            content[at] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content) // 2, 2 * len(content))])
        found = []
        for read in (lambda path: probe(path).frames, lambda path: len(read_frames(path))):
            try:
                found.append(read(path))
            except VideoError as error:
                assert "\n" not in error.why
        assert len(set(found)) <= 1
