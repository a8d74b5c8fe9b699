"""DAG `label` run whole, with a stand-in for Label Studio, and its task that waits: what it does at each answer."""

import json
import re
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from components.errors import NO
from dags.waiting import waiting
from tests.dags.conftest import REPOSITORY, run_dag, tasks
from tests.dags.label_studio import TOKEN, Studio, serving

MAKE = """
import sys
from pathlib import Path
from tests.annotation.conftest import Clips, write_csv
folder = Path(sys.argv[1])
clips = Clips(folder / "clips.csv", folder, [])
for place, model in enumerate(("alpha", "beta", "gamma")):
    clips.add("a red circle moving left", model, (40 * place, 80, 120))
rows = [(path, prompt, "ok", "", place) for place, (path, prompt, _) in enumerate(clips.rows)]
write_csv(folder / "scores.csv", ["path", "prompt", "status", "reason", "raw_VQ"], rows)
"""


@pytest.fixture(scope="module")
def studio():
    studio = Studio(patience=3)
    with serving(studio) as url:
        studio.url = url
        yield studio


@pytest.fixture(scope="module")
def labels(checkout, studio) -> Path:
    """The checkout's folder `labels` with three clips and their scores, for a DAG that needs no model."""
    folder = checkout / "labels"
    folder.mkdir()
    python = REPOSITORY / ".venv-ml/bin/python"
    subprocess.run([python, "-c", MAKE, folder], cwd=REPOSITORY, check=True, capture_output=True)
    params = checkout / "params.yaml"
    before = params.read_text()
    own = before.replace("url: http://127.0.0.1:8080", f"url: {studio.url}").replace("poll: 10", "poll: 0.01")
    assert own.count(studio.url) == 1 and "poll: 0.01" in own
    params.write_text(own)
    file = checkout / "dags/label.py"
    source = file.read_text()
    file.write_text(source.replace("scores.parquet", "scores.csv") + 'dag.get_task("score").bash_command = "true"\n')
    yield folder
    params.write_text(before)
    file.write_text(source)


def test_pairs_are_chosen_pushed_waited_for_and_handed_to_a_retraining(labels, studio, checkout, environ):
    log = run_dag(checkout, environ | {"LABEL_STUDIO_API_KEY": TOKEN}, {"count": 2}, dag="label")
    assert log.rstrip().splitlines()[-1].endswith("success"), log[-6000:]
    assert {state for state, _ in tasks(environ).values()} == {"success"}
    assert len(studio.tasks) == 2 and studio.looks >= 4, "push, and three looks"
    assert log.count("0 of 2 new tasks are ready, 2 needed; 2 await annotators") == 2
    assert len((labels / "annotations.csv").read_text().splitlines()) == 1 + 2 * 3
    assert TOKEN not in log
    with sqlite3.connect(f"{environ['AIRFLOW_HOME']}/airflow.db") as base:
        [(extra,)] = base.execute(
            "select asset_event.extra from asset_event join asset on asset.id = asset_id"
            " where asset.name = 'new_preferences'"
        )
    assert json.loads(extra)["asked_by"] == "label"


def test_with_nothing_left_to_label_the_rest_is_skipped(labels, studio, checkout, environ):
    environ = environ | {"LABEL_STUDIO_API_KEY": TOKEN}
    assert run_dag(checkout, environ, {"count": 9}, dag="label").rstrip().endswith("success")
    before = (labels / "annotations.csv").read_bytes()
    run_dag(checkout, environ, {"count": 9}, dag="label")
    states = {task: state for task, (state, _) in tasks(environ).items()}
    assert states.pop("score") == "success" and set(states.values()) == {"skipped"}
    assert (labels / "annotations.csv").read_bytes() == before


@pytest.fixture
def waits():
    operator = waiting(BashOperator, timedelta(minutes=10), timedelta(days=2))
    return lambda code: operator(task_id="waits", bash_command=f"exit {code}")


def began(days: float) -> dict:
    now = datetime.now(UTC)
    return {"dag_run": SimpleNamespace(start_date=now - timedelta(days=days)), "ti": SimpleNamespace(xcom_push=print)}


def test_by_no_it_looks_again_after_a_while_until_its_patience_is_over(waits):
    waits(0).execute(began(days=3))
    for look in (waits(NO).execute, lambda context: waits(NO).resume_execution("look_again", {"event": None}, context)):
        with pytest.raises(TaskDeferred) as deferred:
            look(began(days=1))
        assert deferred.value.method_name == "look_again"
        ahead = deferred.value.trigger.moment - datetime.now(UTC)
        assert timedelta(minutes=9) < ahead <= timedelta(minutes=10)
        with pytest.raises(AirflowFailException, match="still no, 2 days after"):
            look(began(days=3))


@pytest.mark.parametrize("code", [1, 2, 99])
def test_a_failure_is_no_answer(waits, code):
    with pytest.raises(AirflowException, match=re.compile(f"exit code {code}")):
        waits(code).execute(began(days=1))
