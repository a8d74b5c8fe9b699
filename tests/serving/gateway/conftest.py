"""The gateway on a real port, with a stand-in for Triton."""

import asyncio
import hashlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn

from components.reward.scores import Score, Unscored
from components.serving.client import Unanswered
from components.serving.gateway.app import create_app
from components.serving.gateway.options import GatewayOptions
from components.serving.gateway.run import listen
from tests.running import heed_interrupts, until

VERSION, PLAN = "0123456789abcdef", "8frames 64-1024px/8"
GOOD = b"good "  # the first bytes of a video that the stand-in scores


class FakeTriton:
    """Scores that follow from bytes and prompt, in place of RewardClient. `gate` holds them back; `missing`: it is gone."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, str]] = []
        self.under_way = self.most = 0
        self.gate: asyncio.Event | None = None
        self.missing = False

    def expected(self, content: bytes, prompt: str) -> dict[str, float]:
        digest = hashlib.sha256(content + prompt.encode()).digest()
        scores = {name: digest[place] / 64 - 2 for place, name in enumerate(("VQ", "MQ", "TA"))}
        return {"Overall": sum(scores.values())} | scores

    async def score(self, video, prompt: str):
        self.seen.append((video, prompt))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await (self.gate.wait() if self.gate else asyncio.sleep(0))
        finally:
            self.under_way -= 1
        content = video if isinstance(video, bytes) else GOOD + video.frames.tobytes()
        if self.missing:
            return Unanswered("no answer from the server in 10 attempt(s): gone")
        if not prompt.strip():
            return Unscored("the prompt is empty")
        if not content.startswith(GOOD):
            return Unscored("not a video: \ud800")
        scores = self.expected(content, prompt)
        overall = scores.pop("Overall")
        overall = float("nan") if content == GOOD + b"nan" else overall
        return Score(dict.fromkeys(scores, 0.5), scores, overall, VERSION, PLAN)

    async def facts(self) -> dict[str, str]:
        return {"model_version": VERSION, "frame_plan": PLAN}

    async def ready(self) -> bool:
        return not self.missing


@contextmanager
def running(triton, **options) -> Iterator[str]:
    """The address of a gateway in front of `triton`."""
    with listen("127.0.0.1", 0) as listening:
        config = uvicorn.Config(
            create_app(triton, GatewayOptions(**options)), log_level="error", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextmanager
def gateway_process(grpc: str, root: Path, said: Path, *options: str) -> Iterator[str]:
    """The address of `reelign gateway` in front of a real server; it ends by a signal, with exit status 130."""
    command = [sys.executable, "-m", "components.cli.main", "gateway", "--triton", f"grpc://{grpc}"]
    command += ["--port", "0", "--root", str(root), "--in-flight", "4", *options]
    with said.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=heed_interrupts)
        try:
            until(lambda: process.poll() is not None or "in front of" in said.read_text(), "the gateway's address")
            yield re.search(r"http://[\d.:]+", said.read_text())[0]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130, said.read_text()
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def triton() -> FakeTriton:
    return FakeTriton()


@pytest.fixture
def root(tmp_path):
    """A folder with a clip in it, beside one that callers must not read."""
    (tmp_path / "clips/inner").mkdir(parents=True)
    (tmp_path / "clips/inner/a.mp4").write_bytes(GOOD + b"a")
    (tmp_path / "secret.mp4").write_bytes(GOOD + b"secret")
    return (tmp_path / "clips").resolve()


@pytest.fixture
def url(triton, root) -> Iterator[str]:
    with running(triton, root=root, most_bytes=100_000, most_items=5, frame_rate=8.0) as url:
        yield url
