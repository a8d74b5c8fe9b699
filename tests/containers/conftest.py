"""An engine with the images of HEAD, an S3 server, and Airflow's own database. Runs in the orchestrator environment."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.engine import REPOSITORY, Engine, install, why_not


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    if reason := why_not():
        pytest.skip(reason)
    install()
    engine = Engine()
    engine.start()
    try:
        engine.make_base()
        yield engine
    finally:
        engine.stop()
    assert not engine.mounts()


@pytest.fixture(scope="session")
def commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def images(engine, commit) -> dict[str, str]:
    """Names of the images of HEAD: {"pipeline": ..., "airflow": ...}."""
    engine.make_images("pipeline", "airflow")
    return {"pipeline": f"localhost/reelign-pipeline-cpu:{commit}", "airflow": f"localhost/reelign-airflow:{commit}"}


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator["Server"]:
    from tests.curation.s3_server import Server

    server = Server(tmp_path_factory.mktemp("s3"))
    server.start()
    server.client().create_bucket(Bucket="reelign")
    yield server
    server.kill()
