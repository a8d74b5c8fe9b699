"""What a real Triton says of the reward model after requests: its log, its figures, and `reelign monitor` over them."""

import json
import re
import shutil
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.pipeline.stage import folder_digest, write_json
from components.reward.score import Clip, RewardModel, Score, Unscored
from components.reward.train import reference
from components.serving.backend_metrics import FRAMES, LOST, REQUESTS, SCORES
from components.serving.client import score_remote
from components.serving.deploy import deploy, rollback
from components.serving.install import install_triton
from components.serving.management import managing
from components.serving.repository import MODEL, write_repository
from components.serving.served_log import read_served
from components.serving.server import Triton, serving
from components.serving.watch import probe
from tests.serving.conftest import PARAMS, clip

DASHBOARD = Path("infra/grafana/reelign.json")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
PROMPT = "a red circle moving up"


@pytest.fixture(scope="module")
def model(model_folder, tmp_path_factory):
    """The tiny model, with the distribution of its scores of dark noise."""
    folder = tmp_path_factory.mktemp("referenced") / "video_reward"
    shutil.copytree(model_folder, folder)
    dark = [(Clip(clip(seed, 9, 32, 32).frames // 8, 8.0), PROMPT) for seed in range(120)]
    scores = RewardModel.load(folder).score(dark)
    facts = json.loads((folder / "video_reward.json").read_text())
    normalised = np.array([[*score.normalised.values()] for score in scores])
    facts["reference"] = reference(normalised, facts["dimensions"]).model_dump()
    write_json(folder / "video_reward.json", facts)
    return folder


@pytest.fixture
def live(model, tmp_path):
    install_triton()
    write_repository(tmp_path / "live", model, PARAMS)
    return tmp_path / "live"


def figures(server: Triton) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Every series by the name of its metric: (labels, value)."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for name, labels, value in (
        re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line).groups() for line in lines if line[0] != "#"
    ):
        found.setdefault(name, []).append((dict(re.findall(r'(\w+)="([^"]*)"', labels or "")), float(value)))
    return found


def total(found, name: str, **labels: str) -> float:
    return sum(value for own, value in found[name] if labels.items() <= own.items())


def asked_for() -> set[str]:
    """Metrics that the dashboard's queries name."""
    queries = [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel["targets"]]
    return {name for query in queries for name in re.findall(r"\b(?:nv|reelign)_\w+", query)}


@pytest.mark.serving
def test_requests_are_logged_and_counted_and_our_own_are_not(live, model, videos, tmp_path):
    items = [(clip(0, 9, 32, 32), PROMPT), (videos[0], PROMPT), (videos[1], "a b"), (clip(1, 2, 32, 32), PROMPT)]
    (tmp_path / "none.mp4").write_bytes(b"no video")
    items += [(tmp_path / "none.mp4", PROMPT), (videos[2], "")]
    with serving(live, tmp_path / "triton.log", served=tmp_path / "served") as server:
        before = figures(server)
        results = score_remote(server.http, items)
        probe(server, live, "1")
        found = figures(server)
    assert server.process.returncode == 0, server.last_lines()
    assert "egmentation" not in (tmp_path / "triton.log").read_text()
    assert [isinstance(result, Score) for result in results] == [True, True, True, False, False, False]

    rows = {(row.video, row.frames, row.prompt): row for row in read_served(tmp_path / "served", LONG_AGO)}
    assert len(rows) == len(items), "the warm-up and the probe are not among them"
    sizes = [("frames", 9, 32, 32, 8.0), ("file", 9, 32, 32, 8.0), ("file", 17, 48, 24, 24.0)]
    for size, result in zip(sizes, results, strict=False):
        [row] = [row for row in rows.values() if (row.video, row.frames, row.height, row.width, row.fps) == size]
        assert row.normalised == pytest.approx(result.normalised) and row.overall == pytest.approx(result.overall)
        assert row.model_version == result.model_version == folder_digest(model)
    refused = [row for row in rows.values() if row.reason is not None]
    assert sorted(row.reason for row in refused) == sorted(
        result.reason for result in results if isinstance(result, Unscored)
    )
    assert "circle" not in "".join(path.read_text() for path in (tmp_path / "served").iterdir())

    assert total(before, REQUESTS) == total(before, f"{SCORES}_count") == 0, "the warm-up is not counted"
    assert total(found, REQUESTS, outcome="scored") == total(found, REQUESTS, outcome="refused") == 3
    assert total(found, FRAMES, video="frames") == 4 and total(found, FRAMES, video="file") == 8
    assert total(found, LOST) == 0
    assert {(own["version"], own["model_version"]) for own, _ in found[REQUESTS]} == {("1", folder_digest(model))}
    scored = [result for result in results if isinstance(result, Score)]
    for name in ("VQ", "MQ", "TA", "Overall"):
        values = [(result.normalised | {"Overall": result.overall})[name] for result in scored]
        assert total(found, f"{SCORES}_count", dimension=name) == 3
        assert total(found, f"{SCORES}_sum", dimension=name) == pytest.approx(sum(values), abs=1e-5)
        assert total(found, f"{SCORES}_bucket", dimension=name, le="0") == sum(value <= 0 for value in values)
    assert asked_for() - found.keys() == set(), "the dashboard asks for what is not there"


@pytest.mark.serving
def test_figures_live_through_loads_and_deployments(live, model, videos, tmp_path):
    """Two processes of one model share metric families; a second one's going must not take the first one's counters."""
    other = tmp_path / "other"
    shutil.copytree(model, other)
    facts = json.loads((other / "video_reward.json").read_text())
    facts["normalisation"]["VQ"]["mean"] = 1.5
    (other / "video_reward.json").write_text(json.dumps(facts))
    sample = [(video, PROMPT) for video in videos]
    with serving(live, tmp_path / "triton.log", served=tmp_path / "served") as server:
        url = f"http://{server.http}"
        assert deploy(url, live, other, sample, PARAMS, max_latency_ratio=50) == 2
        assert total(figures(server), REQUESTS) == 0, "the deployment's own requests are not counted"
        score_remote(url, sample)
        rollback(url, live, PARAMS)
        score_remote(url, sample)
        found = figures(server)
        versions = {"1": folder_digest(model), "2": folder_digest(other)}
        for version, digest in versions.items():
            assert total(found, REQUESTS, version=version, model_version=digest) == len(sample)
        for _ in range(3):
            with managing(url, live) as management:
                management.unload(MODEL)
                management.load(MODEL)
            assert all(isinstance(result, Score) for result in score_remote(url, sample))
        assert {own["version"] for own, _ in figures(server)[REQUESTS]} == set(versions)
    assert server.process.returncode == 0, server.last_lines()
    rows = list(read_served(tmp_path / "served", LONG_AGO))
    assert len(rows) == 5 * len(sample), "the deployment's own requests are not logged"


@pytest.mark.serving
def test_a_log_that_cannot_be_written_fails_no_request_and_is_seen(live, tmp_path):
    (tmp_path / "taken").write_text("")
    with serving(live, tmp_path / "triton.log", served=tmp_path / "taken") as server:
        assert all(isinstance(result, Score) for result in score_remote(server.http, [(clip(0, 9, 32, 32), PROMPT)] * 3))
        assert total(figures(server), LOST) == 3
    assert (tmp_path / "triton.log").read_text().count("log of served requests: ") == 1


@pytest.mark.serving
def test_noise_is_drift_and_clips_like_the_references_are_not(live, model, tmp_path):
    def monitored(clips: list[Clip], name: str):
        served = tmp_path / name
        with serving(live, tmp_path / "triton.log", served=served) as server:
            assert all(
                isinstance(result, Score) for result in score_remote(f"grpc://{server.grpc}", [(c, PROMPT) for c in clips])
            )
        command = ["monitor", "--model", str(model), "--served", str(served), "--out", str(tmp_path / f"{name}.json")]
        told = CliRunner().invoke(app, command)
        return told, json.loads((tmp_path / f"{name}.json").read_text())

    noise = [clip(seed, 9, 32, 32) for seed in range(1000, 1220)]
    dark = [Clip(clip.frames // 8, 8.0) for clip in noise]
    told, record = monitored(noise, "noise")
    assert told.exit_code == 5 and record["verdict"] == "drift" and record["clips"] == 220, told.output
    told, record = monitored(dark, "dark")
    assert told.exit_code == 0 and record["verdict"] == "no drift" and record["clips"] == 220, told.output
