"""What MLflow shows of a pipeline execution: its name, profile, status, duration and headline figures."""

import re

import pytest

from components.config.params import load_params
from components.errors import BadInput
from components.pipeline.mlflow_store import mlflow_client
from components.pipeline.tracking import KIND, ChildRun, _experiment, full_name
from tests.conftest import REPOSITORY


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "manual__1")
    return mlflow_client()


def begin(stage: str) -> ChildRun:
    definition = {"cmd": f"python -m {stage}", "desc": f"About {stage}", "deps": [], "params": ["seed"], "outs": []}
    return ChildRun(stage, "0" * 16, definition, load_params(REPOSITORY / "params.yaml"), {})


def test_a_parent_says_how_its_stages_went(client):
    first = begin("pairs")
    parent = client.get_run(first.parent)
    assert re.fullmatch(r"shapes pipeline \d{4}-\d\d-\d\d \d\d:\d\d", parent.info.run_name)
    assert parent.info.status == "RUNNING" and parent.data.params == {"profile": "shapes"}
    second = begin("reward")
    first.close("FINISHED", 1.0, {})
    assert client.get_run(first.parent).info.status == "RUNNING"  # the other one is
    second.close("FAILED", 1.0, {})
    assert client.get_run(first.parent).info.status == "FAILED"

    again = begin("reward")  # as Airflow tries a task again
    assert again.parent == first.parent and client.get_run(first.parent).info.status == "RUNNING"
    again.close("FINISHED", 1.0, {})
    bench = begin("reward_bench")
    bench.log({"test/accuracy_without_ties/Overall": 0.75, "test/accuracy_without_ties/VQ": 0.5})
    bench.close("FINISHED", 1.0, {})
    parent, child = client.get_run(first.parent), client.get_run(bench.id)
    assert parent.info.status == "FINISHED" and parent.info.end_time >= child.info.end_time > parent.info.start_time
    assert parent.data.metrics == {"test/accuracy_without_ties/Overall": 0.75}
    assert child.data.metrics.keys() == {"test/accuracy_without_ties/Overall", "test/accuracy_without_ties/VQ", "seconds"}
    assert child.info.run_name == "reward_bench" and child.data.tags["mlflow.note.content"] == "About reward_bench"
    assert child.data.params == {"profile": "shapes", "seed": "17"} and child.data.tags["profile"] == "shapes"
    experiment = client.get_experiment_by_name("reelign-shapes")
    assert KIND.items() <= experiment.tags.items()

    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(BadInput, match="experiment reelign-shapes: was deleted in MLflow; `mlflow experiments restore -x"):
        _experiment(client, "shapes")


def test_short_names_are_of_the_profile():
    assert full_name("video_reward", "smoke") == "reelign-smoke-video-reward"
    assert full_name("generator_dpo", "wan2.1-14b") == "reelign-wan2.1-14b-aligned-dpo"
    assert full_name("reelign-shapes-aligned-dpo", "smoke") == "reelign-shapes-aligned-dpo"
