"""What each runner makes of a task, whole, beside the files of golden/. `python -m tests.dags.test_runners` writes them."""

import json
import shlex
import socket
import subprocess
import tempfile
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("airflow", reason="needs the orchestrator environment: make test-dags")

import pendulum
from airflow.sdk import DAG, BaseOperator
from jinja2.sandbox import SandboxedEnvironment
from kubernetes.client import models as k8s

from components.config.operation import AlertsParams, OrchestrationParams
from components.config.params import Params, load_params
from components.errors import BadInput
from components.orchestration.images import own_commit
from dags import deploy, label, monitor
from dags.alerts import deadline_of
from dags.nodes import INDEX, reason_of, service_of
from dags.runners import REPOSITORY, TOKEN, make_stage

GOLDEN = Path(__file__).with_name("golden")
NODES = GOLDEN / "kubernetes-nodes-align.dpo.json"  # tests/infra holds it to Kubernetes' schemas
RUNNERS = ("local", "docker", "kubernetes")
STAGES = ("pairs", "align@dpo")
LABEL = ("score", "choose", "push", "wait_for_labels")
TASKS = (*STAGES, "promote", "roll_over", "verify", "roll_back", "drift", *LABEL)
ASKED = {"profile": "smoke", "commit": None, "force": ["align@dpo"]}
ASKED |= {"model": "video_reward", "challenger": None, "remeasure": False, "count": 60}
SERVING = {  # as it would be where a runner is used
    "local": {},
    "docker": {"url": "http://triton:8000", "live": "/srv/live", "served": "reelign_served"},
    "kubernetes": {"url": "http://triton:8000", "live": "reelign-live", "served": "reelign-served"},
}
LABELLING = {
    "local": {},
    "docker": {"folder": "reelign_labels"},
    "kubernetes": {"url": "https://label-studio.example.org", "base_url": "https://videos.example.org", "ready": 0.9},
}
DOCKER = (
    "image", "command", "environment", "user", "mounts", "mount_tmp_dir", "network_mode", "cpus", "mem_limit", "shm_size",
    "device_requests", "auto_remove", "privileged", "retries", "skip_on_exit_code",
)  # fmt: skip
POD = (
    "skip_on_exit_code",
    "startup_timeout_seconds",
    "on_finish_action",
    "durable",
    "deferrable",
    "retries",
    "log_events_on_failure",
)


KUBECONFIG = {  # of no cluster: a pod's description says where its maker runs
    "current-context": "none",
    "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:9"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {}}],
}


def params(runner: str) -> Params:
    """Profile wan2.1-14b's, which has GPUs."""
    whole = load_params(REPOSITORY / "infra/profiles/wan2.1-14b.yaml")
    serving = whole.orchestration.serving.model_copy(update=SERVING[runner])
    labelling = whole.orchestration.labelling.model_copy(update={"reviewers": ["boss@example.org"], **LABELLING[runner]})
    own = whole.orchestration.model_copy(update={"runner": runner, "serving": serving, "labelling": labelling})
    return whole.model_copy(update={"orchestration": own})


def settings(runner: str) -> OrchestrationParams:
    return params(runner).orchestration


