"""`reelign serve` as a person starts it: addresses, a killed backend healed, nothing left behind."""

import asyncio
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from components.reward.score import RewardModel, Score
from components.serving.client import ClientOptions, RewardClient, Unanswered, score_remote
from components.serving.install import install_triton
from components.serving.management import managing
from components.serving.repository import FRONTS, MODEL, write_repository
from components.serving.served_log import read_served
from components.serving.server import STUB
from tests.running import all_below, command_of, until, until_gone
from tests.serving.conftest import PARAMS


@pytest.fixture(params=[1])
def processes(request) -> int:
    return request.param


@pytest.fixture
def serve(model_folder, processes, tmp_path):
    """The running command, with so many processes of the model, and what it has printed so far."""
    install_triton()
    repository, out = tmp_path / "model_repository", tmp_path / "out.txt"
    write_repository(repository, model_folder, PARAMS.model_copy(update={"processes": processes}))
    command = [sys.executable, "-m", "components.cli.main", "serve", repository, "--log", tmp_path / "triton.log"]
    command += ["--served", tmp_path / "served"]
    with open(out, "w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        until(lambda: "grpc://" in out.read_text() or process.poll() is not None, "addresses")
        yield process, out.read_text
    finally:
        process.terminate()
        process.wait(60)


def backends(process: subprocess.Popen) -> list[psutil.Process]:
    """The live processes that hold the model."""
    return [child for child in all_below(process.pid) if STUB in command_of(child)]


@pytest.mark.serving
@pytest.mark.parametrize("processes, number", [(1, signal.SIGINT), (2, signal.SIGTERM)], indirect=["processes"])
def test_killed_backend_is_healed_and_every_request_answered_or_failed_by_name(
    serve, processes, number, model_folder, videos, tmp_path, capsys
):
    process, printed = serve
    before = backends(process)
    url = re.search(r"grpc://\S+", printed()).group()
    items = [(video, f"a red circle {number}") for video in videos for number in range(30)]
    local = RewardModel.load(model_folder).score(items)

    async def until_back(client: RewardClient) -> float:
        """Seconds from now to the first score after a failure: nothing but the server is waited for. Where several hold the
        model, most of them answer until they are replaced."""
        begin, failed = time.monotonic(), False
        while not (isinstance(result := await client.score(*items[0]), Score) and failed):
            if not isinstance(result, Score):
                assert isinstance(result, Unanswered), result
                failed = True
            await asyncio.sleep(0.1)
        return time.monotonic() - begin

    async def load() -> tuple[list, float, float]:
        async with RewardClient(url, ClientOptions(attempts=1)) as hasty, RewardClient(url) as patient:
            assert isinstance(await patient.score(*items[0]), Score)
            running = asyncio.create_task(patient.score_many(items))
            await asyncio.sleep(0.5)
            assert len(before) == processes
            before[0].kill()
            killed = time.monotonic()
            async with asyncio.timeout(120):
                back = await until_back(hasty)
            return await running, back, time.monotonic() - killed

    served, back, through = asyncio.run(load())
    answered = 0
    for mine, theirs in zip(local, served, strict=True):
        if isinstance(theirs, Score):
            answered += 1
            assert theirs.normalised == pytest.approx(mine.normalised, abs=1e-5)
        else:
            assert isinstance(theirs, Unanswered), theirs
    until(lambda: "answers again" in printed(), "the healing told")
    until_gone(before)
    assert len(backends(process)) == processes
    logged = [row for row in read_served(tmp_path / "served", datetime(2000, 1, 1, tzinfo=UTC)) if row.reason is None]
    assert len(logged) >= answered + 2 and {row.words for row in logged} == {4}, "the two of before and after, and no probe"
    with capsys.disabled():
        told = f"service back {back:.1f} s after it, the last of them scored {through:.1f} s after it"
        print(f"\n{answered} of {len(items)} requests scored over kill -9; {told}")
    children = all_below(process.pid)
    process.send_signal(number)
    assert process.wait(60) == 0, printed()
    until_gone(children)
    assert not list(Path("/dev/shm").glob(f"reelign-{process.pid}-*"))


@pytest.mark.serving
def test_models_that_were_unloaded_are_loaded_again(serve, tmp_path, videos):
    """The server calls itself live and ready then, with nothing in it."""
    _, printed = serve
    url = re.search(r"http://\S+", printed()).group()
    with managing(url, tmp_path / "model_repository") as management:
        for name in (*FRONTS, MODEL):
            management.unload(name)
    until(lambda: "are loaded again" in printed(), "the loading told")
    assert isinstance(score_remote(url, [(videos[0], "a red circle")])[0], Score)


@pytest.mark.serving
def test_taken_port_ends_it_with_one_line(serve, tmp_path):
    _, printed = serve
    port = re.search(r"http://127.0.0.1:(\d+)", printed()).group(1)
    command = [sys.executable, "-m", "components.cli.main", "serve", tmp_path / "model_repository"]
    command += ["--http-port", port, "--log", tmp_path / "log"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: 127.0.0.1:{port}: something listens there already\n"
