"""dvc.yaml as Airflow tasks: one task per stage, with the edges of the graph. run-stage decides whether a stage must run."""

import os
from pathlib import Path

from airflow.sdk import DAG, BaseOperator

from components.config.params import load_params
from components.pipeline.graph import edges, stage_names
from dags.runners import REPOSITORY, make_stage
from dags.timing import skip_late


def add_stages(dag: DAG) -> dict[str, BaseOperator]:
    """Make the tasks of `dag` with the runner of params.yaml; returns them by stage name."""
    here = Path.cwd()
    os.chdir(REPOSITORY)  # the graph is read relative to the checkout, wherever Airflow was started
    try:
        names, order, settings = stage_names(), edges(), load_params().orchestration
    finally:
        os.chdir(here)
    dag.max_active_tasks = settings.parallel
    after_others = {after for _, after in order}
    hooks = {name: None if name in after_others else skip_late for name in names}
    tasks = {name: make_stage(name, settings, dag=dag, pre_execute=hooks[name]) for name in names}
    for before, after in order:
        tasks[before] >> tasks[after]
    return tasks
