"""A small folder of pairs; and what tests that fetch from a bucket need: the server runs once for all of them."""

import itertools

import numpy as np
import pytest

from components.video.encode import write_video
from tests.curation.buckets import Bucket
from tests.curation.s3_server import ENVIRONMENT, Proxy, Server
from tests.curation.test_stages import HEADER

bucket_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    for key in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):  # not those of whoever runs the test
        (tmp_path / key).touch()
        monkeypatch.setenv(key, str(tmp_path / key))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.port}")
    monkeypatch.chdir(tmp_path)
    return Bucket(server, f"bucket-{next(bucket_numbers)}")


@pytest.fixture
def proxy(server, bucket, monkeypatch):
    proxy = Proxy(server.port)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.port}")
    yield proxy
    proxy.close()


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(4):
        frames = np.zeros((8, 32, 32, 3), np.uint8)
        for time_ in range(8):
            frames[time_, 8:20, 2 + time_ : 14 + time_] = 60 + 40 * number
        write_video(folder / f"{number}.mp4", frames, 8)
    return [(folder / f"{number}.mp4").read_bytes() for number in range(4)]


@pytest.fixture
def small(bucket, videos) -> list[str]:
    """Six clips, three pairs."""
    clips = [f"videos/{n}.mp4" for n in range(6)]
    for n, clip in enumerate(clips):
        bucket.put(clip, videos[n % 4])
    bucket.label(clips)
    return clips


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three pairs of clips with VideoAlign's paths; the working folder is an empty one beside it."""
    made = tmp_path / "given"
    for index in range(3):
        for side, speed in (("A", 1), ("B", 2)):
            frames = np.zeros((8, 32, 32, 3), np.uint8)
            for time in range(8):
                frames[time, 8:20, 2 + speed * time : 14 + speed * time] = 90 + 40 * index
            write_video(made / f"videos/{index}_{side}.mp4", frames, 8)
    rows = [f"videos/{n}_A.mp4,./videos/{n}_B.mp4,prompt {n},A,same,B,8.0,8.0,8.0,8.0" for n in range(3)]
    (made / "labels.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return made
