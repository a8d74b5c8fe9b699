"""The address in MLflow that a task shows: its stage's newest run in the DAG run, by a real MLflow server."""

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

from dags.links import PAGE, MLflowRun, ask
from tests.dags.conftest import SECRETS


@pytest.fixture(scope="module")
def server(environ) -> str:
    return environ["MLFLOW_TRACKING_URI"]


@pytest.fixture(scope="module")
def runs(server) -> dict[str, str]:
    """Ids of runs by name: a pipeline's, two of a stage (the second is a retry's), one of another DAG run."""
    experiment = ask(server, "experiments/create", {"name": "reelign-links"})["experiment_id"]

    def make(dag_run: str, **tags: str) -> str:
        pairs = [{"key": key.replace("_", "."), "value": value} for key, value in tags.items()]
        body = {"experiment_id": experiment, "start_time": round(time.time() * 1000)}
        body["tags"] = [*pairs, {"key": "airflow.run_id", "value": dag_run}]
        return ask(server, "runs/create", body)["run"]["info"]["run_id"]

    made = {"pipeline": make("manual__1", execution="manual__1"), "old": make("manual__1", dvc_stage="align@dpo")}
    time.sleep(0.01)
    return made | {"new": make("manual__1", dvc_stage="align@dpo"), "other": make("manual__2", dvc_stage="pairs")}


def link(stage: str, dag_run: str = "manual__1") -> str:
    return MLflowRun(stage).get_link(None, ti_key=SimpleNamespace(run_id=dag_run))


def test_a_task_links_to_its_newest_run_or_to_that_of_the_pipeline(server, runs, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert link("align@dpo").endswith(f"/runs/{runs['new']}")
    assert link("pairs").endswith(f"/runs/{runs['pipeline']}"), "its stage was run before"
    assert link("pairs", "manual__2").endswith(f"/runs/{runs['other']}")
    assert link("pairs", "manual__3") == ""
    page = link("pairs")
    assert page.startswith("http://127.0.0.1:") and "/#/experiments/" in page
    assert SECRETS["MLFLOW_TRACKING_URI"] not in page and "@" not in page
    monkeypatch.setenv(PAGE, "https://mlflow.example.org/")
    assert link("pairs").startswith("https://mlflow.example.org/#/experiments/")


@pytest.mark.parametrize("server", ["", "sqlite:////tmp/mlflow.db", "http://me:hush@127.0.0.1:9"])
def test_without_a_server_there_is_no_link_and_no_failure(server, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert link("pairs") == ""
    said = capsys.readouterr().out
    assert ("no link to MLflow" in said) == server.startswith("http") and "hush" not in said
