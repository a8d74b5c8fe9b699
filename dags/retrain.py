"""DAG `retrain`: the whole pipeline, weekly, on new preferences, or by hand. Wiring only."""

from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule, task

from dags.alerts import deadline
from dags.asked import commit_param, profile_param, stages_param
from dags.assets import NEW_PREFERENCES, NEW_REWARD_MODEL
from dags.pipeline import add_stages
from dags.timing import on_time


@task(outlets=[NEW_REWARD_MODEL])
def new_reward_model(params: dict[str, Any], outlet_events: Any) -> None:
    """Update the asset, with commit and params for the DAGs that it triggers."""
    outlet_events[NEW_REWARD_MODEL].extra = {key: params[key] for key in ("commit", "profile")}


with DAG(
    dag_id="retrain",
    description="Retrain VideoReward, align the generator with it, evaluate (dvc.yaml)",
    schedule=AssetOrTimeSchedule(timetable=on_time("0 3 * * 0"), assets=[NEW_PREFERENCES]),
    catchup=False,
    deadline=deadline("retrain"),
    max_active_runs=1,  # labels that arrive during a run start one more run together
    params={
        "profile": profile_param("params.yaml as it is"),
        "commit": commit_param("what is checked out"),
        "force": stages_param("Stages to run again, e.g. reward"),
    },
    tags=["reelign"],
) as dag:
    stages = add_stages(dag)
    [stage for stage in stages.values() if not stage.downstream_task_ids] >> new_reward_model()  # pyright: ignore[reportCallIssue]
