"""dvc.yaml as Airflow tasks: one task per stage in groups, with the edges of the graph that no others imply. run-stage
decides whether a stage must run."""

import os
from pathlib import Path

from airflow.sdk import DAG, BaseOperator, TaskGroup

from components.config.params import load_params
from components.pipeline.graph import GROUPS, direct_edges, group_of, stage_definition, stage_names
from dags.runners import REPOSITORY, make_stage
from dags.timing import skip_late


def add_stages(dag: DAG) -> dict[str, BaseOperator]:
    """Make the tasks of `dag` with the runner of params.yaml; returns them by stage name."""
    here = Path.cwd()
    os.chdir(REPOSITORY)  # the graph is read relative to the checkout, wherever Airflow was started
    try:
        names, order, settings = stage_names(), direct_edges(), load_params().orchestration
        texts = {name: about(name) for name in names}
    finally:
        os.chdir(here)
    dag.max_active_tasks = settings.parallel
    after_others = {after for _, after in order}
    hooks = {name: None if name in after_others else skip_late for name in names}
    groups = {name: TaskGroup(name, prefix_group_id=False, dag=dag) for name in GROUPS if name in map(group_of, names)}
    tasks = {
        name: make_stage(
            name, settings, dag=dag, task_group=groups[group_of(name)], pre_execute=hooks[name], doc_md=texts[name]
        )
        for name in names
    }
    for before, after in order:
        tasks[before] >> tasks[after]
    return tasks


def about(name: str) -> str:
    """What a stage does, as Markdown: its command, what it reads besides code, and what it writes."""
    stage = stage_definition(name)
    inputs = [dep for dep in stage["deps"] if not dep.startswith("components/")]

    def listed(title: str, paths: list[str]) -> str:
        return f"**{title}**\n\n" + "\n".join(f"- `{path}`" for path in paths or ["nothing"])

    parts = [f"{stage['desc']}.", f"`{stage['cmd']}`, run by `reelign run-stage {name}`", listed("Reads", inputs)]
    return "\n\n".join([*parts, listed("Writes", stage["outs"]), listed("Params", stage["params"])])
