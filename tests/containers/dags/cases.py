"""DAGs of the tests, by dags/runners.py: each of REELIGN_CASES is {"stages": [...], "profile", "orchestration": what differs
from the smoke profile's, "change": what a task has otherwise than its runner says, where a container has only to fail}."""

import json
import os

import pendulum
from airflow.sdk import DAG

from components.config.operation import OrchestrationParams
from components.config.params import load_params
from dags.runners import REPOSITORY, make_stage

settings = load_params(REPOSITORY / "infra/profiles/smoke.yaml").orchestration.model_dump()
for name, case in json.loads(os.environ["REELIGN_CASES"]).items():
    own = OrchestrationParams.model_validate(settings | case["orchestration"])
    params = {"profile": case.get("profile", "smoke"), "commit": None, "force": []}
    with DAG(name, schedule=None, start_date=pendulum.datetime(2026, 1, 1), params=params) as dag:
        before = None
        for stage in case["stages"]:
            task = make_stage(stage, own, dag=dag)
            for key, value in case.get("change", {}).items():
                setattr(task, key, value)
            if before:
                before >> task
            before = task
