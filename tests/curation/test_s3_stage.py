"""Stage source on a bucket as a program of its own: killed, run by DVC, and its exit codes."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from components.curation.s3 import PART
from tests.curation.buckets import LARGE, WORKERS, assert_fetched, metrics, random_bytes

pytestmark = pytest.mark.s3
REPOSITORY = Path(__file__).parents[2]


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
    wrong = params.replace(bucket.url, "bucket/set")
    (checkout / "params.yaml").write_text(wrong)
    row = next(row for row, line in enumerate(wrong.splitlines(), 1) if "bucket/set" in line)
    assert f"error: params.yaml, row {row}, key 'source.folder': " in run(checkout, *STAGE, code=2)


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
