"""DAG `retrain` run whole on the smoke profile by the local runner, then with a stage that fails. Minutes."""

import json
import re
import sqlite3

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dag-runs")

from tests import planted
from tests.dags.conftest import SECRETS, TOLD, leaks, run_dag, tasks


@pytest.fixture(scope="module")
def whole(checkout, environ) -> tuple[str, dict[str, tuple[str, float]]]:
    return run_dag(checkout, environ, {"force": []}), tasks(environ)


def test_the_whole_dag_is_green(whole, checkout, environ):
    log, states = whole
    assert log.rstrip().splitlines()[-1].endswith("success"), log[-6000:]
    assert {state for state, _ in states.values()} == {"success"} and len(states) == 23
    assert (checkout / ".reelign/trees/evaluate/report/index.html").exists()
    # One DAG run is one pipeline execution in MLflow, though every stage had a tree of its own.
    with sqlite3.connect(checkout / "mlflow.db") as base:
        own = "from tags join runs using (run_uuid) join experiments e using (experiment_id) where e.name = 'reelign-smoke'"
        runs = {run for (run,) in base.execute(f"select distinct value {own} and key = 'airflow.run_id'")}
        parents = base.execute(f"select count(*) {own} and key = 'execution'").fetchone()[0]
        stages = dict(base.execute(f"select run_uuid, value {own} and key = 'dvc.stage'").fetchall())
    assert len(runs) == 1 and parents == 1
    # Each task links to the run of its stage, and the address has no password.
    links = linked(environ)
    assert {stages[link.rpartition("/")[2]].replace("@", "."): link for link in links.values()} == {
        task: link for task, link in links.items()
    }
    assert set(links) == set(states) - {"new_reward_model"}
    assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+/#/experiments/\d+/runs/\w{32}", link) for link in links.values())


def linked(environ) -> dict[str, str]:
    """Addresses in MLflow by task, of the latest DAG run."""
    with sqlite3.connect(f"{environ['AIRFLOW_HOME']}/airflow.db") as base:
        return {
            task: json.loads(value)
            for task, value in base.execute(
                "select task_id, value from xcom where key = '_link_MLflowRun'"
                " and run_id = (select run_id from dag_run order by id desc limit 1)"
            )
        }


def test_orchestration_costs_little_beside_the_stages(whole):
    log, states = whole
    """A stage's own time is that of its process, from the start of the interpreter."""
    own: dict[str, float] = {}
    for name, seconds in re.findall(r"\[([\w@]+)\] (?:loaded|done) in ([\d.]+) s", log):
        task = name.replace("@", ".")
        own[task] = own.get(task, 0.0) + float(seconds)
    assert set(own) == set(states) - {"new_reward_model"}
    beside = sum(seconds - own.get(name, 0) for name, (_, seconds) in states.items()) / len(own)
    print(f"DAG run: {sum(own.values()):.0f} s in {len(own)} stages, {beside:.1f} s a task beside them")


def test_again_nothing_runs_and_a_forced_stage_does(whole, checkout, environ):
    log = run_dag(checkout, environ, {"force": ["curate"]})
    assert re.findall(r"Running stage '([\w@]+)'", log) == ["curate"]
    assert log.count("was run before, restored") == 21


def test_a_failing_stage_turns_the_dag_red_with_its_own_message(whole, checkout, environ):
    log = run_dag(checkout, environ, {"profile": "broken"})
    assert log.rstrip().splitlines()[-1].endswith("failed")
    assert "labels.csv, row 2, key 'VQ'" in log
    states = {task: state for task, (state, _) in tasks(environ).items()}
    assert states["source"] == "failed" and states["base_generator"] == "success"
    assert {states[name] for name in ("measure", "reward", "align.dpo", "evaluate")} == {"upstream_failed"}
    assert states["new_reward_model"] == "upstream_failed", "no event of a new model"
    told = (checkout.parent / TOLD).read_text().splitlines()
    assert [line.split(" of ")[0] for line in told] == ["source"], "the notifier is called for the stage that failed alone"


def test_secrets_of_a_whole_retraining_are_written_nowhere(whole, checkout):
    """After whole, forced and failing runs: logs of tasks, Airflow's database, MLflow's store and log, metrics, models."""
    base = checkout.parent
    there = {path.name for path in base.rglob("*") if path.is_file()}
    assert {"retrain-None.log", "retrain-broken.log", "airflow.db", "mlflow.db", "mlflow.log", "reward_bench.json"} <= there
    assert list((base / "remote").rglob("executions/*/evaluate.yaml")), "the remote was used"
    assert leaks(checkout) == []
    assert planted.open_to_all(base) == []
    private = [path for path in base.rglob(".dvc/config.local") if SECRETS["REELIGN_REMOTE"] in path.read_text()]
    assert len(private) > 20, "the search sees what it looks for"
