"""Stage source from a bucket of a real S3 server: a server that dies, a stage that dies, streams that are cut or spoilt."""

import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from boto3.s3.transfer import TransferConfig

from components.curation.curate import curate
from components.curation.s3 import PART, Prefix
from components.curation.source import source
from components.doctor import inputs
from components.errors import BadInput, Unreachable
from components.params import S3Source
from components.preferences.pairs import pairs
from components.tables import read_table
from components.video.encode import write_video
from tests.curation.s3_server import ENVIRONMENT, Proxy, Server
from tests.curation.test_stages import HEADER, PlainStage

pytestmark = pytest.mark.s3
REPOSITORY = Path(__file__).parents[2]
LARGE = 8 * PART  # 64 MiB
WORKERS = 4
bucket_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.kill()


class Bucket:
    """A bucket of the server with a data set below the prefix `set`, and the clips of its CSV."""

    def __init__(self, server: Server, name: str):
        self.client = server.client()
        self.name = name
        self.client.create_bucket(Bucket=name)
        self.content: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"s3://{self.name}/set"

    def put(self, path: str, data: bytes, **how) -> None:
        self.client.put_object(Bucket=self.name, Key=f"set/{path}", Body=data, **how)
        self.content[path] = data

    def label(self, clips: list[str]) -> None:
        """Labels for pairs of clips, two and two."""
        rows = [f"{a},{b},prompt {n},A,same,B,8,8,8,8" for n, (a, b) in enumerate(zip(clips[::2], clips[1::2], strict=True))]
        self.put("labels.csv", "\n".join([HEADER, *rows, ""]).encode())


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


@pytest.fixture(scope="module")
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


def stage_for(bucket: Bucket, patience: float = 120, csv: str = "labels.csv") -> PlainStage:
    shutil.rmtree("data", ignore_errors=True)  # a real stage starts without its outputs
    stage = PlainStage(Path())
    stage.params.source = S3Source(kind="s3", folder=bucket.url, csv=csv, workers=WORKERS, patience=patience)
    return stage


def fetch(bucket: Bucket, **how) -> dict:
    """Run the stage; its metrics."""
    source(stage_for(bucket, **how))
    return metrics()


def metrics() -> dict:
    return json.loads(Path("metrics/source.json").read_text())


def assert_fetched(bucket: Bucket, clips: list[str]) -> None:
    found = {path.relative_to("data/source").as_posix() for path in Path("data/source").rglob("*.mp4")}
    assert found == set(clips)
    for clip in clips:
        assert (Path("data/source") / clip).read_bytes() == bucket.content[clip], clip


def partials() -> list[Path]:
    return list(Path(".reelign/cache/s3").rglob("*.partial"))


