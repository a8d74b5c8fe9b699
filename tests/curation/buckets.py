"""Data sets in buckets of the test's S3 server, and stage source on them."""

import json
import shutil
from pathlib import Path

import numpy as np

from components.config.params import S3Source
from components.curation.s3 import PART
from components.curation.source import source
from components.pipeline.stage import MEASURED
from tests.curation.s3_server import Server
from tests.curation.test_stages import HEADER, PlainStage

LARGE = 8 * PART  # 64 MiB
WORKERS = 4


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
    """What the stage says of the bucket, and of this transfer."""
    files = Path("metrics/source.json"), MEASURED / "source.json"
    return {key: value for file in files for key, value in json.loads(file.read_text()).items()}


def assert_fetched(bucket: Bucket, clips: list[str]) -> None:
    found = {path.relative_to("data/source").as_posix() for path in Path("data/source").rglob("*.mp4")}
    assert found == set(clips)
    for clip in clips:
        assert (Path("data/source") / clip).read_bytes() == bucket.content[clip], clip


def random_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)
