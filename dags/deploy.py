"""DAG `deploy`: the newest reward model through the gate, to the server, and back if it does not serve as it should. Wiring
only."""

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import ShortCircuitOperator
from airflow.sdk import DAG, Param, TriggerRule

from components.errors import NO
from components.operation_params import OrchestrationParams
from components.params import load_params
from dags.asked import commit_param, profile_param
from dags.assets import NEW_REWARD_MODEL
from dags.runners import REPOSITORY, Command, folder, make_task

SERVED = "video_reward"  # the model that the server has; in full reelign-PROFILE-video-reward
# Where the gate finds what it compares on: pairs and videos of the one, figures of clips of the others.
STAGE = '{{ "reward_bench" if params.model.endswith("reward") else "evaluate" }}'
GATE = {"REELIGN_MODEL": "{{ params.model }}", "REELIGN_CHALLENGER": "{{ params.challenger or '' }}"}


def is_served(params: dict[str, Any]) -> bool:
    return params["model"].endswith("reward")


def add_tasks(settings: OrchestrationParams) -> None:
    """Make the tasks of the DAG that is being made."""
    resources = settings.resources_of("reward_bench")
    deploy = ["run-with", "reward_bench", "deploy", settings.serving.url, "--live", folder("live", settings)]
    deploy += ["--model", f"{SERVED}/champion"]
    slowest = ["--slowest", f"{settings.serving.slowest:g}"]

    promote = Command(["run-with", STAGE, "promote"], resources, GATE)
    promote = make_task("promote", promote, settings, skip_on_exit_code=NO)
    served = ShortCircuitOperator(task_id="is_served", python_callable=is_served)
    roll_over, verify, roll_back = (
        make_task(name, Command(deploy + words, resources, folders=["live"], manages=name != "verify"), settings)
        for name, words in {"roll_over": slowest, "verify": ["--verify"], "roll_back": ["--rollback"]}.items()
    )
    # Back only from what was rolled over: a version that was refused has changed nothing.
    refuted = EmptyOperator(task_id="refuted", trigger_rule=TriggerRule.ALL_FAILED)
    deployed = EmptyOperator(task_id="deployed")  # so that the run is red where verify is
    promote >> served >> roll_over >> verify >> [deployed, refuted]
    [roll_over, refuted] >> roll_back


with DAG(
    dag_id="deploy",
    description="Promote the challenger if it has earned it, and let Triton serve it",
    schedule=NEW_REWARD_MODEL,
    catchup=False,
    max_active_runs=1,
    params={
        "model": Param(SERVED, type="string", description="Or generator_dpo and the like, which is promoted alone"),
        "challenger": Param(None, type=["null", "string"], description="Number or alias; empty: the newest version"),
        "profile": profile_param("the retraining's"),
        "commit": commit_param("the retraining's"),
    },
    tags=["reelign"],
) as dag:
    add_tasks(load_params(REPOSITORY / "params.yaml").orchestration)
