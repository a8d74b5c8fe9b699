"""The DAG is the graph of dvc.yaml. Runs in the orchestrator environment: `make test-dags`."""

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

from airflow.dag_processing.dagbag import DagBag

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dag():
    bag = DagBag(str(REPOSITORY / "dags"))
    assert bag.import_errors == {}
    return bag.dags["retrain"]


def test_edges_are_dvcs(dag):
    """Compared with what DVC itself says, not with our own reading of dvc.yaml."""
    dot = subprocess.run(
        [REPOSITORY / ".venv-ml/bin/dvc", "dag", "--dot"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    said = {tuple(part.strip(' ";') for part in line.split("->")) for line in dot.splitlines() if "->" in line}
    theirs = {(a.replace("@", "."), b.replace("@", ".")) for a, b in said if not a.startswith("pretrain")}
    ours = {(task.task_id, after) for task in dag.tasks for after in task.downstream_task_ids}
    assert ours == theirs and len(ours) > 20


def test_a_task_runs_its_stage(dag):
    assert dag.get_task("align.dpo").bash_command == "dvc repro --single-item align@dpo"
    assert dag.max_active_tasks == 1
