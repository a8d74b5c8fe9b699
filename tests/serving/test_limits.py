"""Clips that are small as files and large in memory, and prompts of megabytes, amid normal requests: each gets its answer,
and the model's process its memory back."""

import asyncio
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from components.pipeline.memory import SpareMemory
from components.reward.score import Score
from components.serving.client import ClientOptions, RewardClient
from components.serving.repository import write_repository
from components.serving.server import serving
from tests.limits import write_flat
from tests.serving.conftest import PARAMS

pytestmark = pytest.mark.serving
FRAMES = 20_000  # the limit of this server


@pytest.fixture(scope="module")
def small_server(model_folder, tmp_path_factory):
    limits = PARAMS.limits.model_copy(update={"frames": FRAMES, "bytes": 1 << 27})
    repository = tmp_path_factory.mktemp("serving") / "model_repository"
    write_repository(repository, model_folder, PARAMS.model_copy(update={"limits": limits}))
    with serving(repository, tmp_path_factory.mktemp("log") / "triton.log") as server:
        yield server


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> dict[str, tuple[bytes, str | None]]:
    """Files by kind, with what the refusal says, or None for one that is scored."""
    folder = tmp_path_factory.mktemp("large")
    kinds = {
        "8K": (write_flat(folder / "8k.mp4", 7680, 4320, 6), None),
        "wider than 8K": (write_flat(folder / "wide.mp4", 8704, 4320, 1), "8704x4320 is"),
        "two minutes": (write_flat(folder / "long.mp4", 1280, 720, 240, 2), None),
        "tiny frames": (write_flat(folder / "tiny.mp4", 16, 16, FRAMES, 1000), None),
        "more tiny frames": (write_flat(folder / "more.mp4", 16, 16, FRAMES + 1, 1000), f"more than {FRAMES} frames"),
        "100 MB": (write_raw(folder / "raw.avi", 1920, 1080, 34), None),
        "more than 128 MiB": (write_raw(folder / "more.avi", 1920, 1080, 44), "a file of "),
    }
    assert 100e6 < kinds["100 MB"][0].stat().st_size < 1 << 27
    return {name: (path.read_bytes(), why) for name, (path, why) in kinds.items()}


def write_raw(path: Path, width: int, height: int, frames: int) -> Path:
    """Noise that nothing compresses."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as made:
        stream = made.add_stream("rawvideo", rate=8)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame(width, height, "yuv420p")
        for number in range(frames):
            for plane in picture.planes:
                plane.update(rng.bytes(plane.buffer_size))
            picture.pts = number
            made.mux(stream.encode(picture))
    return path


async def ask(client: RewardClient, videos: list[Path], large: dict[str, tuple[bytes, str | None]]) -> None:
    """Normal requests beside the large ones, all at once."""

    async def one(name: str, video: bytes | Path, prompt: str, why: str | None) -> None:
        answer = await client.score(video, prompt)
        assert isinstance(answer, Score) if why is None else why in answer.reason, (name, answer)

    async with asyncio.TaskGroup() as tasks:
        for number in range(24):
            tasks.create_task(one(f"normal {number}", videos[number % len(videos)], "a red circle", None))
        for name, (video, why) in large.items():
            tasks.create_task(one(name, video, "a red circle", why))
        why = "the prompt has 10400000 bytes; at most 10000 characters are read"
        tasks.create_task(one("prompt", videos[0], "a red circle " * 800_000, why))


def private(process: psutil.Process) -> int:
    """Bytes in memory that are the process's own; what Triton shares with it for requests is apart."""
    found = process.memory_info()
    return found.rss - found.shared


def test_large_clips_beside_normal_ones_are_answered_and_leave_no_memory_behind(small_server, videos, large):
    async def run() -> tuple[int, int, int]:
        async with RewardClient(f"grpc://{small_server.grpc}", ClientOptions(in_flight=16)) as client:
            (backend,) = small_server.backends()
            for _ in range(5):
                await ask(client, videos, {})
            before, peak, stop = private(backend), 0, asyncio.Event()

            async def watch() -> None:
                nonlocal peak
                while not stop.is_set():
                    peak = max(peak, private(backend))
                    await asyncio.sleep(0.02)

            watching = asyncio.create_task(watch())
            for _ in range(2):
                await ask(client, videos, large)
            stop.set()
            await watching
            await asyncio.sleep(SpareMemory.SECONDS)
            await ask(client, videos, {})
            assert small_server.backends() == [backend], "the same process all along"
            return before, peak, private(backend)

    before, peak, after = asyncio.run(run())
    assert peak - before < 1.2e9, "one 8K frame a thread as decoder, picture and resizing hold it, and a file of 100 MB"
    assert after < 1.1 * before