def rendered(runner: str, name: str, events: dict | None = None, **asked) -> dict:
    with DAG("golden", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        if name in STAGES:
            make_stage(name, settings(runner))
        elif name == "drift":
            monitor.add_tasks(params(runner))
        elif name in LABEL:
            label.add_tasks(settings(runner))
        else:
            deploy.add_tasks(settings(runner))
    task = dag.get_task(name.replace("@", "."))
    context = {"run_id": "manual__1", "params": ASKED | asked, "triggering_asset_events": events or {}}
    task.render_template_fields(context | {"dag": dag, "task": task})
    known = {"operator": operator_of(task), "task_id": task.task_id}
    if runner == "local":
        env = {key: value.split(":")[0] for key, value in task.env.items()}
        known |= {"bash_command": task.bash_command, "env": env, "cwd": task.cwd, "append_env": task.append_env}
        known |= {"retries": task.retries, "skip_on_exit_code": task.skip_on_exit_code}
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
    text = json.dumps(known, default=str).replace(str(REPOSITORY), "REPOSITORY")
    return json.loads(text.replace(own_commit(), "COMMIT-OF-THE-CHECKOUT"))


def rendered_nodes() -> dict:
    """What the Kubernetes runner makes of a stage on two nodes: its Job and the Service of that."""
    own = settings("kubernetes")
    own = own.model_copy(update={"stages": own.stages | {"align": own.stages["align"] | {"nodes": 2}}})
    with DAG("golden", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        task = make_stage("align@dpo", own, dag=dag)
    context = {"run_id": "manual__1", "params": ASKED, "triggering_asset_events": {}}
    task.render_template_fields(context | {"dag": dag, "task": task})
    task.random_name_suffix = False
    known = {"operator": operator_of(task), "task_id": task.task_id, "pool": task.pool}
    known |= {key: getattr(task, key) for key in POD if key != "durable"}

    from kubernetes.client import ApiClient

    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(json.dumps(KUBECONFIG))
        file.flush()
        task.config_file = file.name
        job = task.build_job_request_obj()
    for metadata in (job.metadata, job.spec.template.metadata):
        del metadata.labels["airflow_version"]
    job.metadata.uid = "uid-of-the-server"
    service = ApiClient().sanitize_for_serialization(service_of(job))
    job.metadata.uid = None
    known |= {"job": ApiClient().sanitize_for_serialization(job), "service": service}
    return json.loads(json.dumps(known, default=str).replace(own_commit(), "COMMIT-OF-THE-CHECKOUT"))


def operator_of(task: BaseOperator) -> str:
    """Airflow's own operator below ours."""
    return next(kind.__name__ for kind in type(task).__mro__ if kind.__module__.startswith("airflow."))


def golden(runner: str, name: str) -> Path:
    return GOLDEN / f"{runner}-{name.replace('@', '.')}.json"


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_operators_are_as_written_down(runner, name):
    assert rendered(runner, name) == json.loads(golden(runner, name).read_text())


def test_a_stage_on_several_nodes_is_as_written_down():
    assert rendered_nodes() == json.loads(NODES.read_text())


def test_the_reason_of_a_failed_job_is_that_of_the_pod_that_failed_first():
    def pod(index: int, code: int, second: int, message: str | None) -> k8s.V1Pod:
        ended = k8s.V1ContainerStateTerminated(
            exit_code=code, message=message, reason="Error", finished_at=pendulum.datetime(2026, 1, 1, 0, 0, second)
        )
        status = k8s.V1ContainerStatus(
            name="base", image="i", image_id="i", ready=False, restart_count=0, state=k8s.V1ContainerState(terminated=ended)
        )
        metadata = k8s.V1ObjectMeta(name=f"pod-{index}", annotations={INDEX: str(index)})
        return k8s.V1Pod(metadata=metadata, status=k8s.V1PodStatus(container_statuses=[status]))

    pods = [
        pod(0, 1, 9, "RuntimeError: broken pipe"),
        pod(1, 2, 7, "step 3\nerror: clip.mp4: no video\n"),
        pod(2, 0, 1, None),
    ]
    assert reason_of(pods) == "node 1, pod pod-1, exit code 2: error: clip.mp4: no video"
    assert reason_of([pod(3, 137, 1, None)]) == "node 3, pod pod-3, exit code 137: Error"
    assert reason_of(pods[2:]) is None


def test_nodes_are_refused_where_they_make_no_sense():
    whole = settings("kubernetes").model_dump()
    for runner, stages, said in (
        ("kubernetes", {"curate": {"nodes": 2}}, r"orchestration\.stages\.curate\.nodes: stage curate runs on one node"),
        ("local", {"align@dpo": {"nodes": 2}}, r"orchestration\.stages\.align@dpo\.nodes: runner local starts one node"),
        ("docker", {"reward": {"nodes": 2}}, r"orchestration\.stages\.reward\.nodes: runner docker starts one node"),
    ):
        with pytest.raises(ValueError, match=said):
            OrchestrationParams.model_validate(whole | {"runner": runner, "stages": stages})
    with pytest.raises(ValueError, match=r"orchestration\.resources\.nodes is for all stages"):
        OrchestrationParams.model_validate(whole | {"resources": whole["resources"] | {"nodes": 2}})


def test_a_tasks_bash_reads_no_bashrc(tmp_path):
    """Its standard input is a socket, for which bash reads the file unless SHLVL counts a shell."""
    (tmp_path / ".bashrc").write_text("export PATH=/elsewhere:$PATH\n")
    task = rendered("local", "pairs")
    environment = {"HOME": str(tmp_path), **task["env"]}
    here, there = socket.socketpair()
    with here, there:
        for env, read in ((environment, False), ({**environment, "SHLVL": "0"}, True)):
            done = subprocess.run(["/bin/bash", "-c", "echo $PATH"], stdin=there, env=env, capture_output=True, text=True)
            assert ("/elsewhere:" in done.stdout) == read, done


def test_the_image_is_that_of_the_commit_that_is_asked_for():
    image = settings("docker").image
    assert rendered("docker", "pairs", commit="a1b2")["image"] == f"{image}:a1b2"
    with_tag = settings("docker").model_copy(update={"image": "localhost:5000/reelign:7"})
    with DAG("tagged", start_date=pendulum.datetime(2026, 1, 1), schedule=None):
        assert make_stage("pairs", with_tag).image == "localhost:5000/reelign:7"


def test_what_a_retraining_was_asked_is_asked_of_the_deployment():
    """A DAG run's own params come first."""
    extras = [
        {"commit": "old", "profile": "shapes"},
        {"commit": "c0ffee", "profile": "examples"},
        {"commit": None, "pairs": 3},
    ]
    for events, asked, commit in ((extras[:2], {}, "c0ffee"), (extras[:2], {"commit": "a1b2"}, "a1b2"), (extras, {}, "")):
        events = {"new_reward_model": [SimpleNamespace(extra=extra) for extra in events]}
        found = rendered("docker", "promote", events, **({"profile": None} | asked))
        assert found["environment"]["REELIGN_COMMIT"] == commit
        assert found["image"].rpartition(":")[2] == (commit or "COMMIT-OF-THE-CHECKOUT")
        assert found["environment"]["REELIGN_PROFILE"] == ("" if not commit else "examples")


def test_a_generator_is_compared_on_the_figures_of_its_clips():
    assert rendered("docker", "promote", model="generator_dpo")["command"] == ["reelign", "run-with", "evaluate", "promote"]
    command = rendered("local", "promote", model="generator_dpo")["bash_command"]
    assert shlex.split(command)[-3:] == ["run-with", "evaluate", "promote"]


def test_secrets_are_in_no_rendered_field(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    for runner in ("docker", "kubernetes"):
        assert "very-secret" not in json.dumps(rendered(runner, "pairs"))
    with DAG("secret", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        task = make_stage("pairs", settings("docker"), dag=dag)
    assert task._private_environment["AWS_SECRET_ACCESS_KEY"] == "very-secret"


def test_a_container_has_a_read_only_root_and_no_capabilities():
    with DAG("contained", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        task = make_stage("pairs", settings("docker"), dag=dag)

    from docker import APIClient

    task.__dict__["hook"] = type("Hook", (), {"api_client": APIClient(base_url="tcp://127.0.0.1:9", version="1.41")})()
    host = task.cli.create_host_config(privileged=False)
    assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"]


def test_stages_with_gpus_wait_for_their_pool():
    own = settings("docker").model_copy(update={"gpu_pool": "gpus"})
    with DAG("pools", start_date=pendulum.datetime(2026, 1, 1), schedule=None) as dag:
        make_stage("align@dpo", own)
        make_stage("pairs", own)
    assert (dag.get_task("align.dpo").pool, dag.get_task("pairs").pool) == ("gpus", "default_pool")


def test_a_deadline_calls_the_notifier_and_there_is_none_by_default():
    assert deadline_of("retrain", AlertsParams(notifier=None, arguments={}, deadlines={})) is None
    alerts = AlertsParams(notifier="tests.dags.told.Told", arguments={"file": "told"}, deadlines={"retrain": 36})
    found = deadline_of("retrain", alerts)
    assert found.interval == timedelta(hours=36) and found.callback.kwargs == {"file": "told"}
    assert deadline_of("deploy", alerts) is None
    with pytest.raises(ValueError, match="deadlines need a notifier"):
        AlertsParams(notifier=None, arguments={}, deadlines={"retrain": 36})
    with pytest.raises(BadInput, match=r"orchestration\.alerts\.notifier"):
        deadline_of("retrain", alerts.model_copy(update={"arguments": {"other": 1}}))


def test_the_token_is_named_as_its_reader_names_it():
    assert f'TOKEN = "{TOKEN}"\n' in (REPOSITORY / "components/annotation/studio.py").read_text()


@pytest.mark.parametrize(("path", "arguments"), [("no.such.Notifier", {}), ("tests.dags.told.Told", {"other": 1})])
def test_a_notifier_that_cannot_be_made_is_refused_by_its_key(path, arguments):
    alerts = AlertsParams(notifier=path, arguments=arguments, deadlines={})
    with pytest.raises(BadInput, match=r"orchestration\.alerts\.notifier"):
        make_stage("pairs", settings("local").model_copy(update={"alerts": alerts}))


if __name__ == "__main__":
    for runner in RUNNERS:
        for name in TASKS:
            text = json.dumps(rendered(runner, name), indent=1, sort_keys=True)
            golden(runner, name).write_text(text + "\n")
    NODES.write_text(json.dumps(rendered_nodes(), indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize(
    ("model", "stage"),
    [
        ("video_reward", "reward_bench"),
        ("reelign-smoke-video-reward", "reward_bench"),
        ("generator_dpo", "evaluate"),
        ("reelign-online-shop-aligned-dpo", "evaluate"),
        ("generator_online-nft", "online@nft"),
        ("reelign-smoke-aligned-online-nft", "online@nft"),
        ("generator_round-2", "round@2"),
    ],
)
def test_the_gate_reads_the_stage_that_measured_the_model(model, stage):
    assert SandboxedEnvironment().from_string(deploy.STAGE).render(params={"model": model}) == stage
