"""DAG `label`: choose what to label next, put it into Label Studio, wait for people, and update the asset `new_preferences`.
Wiring only."""

from typing import Any

from airflow.sdk import DAG, Param, chain, task

from components.config.operation import OrchestrationParams
from components.config.params import load_params
from components.errors import NO
from dags.alerts import deadline
from dags.asked import commit_param, profile_param
from dags.assets import NEW_PREFERENCES
from dags.runners import REPOSITORY, TOKEN, Command, folder, make_task

COUNT = "{{ params.count }}"


@task(outlets=[NEW_PREFERENCES])
def new_preferences(outlet_events: Any, run_id: str) -> None:
    """Update the asset, which starts a retraining."""
    outlet_events[NEW_PREFERENCES].extra = {"asked_by": "label", "run": run_id}


def add_tasks(settings: OrchestrationParams) -> None:
    """Add the tasks to the current DAG."""
    labelling, here = settings.labelling, folder("labels", settings)
    clips, scores, project = f"{here}/clips.csv", f"{here}/scores.parquet", f"{here}/project"
    url = ["--url", labelling.url]
    base = ["--base-url", labelling.base_url] if labelling.base_url else []
    reviewers = [word for reviewer in labelling.reviewers for word in ("--reviewer", reviewer)]
    # The reward model is an input of this stage.
    score = ["run-with", "reward_bench", "score", "--csv", clips, "--out", scores]
    export = ["annotate", "export", "--clips", clips, "--scores", scores, "--count", COUNT, "--out", project, *base]
    collect = ["annotate", "collect", project, "--out", f"{here}/annotations.csv", *url, *reviewers]
    collect += ["--ready", f"{labelling.ready:g}"]

    own, labels = settings.resources, ["labels"]
    commands = {
        "score": Command(score, settings.resources_of("reward_bench"), folders=labels),
        "choose": Command(export, own, folders=labels),
        "push": Command(["annotate", "push", project, *url], own, folders=labels, secrets=[TOKEN]),
        "wait_for_labels": Command(collect, own, folders=labels, secrets=[TOKEN], waits=labelling),
    }
    skips = {"choose": {"skip_on_exit_code": NO}}  # nothing is left to label
    tasks = [make_task(name, command, settings, **skips.get(name, {})) for name, command in commands.items()]
    chain(*tasks, new_preferences())  # pyright: ignore[reportCallIssue]


with DAG(
    dag_id="label",
    description="Choose pairs, have people label them in Label Studio, and retrain on their labels",
    schedule=None,
    catchup=False,
    max_active_runs=1,  # one project of tasks
    deadline=deadline("label"),
    params={
        "count": Param(100, type="integer", minimum=1, description="Pairs to label"),
        "profile": profile_param("params.yaml as it is"),
        "commit": commit_param("what is checked out"),
    },
    tags=["reelign"],
) as dag:
    add_tasks(load_params(REPOSITORY / "params.yaml").orchestration)
