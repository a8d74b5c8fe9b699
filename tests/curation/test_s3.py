"""Stage source from a bucket of a real S3 server: a server that dies, streams that are cut or spoilt, refusals."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from boto3.s3.transfer import TransferConfig

from components.cli.doctor import inputs
from components.curation.curate import curate
from components.curation.measure import measure
from components.curation.s3 import PART, Prefix
from components.curation.source import source
from components.errors import BadInput, Unreachable
from components.files.tables import read_table
from components.preferences.pairs import pairs
from tests.curation.buckets import LARGE, WORKERS, assert_fetched, fetch, metrics, random_bytes, stage_for

pytestmark = pytest.mark.s3
REPOSITORY = Path(__file__).parents[2]


def partials() -> list[Path]:
    return list(Path(".reelign/cache/s3").rglob("*.partial"))


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
    with pytest.raises(
        BadInput, match=rf"^s3://{bucket.name}/set/a.mp4: came 3 times otherwise than in the bucket's listing: "
    ):
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
    kept = [path for path in Path(".reelign/cache/s3").rglob("*") if path.is_file() and path.suffix != ".sha256"]
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
    measure(stage)
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
        (Path(folder) / "model").touch()
    assert inputs().startswith(bucket.url)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(BadInput, match=f"^{bucket.url}: SignatureDoesNotMatch"):
        inputs()


@pytest.mark.parametrize("how", ["zeroed", "truncated", "emptied"])
def test_an_object_that_is_damaged_here_is_fetched_again_by_name(bucket, small, how, capfd):
    """One that has its size too: it is linked to, and disks fail."""
    found = fetch(bucket)
    objects = [path for path in Path(".reelign/cache/s3").rglob("*") if path.is_file() and not path.suffix]
    damaged = max(objects, key=lambda path: path.stat().st_size)
    data = damaged.read_bytes()
    damaged.chmod(0o644)
    damaged.write_bytes({"zeroed": bytes(len(data)), "truncated": data[:-1], "emptied": b""}[how])
    capfd.readouterr()
    assert fetch(bucket) == found | {"objects_from_an_earlier_run": len(objects) - 1, "bytes_fetched": len(data)}
    assert_fetched(bucket, small)
    said = [line for line in capfd.readouterr().err.splitlines() if "damaged" in line]
    assert len(said) == 1 and damaged.name in said[0] and f"s3://{bucket.name}/set/" in said[0]


def test_what_an_older_version_has_fetched_is_held_to_the_bucket_and_not_fetched_again(bucket, small):
    found = fetch(bucket)
    for digest in Path(".reelign/cache/s3").rglob("*.sha256"):
        digest.unlink()
    again = fetch(bucket)
    assert again["bytes_fetched"] == 0 and again["objects"] == found["objects"]
    assert len(list(Path(".reelign/cache/s3").rglob("*.sha256"))) == found["objects"]
