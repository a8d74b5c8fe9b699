"""DAG `retrain`: the whole pipeline once a week, or by hand. Wiring only."""

import pendulum
from airflow.sdk import DAG

from dags.pipeline import add_stages

with DAG(
    dag_id="retrain",
    description="Retrain VideoReward, align the generator with it, evaluate (dvc.yaml)",
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    max_active_tasks=1,  # DVC locks its work tree: one stage at a time in one checkout
    tags=["reelign"],
) as dag:
    add_stages(dag)
