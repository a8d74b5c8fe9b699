"""Versions come and go behind the gateway under load: no request is lost, and each score is that of the version named."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from components.pipeline.stage import folder_digest
from components.reward.score import RewardModel
from components.serving.deploy import deploy, rollback
from components.serving.install import install_triton
from components.serving.repository import write_repository
from components.serving.server import serving
from tests.running import until
from tests.serving.conftest import PARAMS
from tests.serving.gateway.real import gateway_process
from tests.serving.gateway.test_v1 import encoded
from tests.serving.gateway.test_wires import unirl
from tests.serving.test_deploy import other

PROMPT = "a red circle"
CLIENTS = 6


class Load:
    """Clients that ask all the time, each by one of the gateway's formats, and are never told to try again."""

    def __init__(self, url, videos):
        self.url, self.videos, self.end = url, videos, threading.Event()
        self.answers = []  # status, video, model version and scores; None where there are none

    def __enter__(self):
        self.pool = ThreadPoolExecutor(CLIENTS)
        self.done = [self.pool.submit(self.one, number) for number in range(CLIENTS)]
        return self

    def __exit__(self, *_):
        self.end.set()
        self.pool.shutdown()
        for client in self.done:
            client.result()

    def one(self, number):
        place = number % len(self.videos)
        video = encoded(self.videos[place].read_bytes())
        with requests.Session() as session:
            while not self.end.is_set():
                if number % 2:
                    answer = session.post(f"{self.url}/v1/score", json={"prompt": PROMPT, "video": video})
                    told = answer.json()
                    found = told.get("model_version"), told.get("scores")
                else:
                    body = {"requests": [unirl(PROMPT, video_b64=video)]}
                    answer = session.post(f"{self.url}/score", json=body)
                    told = answer.json()
                    found = told["identities"][0]["scorer_version"], told["results"][0].get("videoalign")
                self.answers.append((answer.status_code, place, *found))


@pytest.mark.serving
def test_two_swaps_and_a_rollback_behind_the_gateway_lose_no_request(model_folder, videos, tmp_path, capsys):
    install_triton()
    live = tmp_path / "live"
    write_repository(live, model_folder, PARAMS)
    second, third = other(model_folder, tmp_path / "second", 1.5), other(model_folder, tmp_path / "third", 2.5)
    sample = [(video, PROMPT) for video in videos]
    with serving(live, tmp_path / "triton.log") as server:
        url = f"http://{server.http}"
        with gateway_process(server.grpc, tmp_path / "gateway.log", "--in-flight", "4") as gateway:
            with Load(gateway, videos) as load:

                def answered_by(model) -> None:
                    digest = folder_digest(model)
                    until(lambda: digest in {answer[2] for answer in load.answers[-CLIENTS:]}, "an answer of it")

                answered_by(model_folder)
                assert deploy(url, live, second, sample, PARAMS, max_latency_ratio=50) == 2
                answered_by(second)
                assert deploy(url, live, third, sample, PARAMS, max_latency_ratio=50) == 3
                answered_by(third)
                assert rollback(url, live, PARAMS) == 2
                answered_by(second)
            health = requests.get(f"{gateway}/health").json()["rewards"]["videoalign"]["model_version"]
            assert health == folder_digest(second)
    lost = [answer for answer in load.answers if answer[0] != 200 or not answer[3]]
    assert not lost, lost[:3]
    expected = {
        (folder_digest(model), place): {"Overall": score.overall, **score.normalised}
        for model in (model_folder, second, third)
        for place, score in enumerate(RewardModel.load(model).score(sample))
    }
    assert {version for _, _, version, _ in load.answers} == {version for version, _ in expected}
    for _, place, version, scores in load.answers:
        assert scores == pytest.approx(expected[version, place], abs=1e-5)
    with capsys.disabled():
        print(f"\n{len(load.answers)} requests of {CLIENTS} clients over two swaps and a rollback: 0 lost")
