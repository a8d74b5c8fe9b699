"""DAG `deploy`: promote the newest reward model through the gate, serve it, and roll back where verification fails. Wiring
only."""

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG, Param, TriggerRule

from components.config.operation import OrchestrationParams
from components.config.params import load_params
from components.errors import NO
from components.serving.access import VARIABLE as KEY
from dags.alerts import deadline
from dags.asked import commit_param, profile_param
from dags.assets import NEW_REWARD_MODEL
from dags.runners import REPOSITORY, Command, folder, make_task

SERVED = "video_reward"  # the served model; in full reelign-PROFILE-video-reward
# The stage with the gate's data: pairs and videos for a reward model, figures of clips for a generator. Stages online@METHOD
# and round@K measure their own generators, online-METHOD and round-K.
METHOD = 'params.model.removeprefix("generator_").rpartition("-aligned-")[2]'
OF_METHOD = f'{METHOD}.replace("-", "@", 1) if {METHOD}.startswith(("online-", "round-")) else "evaluate"'
STAGE = f'{{{{ "reward_bench" if params.model.endswith("reward") else {OF_METHOD} }}}}'
GATE = {
    "REELIGN_MODEL": "{{ params.model }}",
    "REELIGN_CHALLENGER": "{{ params.challenger or '' }}",
    "REELIGN_REMEASURE": "{{ params.remeasure }}",
}


def is_served(params: dict[str, Any]) -> bool:
    return params["model"].endswith("reward")


def add_tasks(settings: OrchestrationParams) -> None:
    """Add the tasks to the current DAG."""
    resources = settings.resources_of("reward_bench")
    deploy = ["run-with", "reward_bench", "deploy", settings.serving.url, "--live", folder("live", settings)]
    deploy += ["--model", f"{SERVED}/champion"]
    max_latency_ratio = ["--max-latency-ratio", f"{settings.serving.max_latency_ratio:g}"]

    promote = Command(["run-with", STAGE, "promote"], resources, GATE)
    promote = make_task("promote", promote, settings, skip_on_exit_code=NO)
    served = ShortCircuitOperator(task_id="is_served", python_callable=is_served)
    commands = {
        "roll_over": Command(deploy + max_latency_ratio, resources, folders=["live"], secrets=[KEY]),
        "verify": Command([*deploy, "--verify"], resources, folders=["live"]),
        "roll_back": Command([*deploy, "--rollback"], resources, folders=["live"], secrets=[KEY]),
    }
    roll_over, verify, roll_back = (make_task(name, command, settings) for name, command in commands.items())
    # Roll back only after a rollover: a refused version has changed nothing.
    refuted = EmptyOperator(task_id="refuted", trigger_rule=TriggerRule.ALL_FAILED)
    deployed = EmptyOperator(task_id="deployed")  # so that the run fails where verify fails
    promote >> served >> roll_over >> verify >> [deployed, refuted]
    [roll_over, refuted] >> roll_back


with DAG(
    dag_id="deploy",
    description="Promote the challenger if it has earned it, and let Triton serve it",
    schedule=NEW_REWARD_MODEL,
    catchup=False,
    max_active_runs=1,
    deadline=deadline("deploy"),
    params={
        "model": Param(SERVED, type="string", description="Or generator_dpo and the like, which is promoted alone"),
        "challenger": Param(None, type=["null", "string"], description="Number or alias; empty: the newest version"),
        "remeasure": Param(False, type="boolean", description="Draw and judge a champion generator's clips anew"),
        "profile": profile_param("the retraining's"),
        "commit": commit_param("the retraining's"),
    },
    tags=["reelign"],
) as dag:
    add_tasks(load_params(REPOSITORY / "params.yaml").orchestration)
