"""DAG `monitor`: an hourly test for drift of served scores; drift triggers a retraining, unless one was triggered lately."""

from datetime import datetime, timedelta

import pendulum
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, TaskInstance, Variable

from components.config.params import Params, load_params
from components.errors import NO
from dags.alerts import deadline
from dags.runners import REPOSITORY, Command, folder, make_task
from dags.timing import on_time, skip_late

RETRAIN = "retrain"
ASKED = "reelign_drift_asked"  # variable: time and run id of the last retraining triggered by drift
RECORD = "monitor.json"  # beside the served log; the gateway shows it to Prometheus
RUN = "drift__{{ run_id }}"  # unique per run of this DAG: a retry triggers the same run id, which Airflow rejects


def may_ask(ti: TaskInstance, run: str, cooldown: float) -> bool:
    """Whether to trigger the retraining `run`; if so, record it."""
    if ti.get_dr_count(RETRAIN, states=["queued", "running"]):
        print("a retraining is under way")
        return False
    now, last = pendulum.now("UTC"), Variable.get(ASKED, default=None, deserialize_json=True)
    # A record counts only if its run was triggered; one by an earlier try of this task is this run's.
    if last and last["run"] != run and ti.get_dr_count(RETRAIN, run_ids=[last["run"]]):
        until = datetime.fromisoformat(last["time"]) + timedelta(hours=cooldown)
        if now < until:
            print(f"{last['run']} was triggered at {last['time']}: no other before {until.isoformat()}")
            return False
    Variable.set(ASKED, {"run": run, "time": now.isoformat()}, serialize_json=True)
    return True


def add_tasks(params: Params) -> None:
    """Add the tasks to the current DAG."""
    settings = params.orchestration
    live, served = folder("live", settings), folder("served", settings)
    words = ["monitor", "--require-drift", "--live", live, "--served", served, "--out", f"{served}/{RECORD}"]
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
        note="Served scores have drifted: triggered by DAG `monitor`; see the log of its task `drift`",
        skip_when_already_exists=True,
        retries=settings.resources.retries,
    )
    drifted >> once >> ask


with DAG(
    dag_id="monitor",
    description="Trigger a retraining where served scores have drifted",
    schedule=on_time("7 * * * *"),
    catchup=False,
    max_active_runs=1,
    deadline=deadline("monitor"),
    tags=["reelign"],
) as dag:
    add_tasks(load_params(REPOSITORY / "params.yaml"))
