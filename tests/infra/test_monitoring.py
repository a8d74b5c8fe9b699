"""Prometheus, Grafana and its dashboard: what names what. The metrics that panels ask for: tests/serving/test_metrics.py."""

import json
from pathlib import Path

import pytest
import yaml

from tests.infra.manifests import references

COMPOSE = yaml.safe_load(Path("infra/compose.yaml").read_text())
DASHBOARD = json.loads(Path("infra/grafana/reelign.json").read_text())
MONITORING = {"prometheus", "grafana"}


def test_monitoring_is_asked_for():
    assert {name for name, service in COMPOSE["services"].items() if "profiles" in service} == MONITORING
    assert all(COMPOSE["services"][name]["profiles"] == ["monitoring"] for name in MONITORING)


def test_prometheus_reads_what_triton_and_the_gateway_serve():
    config = yaml.safe_load(Path("infra/prometheus.yaml").read_text())
    found = set()
    for job in config["scrape_configs"]:
        [target] = job["static_configs"][0]["targets"]
        service, _, port = target.partition(":")
        assert any(port == published.rsplit(":", 1)[1] for published in COMPOSE["services"][service]["ports"])
        found.add(service)
    assert found == {"triton", "gateway"}


def test_grafana_finds_its_source_and_its_dashboard():
    [source] = yaml.safe_load(Path("infra/grafana/datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    asked = [found["uid"] for found in references(DASHBOARD, "datasource")]
    assert len(asked) >= len(DASHBOARD["panels"]) and set(asked) == {source["uid"]}
    [provider] = yaml.safe_load(Path("infra/grafana/dashboards.yaml").read_text())["providers"]
    mounted = {volume.split(":")[0]: volume.split(":")[1] for volume in COMPOSE["services"]["grafana"]["volumes"]}
    assert Path(mounted["./grafana/reelign.json"]).parent == Path(provider["options"]["path"])
    assert mounted["./grafana/datasource.yaml"].startswith("/etc/grafana/provisioning/datasources/")
    assert mounted["./grafana/dashboards.yaml"].startswith("/etc/grafana/provisioning/dashboards/")


def test_panels_are_told_apart_and_do_not_overlap():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["targets"] and len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_parentheses_of_queries_match(panel):
    for target in panel["targets"]:
        query = target["expr"]
        assert all(query.count(opened) == query.count(closed) for opened, closed in ("()", "{}", "[]")), query