def random_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def test_a_thousand_objects_and_a_server_killed_in_the_middle(server, bucket, proxy, videos):
    clips = [f"videos/model {n % 7}/é{n}.mp4" for n in range(1000)] + ["videos/large0.mp4", "videos/large1.mp4"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: bucket.put(clips[n], videos[n % 4]), range(1000)))
    for clip in clips[1000:]:
        bucket.put(clip, random_bytes(LARGE))
    bucket.label(clips)
    bucket.put("videos/not named.mp4", b"nobody asks for it")
    kills = [LARGE // 2, LARGE + LARGE // 3]

    def kill_twice(data, before):
        if kills and before > kills[0]:
            del kills[0]
            server.kill()
            threading.Timer(1, server.start).start()
        return data

    proxy.answers = kill_twice
    stage = stage_for(bucket)
    source(stage)
    del bucket.content["videos/not named.mp4"]
    assert kills == [] and any("no answer, asking for up to 120 s" in line for line in stage.said)
    assert_fetched(bucket, clips)
    found = metrics()
    whole = sum(len(data) for data in bucket.content.values())
    assert (found["kind"], found["videos"], found["objects"], found["bytes"]) == ("s3", 1002, 1003, whole)
    assert found["objects_from_an_earlier_run"] == 0 and found["bytes_fetched"] == whole
    assert proxy.passed < whole + 2 * WORKERS * PART + (8 << 20), "only parts under way when the server died came twice"

    again = fetch(bucket)
    assert again == found | {"objects_from_an_earlier_run": 1003, "bytes_fetched": 0}
    assert_fetched(bucket, clips)
    bucket.put(clips[5], videos[0] + b"\0")
    changed = fetch(bucket)
    assert (changed["objects_from_an_earlier_run"], changed["bytes_fetched"]) == (1002, len(videos[0]) + 1)
    assert changed["bucket_state"] != found["bucket_state"]
    assert_fetched(bucket, clips)


def test_a_server_that_stays_away_ends_the_stage_with_a_line_and_keeps_what_came(server, bucket, proxy, small):
    proxy.answers = lambda data, before: data if before < 4000 else None
    with pytest.raises(Unreachable, match=rf"s3://{bucket.name}/set/.*: no answer for 1 s; what was fetched is kept \(.+\)"):
        fetch(bucket, patience=1)
    assert not Path("data/source/videos").exists() and not Path("metrics/source.json").exists()
    proxy.answers = lambda data, before: data
    found = fetch(bucket)
    assert found["objects_from_an_earlier_run"] > 0 and found["bytes_fetched"] < found["bytes"]
    assert_fetched(bucket, small)


def test_streams_that_are_cut_are_taken_up_again(bucket, proxy):
    bucket.put("videos/large.mp4", random_bytes(LARGE))
    bucket.put("videos/small.mp4", b"small")
    bucket.label(["videos/large.mp4", "videos/small.mp4"])
    cuts = [PART // 2, 2 * PART, 5 * PART]

    def cut(data, before):
        if cuts and before > cuts[0]:
            del cuts[0]
            return None
        return data

    proxy.answers = cut
    assert fetch(bucket)["bytes_fetched"] == len(b"small") + LARGE + len(bucket.content["labels.csv"])
    assert cuts == []
    assert_fetched(bucket, ["videos/large.mp4", "videos/small.mp4"])


def test_a_listing_that_is_cut_is_asked_for_again(bucket, proxy, small):
    answers = []

    def cut(data, before):
        if b"ListBucketResult" not in data:
            return data
        answers.append(before)
        return None if len(answers) % 5 else data  # boto3 asks three times before we do

    proxy.answers = cut
    stage = stage_for(bucket)
    source(stage)
    assert len(answers) == 10, "before the transfer and after it"
    assert_fetched(bucket, small)


# How an object got there, and what of it can be compared with the bytes that arrive.
UPLOADS = {
    "CRC32 of the whole": dict(checksum="CRC32"),
    "SHA256 of the whole": dict(checksum="SHA256"),
    "CRC64NVME of the whole": dict(checksum="CRC64NVME"),
    "MD5": dict(checksum=None),
    "CRC32 of parts": dict(checksum="CRC32", parts=True),
    "MD5 of parts": dict(checksum=None, parts=True),
}


@pytest.mark.parametrize("size", [100_000, 2 * PART + 5], ids=["small", "large"])
@pytest.mark.parametrize("how", UPLOADS)
def test_spoilt_bytes_are_never_put_in_place(server, bucket, proxy, how, size):
    upload = UPLOADS[how]
    if upload["checksum"] is None:
        bucket.client = server.client(request_checksum_calculation="when_required")
    extra = {"ChecksumAlgorithm": upload["checksum"]} if upload["checksum"] else {}
    data = random_bytes(size)
    if upload.get("parts"):
        config = TransferConfig(multipart_threshold=1, multipart_chunksize=5 << 20)
        bucket.client.upload_fileobj(io.BytesIO(data), bucket.name, "set/a.mp4", Config=config, ExtraArgs=extra)
        bucket.content["a.mp4"] = data
    else:
        bucket.put("a.mp4", data, **extra)
    bucket.put("b.mp4", b"b")
    bucket.label(["a.mp4", "b.mp4"])
    needle = data[70_000:70_032]
    spoils = [99]

    def spoil(piece, before):
        if spoils[0] and needle in piece:
            spoils[0] -= 1
            piece = piece.replace(needle, needle[:-1] + bytes([needle[-1] ^ 1]))
        return piece

    proxy.answers = spoil
    with pytest.raises(BadInput, match=rf"^s3://{bucket.name}/set/a.mp4: came 3 times otherwise than the bucket says: "):
        fetch(bucket)
    assert spoils[0] == 96
    assert not Path("data/source/videos").exists() and not partials()
    spoils[0] = 1
    stage = stage_for(bucket)
    source(stage)
    assert spoils[0] == 0 and (Path("data/source/videos/a.mp4")).read_bytes() == data
    assert not any("only their size" in line for line in stage.said)


def test_an_object_that_changes_meanwhile_is_never_a_mix(bucket, proxy):
    bucket.put("videos/large.mp4", random_bytes(LARGE))
    bucket.put("videos/small.mp4", b"small")
    bucket.label(["videos/large.mp4", "videos/small.mp4"])
    changes = [1]

    def change(data, before):
        if changes and before > LARGE // 2:
            changes.clear()
            bucket.put("videos/large.mp4", random_bytes(LARGE, seed=1))
        return data

    proxy.answers = change
    stage = stage_for(bucket)
    source(stage)
    assert any("large.mp4 was changed or deleted: listing the bucket again" in line for line in stage.said)
    assert_fetched(bucket, ["videos/large.mp4", "videos/small.mp4"])
    assert not partials(), "what was begun of the old version is gone"


def test_labels_that_arrive_during_the_transfer_are_taken_in(bucket, proxy, small, videos):
    news = [1]

    def publish(data, before):
        if news and b"ftyp" in data:  # the first video is on its way
            news.clear()
            for clip in ("videos/new A.mp4", "videos/new B.mp4"):
                bucket.put(clip, videos[0])
            bucket.label([*small, "videos/new A.mp4", "videos/new B.mp4"])
        return data

    proxy.answers = publish
    assert fetch(bucket)["videos"] == 8
    assert_fetched(bucket, [*small, "videos/new A.mp4", "videos/new B.mp4"])


def test_a_named_object_that_is_not_there_is_named_before_any_video_is_fetched(bucket, small):
    bucket.label([*small, "videos/6.mp4", "videos/../videos/7.mp4"])
    with pytest.raises(BadInput, match=r"s3://.*/set/labels.csv, row 5, key 'path_B': 'videos/\.\..* is not a path inside"):
        fetch(bucket)
    bucket.label([*small, "videos/0.mp4", "videos/7.mp4"])
    with pytest.raises(BadInput) as caught:
        fetch(bucket)
    file = f"s3://{bucket.name}/set/labels.csv"
    assert str(caught.value) == f"{file}, row 5, key 'path_B': no such object: {bucket.url}/videos/7.mp4"
    kept = [path for path in Path(".reelign/cache/s3").rglob("*") if path.is_file()]
    assert {path.read_bytes()[:6] for path in kept} == {b"path_A"}


def test_a_video_that_is_a_folder_too_is_refused_by_row(bucket, small):
    bucket.put("videos/0.mp4/inner.mp4", b"x")
    bucket.label([*small, "videos/0.mp4/inner.mp4", "videos/1.mp4"])
    with pytest.raises(BadInput, match=r"row 2, key 'path_A': 'videos/0.mp4' is also the folder of another video"):
        fetch(bucket)


REFUSALS = {
    "wrong secret": (dict(AWS_SECRET_ACCESS_KEY="x"), "", "SignatureDoesNotMatch: "),
    "wrong name": (dict(AWS_ACCESS_KEY_ID="x"), "", "InvalidAccessKeyId: "),
    "no credentials": (dict(AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None), "", "Unable to locate credentials"),
    "half of the credentials": (dict(AWS_SECRET_ACCESS_KEY=None), "", "Partial credentials found"),
    "no such AWS profile": (dict(AWS_PROFILE="nobody"), "", r"The config profile \(nobody\) could not be found"),
    "no right to it": (dict(AWS_ACCESS_KEY_ID="reader", AWS_SECRET_ACCESS_KEY="reader-secret"), "", "AccessDenied: "),
    "no such bucket": ({}, "s3://no-such-bucket/set", "NoSuchBucket: The specified bucket does not exist"),
    "nothing below the prefix": ({}, "s3://{name}/sets", "labels.csv: no such object"),
    "no endpoint": (dict(AWS_ENDPOINT_URL_S3="nowhere"), "", "Invalid endpoint: nowhere"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_the_server_refuses_is_one_clear_line_at_once(bucket, small, monkeypatch, what):
    environment, url, says = REFUSALS[what]
    for key, value in environment.items():
        monkeypatch.delenv(key) if value is None else monkeypatch.setenv(key, value)
    stage = stage_for(bucket)
    stage.params.source = stage.params.source.model_copy(update={"folder": url.format(name=bucket.name) or bucket.url})
    with pytest.raises(BadInput, match=f"^{stage.params.source.folder}.*{says}") as caught:
        source(stage)
    assert "\n" not in str(caught.value) and stage.said == [] and not Path("data").exists()


def test_a_video_that_was_uploaded_cut_in_half_is_fetched_and_named_by_curate_and_pairs(bucket, small, videos):
    bucket.put("videos/3.mp4", videos[3][: len(videos[3]) // 2])
    stage = stage_for(bucket)
    source(stage)
    assert_fetched(bucket, small)
    curate(stage)
    broken = [clip for clip in read_table("data/clips.parquet") if clip["status"] == "broken"]
    assert [clip["clip"] for clip in broken] == ["3.mp4"]
    with pytest.raises(BadInput, match=r"annotations.csv, row 3, key 'path_B': video 3.mp4: unreadable"):
        pairs(stage)


def test_a_prefix_is_a_folder_and_a_bucket_has_a_root(bucket, small):
    bucket.client.put_object(Bucket=bucket.name, Key="set2/videos/0.mp4", Body=b"another set")
    found = Prefix(bucket.url, 1, 1, print).listing()
    assert set(found) == {"labels.csv", *small}
    assert "set2/videos/0.mp4" in Prefix(f"s3://{bucket.name}", 1, 1, print).listing()


def test_doctor_reads_the_bucket(bucket, small, monkeypatch, tmp_path):
    values = yaml.safe_load((REPOSITORY / "infra/profiles/examples.yaml").read_text())
    values["source"] = {"kind": "s3", "folder": bucket.url, "csv": "labels.csv", "workers": WORKERS, "patience": 120}
    Path("params.yaml").write_text(yaml.safe_dump(values))
    for folder in ("pretrained/generator", "pretrained/vlm"):
        Path(folder).mkdir(parents=True)
    assert inputs().startswith(bucket.url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(BadInput, match=f"^{bucket.url}: SignatureDoesNotMatch"):
        inputs()


@pytest.fixture
def checkout(bucket, tmp_path) -> Path:
    """A checkout whose params name the bucket, and a DVC of its own."""
    shutil.copytree(REPOSITORY / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(REPOSITORY / "dvc.yaml", tmp_path / "dvc.yaml")
    values = yaml.safe_load((REPOSITORY / "infra/profiles/examples.yaml").read_text())
    values["source"] = {"kind": "s3", "folder": bucket.url, "csv": "labels.csv", "workers": WORKERS, "patience": 120}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    return tmp_path


def start(checkout: Path, *command: str) -> subprocess.Popen:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shared = os.environ | {"PATH": path, "PYTHONPATH": f"{checkout}:{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.Popen(command, cwd=checkout, env=shared, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(checkout: Path, *command: str, code: int = 0) -> str:
    process = start(checkout, *command)
    said, _ = process.communicate()
    assert process.returncode == code, said
    return said


STAGE = (sys.executable, "-m", "components.curation.source")


def test_a_stage_killed_in_the_middle_of_an_object_goes_on_there(bucket, proxy, checkout):
    bucket.put("videos/large.mp4", random_bytes(LARGE))
    bucket.put("videos/small.mp4", b"small")
    bucket.label(["videos/large.mp4", "videos/small.mp4"])
    under_way, killed = threading.Event(), threading.Event()

    def stall(data, before):
        if before > LARGE - PART:
            under_way.set()
            killed.wait(60)
        return data

    proxy.answers = stall
    process = start(checkout, *STAGE)
    assert under_way.wait(60)
    process.kill()
    process.wait()
    killed.set()
    assert not (checkout / "data").exists()
    proxy.answers = lambda data, before: data
    run(checkout, *STAGE)
    assert_fetched(bucket, ["videos/large.mp4", "videos/small.mp4"])
    # Of the seven parts' bytes that had passed, at most WORKERS parts were not whole.
    assert PART <= metrics()["bytes_fetched"] < LARGE - (6 - WORKERS) * PART


def test_exit_codes_are_those_of_bad_input_and_of_a_server_that_is_away(bucket, small, checkout, monkeypatch):
    params = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(params.replace("patience: 120", "patience: 0.5"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    said = run(checkout, *STAGE, code=4)
    assert f"error: {bucket.url}: no answer for 0.5 s" in said and "Traceback" not in said
    (checkout / "params.yaml").write_text(params.replace(bucket.url, "bucket/set"))
    assert "error: params.yaml, key 'source.s3.folder': String should match" in run(checkout, *STAGE, code=2)


def test_dvc_sees_that_the_bucket_changed_and_fetches_what_is_new(bucket, proxy, small, videos, checkout):
    said = run(checkout, "dvc", "repro", "source")
    assert "Running stage 'source'" in said
    assert_fetched(bucket, small)
    before = proxy.passed
    assert "Stage 'source' didn't change, skipping" in run(checkout, "dvc", "repro", "source")
    assert proxy.passed - before < 20_000, "DVC compares ETags and fetches nothing"

    bucket.put(small[0], videos[1])
    said = run(checkout, "dvc", "repro", "source")
    assert "Running stage 'source'" in said
    assert metrics()["bytes_fetched"] == len(videos[1]) and metrics()["objects_from_an_earlier_run"] == len(small)
    assert_fetched(bucket, small)
    # DVC keeps every version of every object, and nothing rewrote one.
    digests = {hashlib.md5(data).hexdigest() for data in videos}
    cached = {path.parent.name + path.name: path for path in (checkout / ".dvc/cache/files/md5").glob("*/*")}
    assert digests <= set(cached)
    assert all(hashlib.md5(cached[digest].read_bytes()).hexdigest() == digest for digest in digests)
    out = checkout / "data/source" / small[1]
    out.chmod(0o644)
    out.write_bytes(b"edited")
    kept = [path.read_bytes() for path in (checkout / ".reelign/cache/s3").rglob("*") if path.is_file()]
    assert b"edited" not in kept
