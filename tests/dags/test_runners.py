"""What each runner makes of a stage, whole, beside the files of golden/. `python -m tests.dags.test_runners` writes them."""

import json
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

import pendulum
from airflow.sdk import DAG

from components.operation_params import OrchestrationParams
from components.params import load_params
from dags.runners import REPOSITORY, make_task

GOLDEN = Path(__file__).with_name("golden")
RUNNERS = ("local", "docker", "kubernetes")
STAGES = ("pairs", "align@dpo")
ASKED = {"profile": "smoke", "commit": None, "force": ["align@dpo"]}
DOCKER = (
    "image", "command", "environment", "user", "mounts", "mount_tmp_dir", "network_mode", "cpus", "mem_limit", "shm_size",
    "device_requests", "auto_remove", "privileged", "retries",
)  # fmt: skip
POD = ("startup_timeout_seconds", "on_finish_action", "durable", "deferrable", "retries", "log_events_on_failure")


KUBECONFIG = {  # of no cluster: a pod's description says where its maker runs
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
}


def settings(runner: str) -> OrchestrationParams:
    """Profile wan2.1-14b's, which has GPUs."""
    return load_params(REPOSITORY / "infra/profiles/wan2.1-14b.yaml").orchestration.model_copy(update={"runner": runner})


def rendered(runner: str, stage: str) -> dict:
    with DAG("golden", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        task = make_task(stage, settings(runner), dag=dag)
    task.render_template_fields({"run_id": "manual__1", "params": ASKED, "dag": dag, "task": task})
    known = {"operator": type(task).__mro__[1 if runner == "docker" else 0].__name__, "task_id": task.task_id}
    if runner == "local":
        env = {key: value.split(":")[0] for key, value in task.env.items()}
        known |= {"bash_command": task.bash_command, "env": env, "cwd": task.cwd, "append_env": task.append_env}
        known["retries"] = task.retries
    elif runner == "docker":
        known |= {key: getattr(task, key) for key in DOCKER}
    else:
        task.random_name_suffix = False
        known |= {key: getattr(task, key) for key in POD}
        from kubernetes.client import ApiClient

        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(json.dumps(KUBECONFIG))
            file.flush()
            task.config_file = file.name
            known["pod"] = ApiClient().sanitize_for_serialization(task.build_pod_request_obj())
        del known["pod"]["metadata"]["labels"]["airflow_version"]
    return json.loads(json.dumps(known, default=str).replace(str(REPOSITORY), "REPOSITORY"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("runner", RUNNERS)
def test_operators_are_as_written_down(runner, stage):
    assert rendered(runner, stage) == json.loads((GOLDEN / f"{runner}-{stage.replace('@', '.')}.json").read_text())


def test_secrets_are_in_no_rendered_field(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    for runner in ("docker", "kubernetes"):
        assert "very-secret" not in json.dumps(rendered(runner, "pairs"))
    with DAG("secret", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        task = make_task("pairs", settings("docker"), dag=dag)
    assert task._private_environment["AWS_SECRET_ACCESS_KEY"] == "very-secret"


def test_a_container_has_a_read_only_root_and_no_capabilities():
    with DAG("contained", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        task = make_task("pairs", settings("docker"), dag=dag)

    from docker import APIClient

    task.__dict__["hook"] = type("Hook", (), {"api_client": APIClient(base_url="tcp://127.0.0.1:9", version="1.41")})()
    host = task.cli.create_host_config(privileged=False)
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]


if __name__ == "__main__":
    for runner in RUNNERS:
        for stage in STAGES:
            text = json.dumps(rendered(runner, stage), indent=1, sort_keys=True)
            (GOLDEN / f"{runner}-{stage.replace('@', '.')}.json").write_text(text + "\n")
