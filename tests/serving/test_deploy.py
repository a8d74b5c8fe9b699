"""Versions come and go under load, on a real server: no request fails."""

import asyncio
import json
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.cli.serving import copy_once
from components.errors import BadInput, Unreachable
from components.pipeline.stage import folder_digest
from components.reward.score import RewardModel, Score, Unscored
from components.serving import deploy as deployment
from components.serving.access import make_key
from components.serving.client import ClientOptions, RewardClient, score_remote
from components.serving.deploy import Rejected, deploy, rollback, serving_version
from components.serving.install import install_triton
from components.serving.management import managing
from components.serving.record import loaded_by_config
from components.serving.repository import MODEL, write_repository
from components.serving.server import serving
from tests.running import until
from tests.serving.conftest import PARAMS


def other(model_folder, folder, mean: float):
    """A model with other scores: the same weights, normalised otherwise."""
    shutil.copytree(model_folder, folder)
    facts = json.loads((folder / "video_reward.json").read_text())
    facts["normalisation"]["VQ"]["mean"] = mean
    (folder / "video_reward.json").write_text(json.dumps(facts))
    return folder


class Load:
    """Eight clients that ask all the time and are never asked to try again."""

    def __init__(self, url, videos):
        self.url, self.videos, self.end = url, videos, threading.Event()
        self.asked, self.results = [], []

    def __enter__(self):
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()

    async def run(self):
        async with RewardClient(self.url, ClientOptions(attempts=1)) as client, asyncio.TaskGroup() as clients:
            for number in range(8):
                clients.create_task(self.one(client, number))

    async def one(self, client, number):
        video = self.videos[number % len(self.videos)]
        while not self.end.is_set():
            self.results.append(await client.score(video, "a red circle"))
            self.asked.append(video)


@pytest.mark.serving
@pytest.mark.parametrize("seconds", [0, pytest.param(300, marks=pytest.mark.serving_load)])
def test_two_swaps_and_a_rollback_lose_no_request(model_folder, videos, tmp_path, capsys, seconds):
    """Every answer is the score of the version that gave it. `seconds`: how long the load lasts at least."""
    install_triton()
    live = tmp_path / "live"
    write_repository(live, model_folder, PARAMS)
    second, third = other(model_folder, tmp_path / "second", 1.5), other(model_folder, tmp_path / "third", 2.5)
    sample = [(video, "a red circle") for video in videos]
    with serving(live, tmp_path / "triton.log") as server:
        url = f"http://{server.http}"

        def served() -> str:
            return score_remote(url, sample[:1])[0].model_version

        with Load(f"grpc://{server.grpc}", videos) as load:

            def answered_by(model) -> None:
                """A version serves until one of the eight was answered by it, however fast the next one comes."""
                digest = folder_digest(model)
                until(lambda: digest in {getattr(r, "model_version", None) for r in load.results[-8:]}, "an answer")
                assert served() == digest
                time.sleep(seconds / 4)

            answered_by(model_folder)
            assert deploy(url, live, second, sample, PARAMS, max_latency_ratio=50) == 2
            answered_by(second)
            assert deploy(url, live, third, sample, PARAMS, max_latency_ratio=50) == 3
            answered_by(third)
            assert loaded_by_config(live) == [2, 3]
            assert rollback(url, live, PARAMS) == 2
            answered_by(second)
            with pytest.raises(BadInput, match="version 2 serves, and none before it is on record"):
                rollback(url, live, PARAMS)
            answered_by(second)
        failed = [result for result in load.results if not isinstance(result, Score)]
        assert not failed, failed[:3]
        models = {folder_digest(folder): RewardModel.load(folder) for folder in (model_folder, second, third)}
        assert {result.model_version for result in load.results} == models.keys()
        expected = {
            (version, video): score
            for version, model in models.items()
            for (video, _), score in zip(sample, model.score(sample), strict=True)
        }
        for video, result in zip(load.asked, load.results, strict=True):
            assert result.normalised == pytest.approx(expected[result.model_version, video].normalised, abs=1e-5)
    with capsys.disabled():
        print(f"\n{len(load.results)} requests of 8 clients over two swaps and a rollback: 0 failed")


