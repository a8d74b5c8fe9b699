"""A real Prometheus with our configuration, a real Triton and gateway: what alerts and Grafana's panels ask for is there."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from components.pipeline.stage import write_json
from components.serving.install import install_triton
from components.serving.ports import free_ports
from components.serving.server import serving
from tests.running import until
from tests.serving.gateway.real import gateway_process

pytestmark = pytest.mark.monitoring
ALERTS, CONFIG = Path("infra/alerts.yaml"), Path("infra/prometheus.yaml")
PANELS = json.loads(Path("infra/grafana/reelign.json").read_text())["panels"]
# Their metrics are there only after another kind of request, or a failure.
AT_REST = {"nv_inference_request_failure", "reelign_served_log_lost_total"}


def test_each_alert_fires_on_its_fault_and_none_within_an_hour_of_health():
    done = subprocess.run(["promtool", "test", "rules", "infra/alerts_test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0 and "SUCCESS" in done.stdout, done.stdout + done.stderr
    tests = Path("infra/alerts_test.yaml").read_text()
    for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]:
        fires = [part for part in tests.split("alertname: ") if part.startswith(f"{rule['alert']}\n")]
        assert any("exp_labels" in part.split("eval_time")[0] for part in fires), f"no test in which {rule['alert']} fires"


@contextmanager
def prometheus(folder: Path, targets: dict[str, str]) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """A query of a Prometheus with our files, but these targets, a scrape a second, and alerts after two seconds."""
    config, rules = yaml.safe_load(CONFIG.read_text()), yaml.safe_load(ALERTS.read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    for rule in rules["groups"][0]["rules"]:
        rule["for"] = "2s"
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
    subprocess.run(["promtool", "check", "config", folder / "prometheus.yaml"], check=True, capture_output=True)
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)

    def query(expression: str) -> list[dict[str, Any]]:
        answer = requests.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}, timeout=10).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        return answer["data"]["result"]

    try:
        until(lambda: is_ready(f"http://127.0.0.1:{port}/-/ready"), "Prometheus")
        yield query
    finally:
        process.terminate()
        process.wait(30)


def is_ready(address: str) -> bool:
    try:
        return requests.get(address, timeout=2).status_code == 200
    except requests.ConnectionError:
        return False


def firing(query: Callable[[str], list[dict[str, Any]]]) -> set[str]:
    return {found["metric"]["alertname"] for found in query('ALERTS{alertstate="firing"}')}


def test_panels_and_alerts_find_what_they_ask_for(repository, videos, tmp_path):
    assert shutil.which("prometheus"), "`make test-monitoring` installs it"
    install_triton()
    record = {"until": "2026-01-01T00:00:00+00:00", "verdict": "drift", "clips": 300}
    write_json(tmp_path / "monitor.json", record | {"scores": {"TA": {"distance": 0.4, "drift": True}}})
    with serving(repository, tmp_path / "triton.log", served=tmp_path / "served") as triton:
        options = ("--monitor", str(tmp_path / "monitor.json"))
        with gateway_process(triton.grpc, tmp_path / "gateway.log", *options) as url:
            targets = {"triton": triton.metrics, "gateway": url.removeprefix("http://")}
            with prometheus(tmp_path, targets) as query:
                until(lambda: len(query("up == 1")) == 2, "both targets")
                for _ in range(3):
                    for video in videos:
                        sent = {"video": video.read_bytes()}, {"prompt": "a red circle"}
                        assert requests.post(f"{url}/v1/score", files=sent[0], data=sent[1]).status_code == 200
                    time.sleep(2)  # rates need samples before and after
                for panel in PANELS:
                    for target in panel["targets"]:
                        found = query(target["expr"].replace("$__rate_interval", "1m"))
                        assert found or any(name in target["expr"] for name in AT_REST), (panel["title"], target["expr"])
                until(lambda: {"Drift", "MonitorLate"} <= firing(query), "the alerts of the record")
                assert firing(query) == {"Drift", "MonitorLate"}
                triton.stop()
                until(lambda: "TargetDown" in firing(query), "the alert of a server that is gone")
