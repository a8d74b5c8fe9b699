"""DAG `monitor`: every hour, have served scores drifted? Then a retraining is asked for, unless one was lately."""

from datetime import datetime, timedelta

import pendulum
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, TaskInstance, Variable

from components.errors import NO
from components.params import Params, load_params
from dags.runners import REPOSITORY, Command, folder, make_task
from dags.timing import on_time, skip_late

RETRAIN = "retrain"
ASKED = "reelign_drift_asked"  # variable: when, and as which run, drift last asked for a retraining
RUN = "drift__{{ run_id }}"  # one for each run of this DAG: a second try asks for the same again, which Airflow refuses


def may_ask(ti: TaskInstance, run: str, cooldown: float) -> bool:
    """Whether to ask for the retraining `run`; if so, that is written down."""
    if ti.get_dr_count(RETRAIN, states=["queued", "running"]):
        print("a retraining is under way")
        return False
    now, last = pendulum.now("UTC"), Variable.get(ASKED, default=None, deserialize_json=True)
    # What was written down counts if it was asked for indeed; written down by an earlier try of this task, it is ours.
    if last and last["run"] != run and ti.get_dr_count(RETRAIN, run_ids=[last["run"]]):
        until = datetime.fromisoformat(last["time"]) + timedelta(hours=cooldown)
        if now < until:
            print(f"{last['run']} was asked for at {last['time']}: no other before {until.isoformat()}")
            return False
    Variable.set(ASKED, {"run": run, "time": now.isoformat()}, serialize_json=True)
    return True


def add_tasks(params: Params) -> None:
    """Make the tasks of the DAG that is being made."""
    settings = params.orchestration
    words = ["monitor", "--require-drift", "--live", folder("live", settings), "--served", folder("served", settings)]
    drift = Command(words, settings.resources, folders=["live", "served"])
    drifted = make_task("drift", drift, settings, skip_on_exit_code=NO, pre_execute=skip_late)
    once = ShortCircuitOperator(
        task_id="may_ask",
        python_callable=may_ask,
        op_kwargs={"run": RUN, "cooldown": params.monitoring.cooldown},
        retries=settings.resources.retries,
    )
    ask = TriggerDagRunOperator(
        task_id="ask_for_retraining",
        trigger_dag_id=RETRAIN,
        trigger_run_id=RUN,
        conf={"asked_by": "monitor", "run": "{{ run_id }}", "why": "served scores have drifted"},
        note="Served scores have drifted: asked for by DAG `monitor`, whose task `drift` says by how much",
        skip_when_already_exists=True,
        retries=settings.resources.retries,
    )
    drifted >> once >> ask


with DAG(
    dag_id="monitor",
    description="Ask for a retraining where served scores have drifted",
    schedule=on_time("7 * * * *"),
    catchup=False,
    max_active_runs=1,
    tags=["reelign"],
) as dag:
    add_tasks(load_params(REPOSITORY / "params.yaml"))
