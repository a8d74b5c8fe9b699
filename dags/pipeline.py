"""dvc.yaml as Airflow tasks: a task a stage, the edges those of the graph. DVC decides whether a stage has to run."""

import os
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

from components.graph import edges, stage_names

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / ".venv-ml/bin"


def add_stages(dag: DAG) -> dict[str, BashOperator]:
    """Make the tasks of `dag`, by stage name. A task runs its stage alone, in the ml environment of this checkout."""
    here = Path.cwd()
    os.chdir(REPOSITORY)  # the graph is read relative to the checkout, wherever Airflow was started
    try:
        names, order = stage_names(), edges()
    finally:
        os.chdir(here)
    tasks = {
        name: BashOperator(
            dag=dag,
            task_id=name.replace("@", "."),
            bash_command=f"dvc repro --single-item {name}",
            cwd=str(REPOSITORY),
            env={"PATH": f"{ENVIRONMENT}:{os.environ['PATH']}"},
            append_env=True,
        )
        for name in names
    }
    for before, after in order:
        tasks[before] >> tasks[after]
    return tasks
