"""DAG `retrain`: the whole pipeline once a week, when there are new preferences, or by hand. Wiring only."""

import pendulum
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param

from dags.pipeline import add_stages

NEW_PREFERENCES = Asset("new_preferences", uri="reelign://preferences")  # whoever adds labels makes its event
NEW_REWARD_MODEL = Asset("new_reward_model", uri="reelign://reward-model")  # trained, measured and packaged

with DAG(
    dag_id="retrain",
    description="Retrain VideoReward, align the generator with it, evaluate (dvc.yaml)",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 3 * * 0", timezone="UTC"), assets=[NEW_PREFERENCES]),
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,  # labels that come while one runs wait, together, for the next
    params={
        "profile": Param(None, type=["null", "string"], description="infra/profiles/NAME.yaml; empty: params.yaml as it is"),
        "commit": Param(None, type=["null", "string"], description="Of this repository; empty: what is checked out"),
        "force": Param([], type="array", items={"type": "string"}, description="Stages to run again, e.g. reward"),
    },
    tags=["reelign"],
) as dag:
    stages = add_stages(dag)
    done = EmptyOperator(task_id="new_reward_model", outlets=[NEW_REWARD_MODEL])
    [task for task in stages.values() if not task.downstream_task_ids] >> done
