"""The curl line of the docs, as it stands there, and the command that it calls; with the stand-in and with a real Triton."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import requests

from components.reward.score import RewardModel, Score
from components.video.decode import read_frames
from tests.documented import blocks
from tests.running import until
from tests.serving.gateway.conftest import GOOD, gateway_process
from tests.serving.gateway.test_malformed import fire
from tests.serving.gateway.test_v1 import encoded
from tests.serving.gateway.test_wires import flow_factory, rewards_as_it_reads_them, unirl

PROMPT = "a red circle moving up"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


def documented(url: str, folder: Path) -> dict:
    (line,) = (body for _, body in blocks(Path("docs/how-to/gateway.md").read_text(), "sh") if "curl" in body)
    line = line.replace("http://127.0.0.1:8080", url)
    done = subprocess.run(["bash", "-euc", line], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_curl
def test_the_line_gets_a_score(url, triton, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(GOOD + bytes(range(256)))
    assert documented(url, tmp_path)["scores"] == triton.expected(GOOD + bytes(range(256)), PROMPT)


@pytest.fixture
def gateway(server, videos, tmp_path):
    with gateway_process(server.grpc, videos[0].parent, tmp_path / "log") as url:
        yield url


@pytest.mark.serving
def test_all_formats_get_the_local_scores(gateway, videos, model_folder, tmp_path):
    local = RewardModel.load(model_folder).score([(video, PROMPT) for video in videos])
    assert all(isinstance(score, Score) for score in local)
    overall = pytest.approx([score.overall for score in local], abs=1e-5)

    def mine(**source) -> float:
        answer = requests.post(f"{gateway}/v1/score", json={"prompt": PROMPT, **source})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["model_version"], told["frame_plan"]) == (local[0].model_version, local[0].frame_plan)
        return told["scores"]["Overall"]

    assert [mine(video=encoded(video.read_bytes())) for video in videos] == overall
    assert [mine(path=video.name) for video in videos] == overall
    items = [unirl(PROMPT, video_path=str(video)) for video in videos]
    told = requests.post(f"{gateway}/score", json={"requests": items}).json()
    assert [each["videoalign"]["Overall"] for each in told["results"]] == overall and told["errors"] == [{}] * len(videos)
    frames = [np.asarray(read_frames(video)) for video in videos]
    body = flow_factory([PROMPT] * len(videos), frames, fps=8)
    assert rewards_as_it_reads_them(requests.post(f"{gateway}/compute", json=body)) == overall
    if shutil.which("curl"):
        shutil.copyfile(videos[0], tmp_path / "clip.mp4")
        assert documented(gateway, tmp_path)["scores"] == pytest.approx(
            {"Overall": local[0].overall, **local[0].normalised}, abs=1e-5
        )
    bad = requests.post(f"{gateway}/v1/score", json={"prompt": PROMPT, "video": encoded(videos[0].read_bytes()[:100])})
    assert bad.status_code == 422 and bad.json().keys() == {"detail", "retry"}
    assert requests.get(f"{gateway}/health").json()["rewards"]["videoalign"]["model_version"] == local[0].model_version


@pytest.mark.serving
def test_malformed_requests_in_front_of_a_real_server(gateway, videos):
    import asyncio

    asyncio.run(fire(gateway, 300, seed=6))
    answer = requests.post(f"{gateway}/v1/score", json={"prompt": PROMPT, "path": videos[0].name})
    assert answer.status_code == 200


@pytest.mark.serving
def test_a_load_of_the_model_under_way_loses_no_request(gateway, server, repository, videos):
    """The same version is loaded again and again; clients get scores alone."""
    import threading

    import tritonclient.http as http

    from components.serving.access import HEADER, read_key
    from components.serving.repository import FRONTS

    statuses, ends = [], threading.Event()

    def call() -> None:
        while not ends.is_set():
            statuses.append(
                requests.post(f"{gateway}/v1/score", json={"prompt": PROMPT, "path": videos[0].name}).status_code
            )

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        with http.InferenceServerClient(server.http, network_timeout=120) as client:
            for front in FRONTS:
                client.load_model(front, headers={HEADER: read_key(repository)})
        until(lambda: len(statuses) > 40, "requests after it")
    finally:
        ends.set()
        for caller in callers:
            caller.join(120)
    assert set(statuses) == {200}


def test_the_command_refuses_what_cannot_be(tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "components.cli.main", "gateway", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    open_to_all = run("--triton", "http://127.0.0.1:1", "--host", "0.0.0.0")
    assert open_to_all.returncode == 2 and "--token-file" in open_to_all.stderr
    no_folder = run("--triton", "http://127.0.0.1:1", "--root", str(tmp_path / "none"))
    assert no_folder.returncode == 2 and "no such folder" in no_folder.stderr
