"""Stages in containers, by the Docker runner, with a real S3 server as DVC remote."""

import pytest

from tests.containers.airflow import Airflow
from tests.curation.s3_server import ENVIRONMENT

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def airflow(engine, s3) -> Airflow:
    remote = {"REELIGN_REMOTE": "s3://reelign/docker", "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3.port}"}
    return Airflow(DOCKER_HOST=engine.host, **ENVIRONMENT, **remote)


def on(work: str) -> dict:
    """Settings of a machine whose volume is `work`; the image is the default, and so that of HEAD."""
    docker = {"work": work, "network": "host", "environment": [*ENVIRONMENT, "AWS_ENDPOINT_URL_S3", "REELIGN_REMOTE"]}
    return {"runner": "docker", "retry_delay": 1, "docker": docker}


def test_a_second_machine_restores_from_s3_what_the_first_has_run(engine, airflow, s3, images):
    first = airflow.run("first", {"stages": ["source", "measure"], "orchestration": on("first")})
    for stage in ("source", "measure"):
        assert f"[{stage}] done in" in first and f"[{stage}] finished; kept in s3://reelign/docker" in first, first
    assert s3.client().list_objects_v2(Bucket="reelign", Prefix="docker/")["KeyCount"] > 10
    second = airflow.run("second", {"stages": ["measure"], "orchestration": on("second")})
    assert "[measure] was run before, restored; kept in s3://reelign/docker" in second, second
    assert "done in" not in second and "[source]" not in second, second
    look = "import pandas; print(len(pandas.read_parquet('/work/trees/measure/data/measures.parquet')))"
    rows = {
        engine("run", "--rm", "--network=none", f"--volume={work}:/work:ro", images["pipeline"], "python", "-c", look)
        for work in ("first", "second")
    }
    assert len(rows) == 1 and int(rows.pop()) > 60


def test_a_failing_container_fails_the_task_with_its_own_message(airflow, images):
    said = airflow.run(
        "broken", {"stages": ["source"], "profile": "nowhere", "orchestration": on("broken")}, code=1
    )  # fmt: skip
    assert "infra/profiles/nowhere.yaml: no such profile at commit" in said and "'StatusCode': 2" in said, said