@pytest.mark.serving
def test_what_is_wrong_never_serves(model_folder, videos, tmp_path, monkeypatch):
    """One that does not load, one whose sample has no scores, one that scores otherwise than offline, a slow one; by the
    command, which says so in a line and ends with code 1."""
    install_triton()
    live = tmp_path / "live"
    copy_once(repository_of(tmp_path, model_folder), live)
    damaged, second = other(model_folder, tmp_path / "damaged", 3.5), other(model_folder, tmp_path / "second", 1.5)
    weights = next(damaged.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    (tmp_path / "none.mp4").write_bytes(b"no video")
    lists = {name: tmp_path / f"{name}.csv" for name in ("good", "bad")}
    lists["good"].write_text("path,prompt\n" + "".join(f"{video},a red circle\n" for video in videos))
    lists["bad"].write_text("path,prompt\nnone.mp4,a red circle\n")
    with serving(live, tmp_path / "triton.log") as server:
        url = f"http://{server.http}"

        def refused(model, sample, *options) -> str:
            told = CliRunner().invoke(
                app, ["deploy", url, "--live", str(live), "--model", str(model), "--csv", str(sample), *options]
            )
            assert told.exit_code == 1, (told.output, told.exception)
            assert serving_version(live) == 1 and not (live / MODEL / "2").exists()
            assert score_remote(url, [(videos[0], "a red circle")])[0].model_version == folder_digest(model_folder)
            return told.stderr

        assert "error: version 2" in refused(damaged, lists["good"])
        assert "no score to compare" in refused(second, lists["bad"])
        assert "a request, the serving version takes" in refused(second, lists["good"], "--max-latency-ratio", "0")
        monkeypatch.setattr(RewardModel, "load", lambda *_, load=RewardModel.load, **options: load(model_folder, **options))
        assert "offline" in refused(second, lists["good"], "--max-latency-ratio", "50")
        monkeypatch.undo()
        told = CliRunner().invoke(
            app,
            [
                "deploy",
                url,
                "--live",
                str(live),
                "--model",
                str(second),
                "--csv",
                str(lists["good"]),
                "--max-latency-ratio",
                "50",
            ],
        )
        assert told.exit_code == 0 and "version 2 serves" in told.stdout
        told = CliRunner().invoke(app, ["deploy", url, "--live", str(live), "--rollback"])
        assert told.exit_code == 0 and "version 1 serves again" in told.stdout
        told = CliRunner().invoke(app, ["deploy", url, "--live", str(live), "--rollback"])
        assert isinstance(told.exception, BadInput) and told.exit_code != 0 and serving_version(live) == 1


@pytest.mark.serving
def test_asked_again_it_changes_nothing(model_folder, videos, tmp_path):
    """What serves already, a switch that was cut short, a rollback asked for twice, and scores that are not the model's."""
    install_triton()
    live = tmp_path / "live"
    copy_once(repository_of(tmp_path, model_folder), live)
    second = other(model_folder, tmp_path / "second", 1.5)
    sample = [(video, "a red circle") for video in videos]
    with serving(live, tmp_path / "triton.log") as server:
        url = f"http://{server.http}"
        assert deployment.serves_already(url, live, second, PARAMS) is None
        assert deployment.serves_already(url, live, model_folder, PARAMS) == 1
        with pytest.raises(Rejected) as caught:
            deployment.verify(url, second, sample, PARAMS)
        side = r"VQ -?\d+\.\d{6}, MQ -?\d+\.\d{6}, TA -?\d+\.\d{6} by model [0-9a-f]{16}"
        assert re.fullmatch(rf"{re.escape(str(videos[0]))}: served {side}, offline {side}", str(caught.value))
        deployment.verify(url, model_folder, sample, PARAMS)

        assert deploy(url, live, second, sample, PARAMS, max_latency_ratio=50) == 2
        front = live / "video_reward_file/config.pbtxt"
        front.write_text(deployment.front_config(live, "video_reward_file", PARAMS, 1))
        load(url, live, "video_reward_file")  # as if killed between the two
        assert score_remote(url, sample[:1])[0].model_version == folder_digest(model_folder)
        assert deployment.serves_already(url, live, second, PARAMS) == 2
        assert (
            score_remote(url, sample[:1])[0].model_version
            == folder_digest(second)
            == folder_digest(deployment.serving_model(live))
        )
        deployment.verify(url, second, sample, PARAMS)

        assert rollback(url, live, PARAMS, second) == 1
        assert rollback(url, live, PARAMS, second) is None and serving_version(live) == 1
        deployment.verify(url, model_folder, sample, PARAMS)
        front.write_text(deployment.front_config(live, "video_reward_file", PARAMS, 2))
        load(url, live, "video_reward_file")  # as if killed in the rollback
        assert rollback(url, live, PARAMS) == 1
        deployment.verify(url, model_folder, sample, PARAMS)


def test_a_server_that_is_away_is_named(model_folder, tmp_path):
    live = repository_of(tmp_path, model_folder)
    told = CliRunner().invoke(app, ["deploy", "http://127.0.0.1:9", "--live", str(live), "--model", str(model_folder)])
    assert isinstance(told.exception, Unreachable) and "127.0.0.1:9: no Triton server answers" in str(told.exception)


class Answers(BaseHTTPRequestHandler):
    """Every request is answered by the class's status and text; None drops the connection."""

    status, text = 404, ""

    def do_GET(self):
        if self.status is None:
            return
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.text)))
        self.end_headers()
        self.wfile.write(self.text.encode())

    do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "not here"), (200, "<html>a page</html>"), (200, "[]"), (200, "{}"), (503, "busy"), (None, "")],
)
@pytest.mark.parametrize("options", [[], ["--verify"], ["--rollback"]])
def test_what_answers_and_is_no_triton_is_named(model_folder, videos, tmp_path, monkeypatch, status, text, options):
    live, sample = repository_of(tmp_path, model_folder), tmp_path / "sample.csv"
    make_key(live)
    sample.write_text(f"path,prompt\n{videos[0]},a red circle\n")
    deployment.write_deployment(live, deployment.Deployment(serving=1, before=None, verified=[1], rolled_back="0" * 16))
    monkeypatch.setattr(deployment, "offline_scores", lambda *_: [Unscored("none")])
    server = HTTPServer(("127.0.0.1", 0), type("Fixed", (Answers,), {"status": status, "text": text}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        command = ["deploy", url, "--live", str(live), "--model", str(model_folder), "--csv", str(sample), *options]
        told = CliRunner().invoke(app, command)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert isinstance(told.exception, Unreachable) and str(told.exception).startswith(f"{url}: "), told.exception
    assert "no Triton server" in str(told.exception) and "\n" not in str(told.exception)


def test_addresses_that_are_none_and_hosts_that_are_not_there(model_folder, tmp_path):
    live = repository_of(tmp_path, model_folder)
    make_key(live)

    def told(url):
        return CliRunner().invoke(app, ["deploy", url, "--live", str(live), "--model", str(model_folder)]).exception

    assert isinstance(told("http://no-such-host.invalid:8000"), Unreachable)
    for port in ("notaport", "99999"):
        assert isinstance(told(f"http://127.0.0.1:{port}"), BadInput)


@pytest.mark.parametrize("command", [["monitor"], ["deploy", "http://127.0.0.1:9", "--rollback"]])
@pytest.mark.parametrize("what", ["nothing", "bytes"])
def test_a_folder_that_is_no_repository_is_named(tmp_path, command, what):
    live, front = tmp_path / "live", tmp_path / "live/video_reward/config.pbtxt"
    (live / MODEL).mkdir(parents=True)
    if what == "bytes":
        front.parent.mkdir()
        front.write_bytes(b"\xff\xfe")
    told = CliRunner().invoke(app, [*command, "--live", str(live)]).exception
    assert isinstance(told, BadInput) and str(told).startswith(f"{front}: "), told
    assert ("reelign serve --live" if what == "nothing" else "UTF-16") in str(told)


def load(url, live, name):
    with managing(url, live) as management:
        management.load(name)


def repository_of(folder, model_folder):
    write_repository(folder / "packaged", model_folder, PARAMS)
    return folder / "packaged"


def test_nothing_to_roll_back_to_is_bad_input(model_folder, tmp_path):
    write_repository(tmp_path, model_folder, PARAMS)
    with pytest.raises(BadInput, match="version 1 serves, and none before"):
        rollback("http://127.0.0.1:1", tmp_path, PARAMS)
