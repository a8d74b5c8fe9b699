"""An engine with the images of HEAD, an S3 server, and Airflow's own database. Runs in the orchestrator environment."""

from collections.abc import Iterator

import pytest

from tests.containers.engine import Engine, git_commit, install, why_not
from tests.curation.s3_server import Server


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
    return git_commit()


@pytest.fixture(scope="session")
def pipeline_image(engine, commit) -> str:
    """Name of the image of HEAD that stages run in."""
    engine.make_images("pipeline")
    return f"localhost/reelign-pipeline-cpu:{commit}"


@pytest.fixture(scope="session")
def images(engine, pipeline_image, commit) -> dict[str, str]:
    """Names of the images of HEAD: {"pipeline": ..., "airflow": ...}."""
    engine.make_images("airflow")
    return {"pipeline": pipeline_image, "airflow": f"localhost/reelign-airflow:{commit}"}


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("s3"))
    server.start()
    server.client().create_bucket(Bucket="reelign")
    yield server
    server.kill()
