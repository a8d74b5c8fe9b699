"""VideoReward on Triton compared with the same engine in this process, on the same clips in the same run.

    python benchmarks/serving.py [--model models/video_reward] [--clips 200] [--repeats 3] [--side 32]

Requests per second and latency with 1, 8 and 32 clients, dynamic batching on and off, frames and encoded videos. Then the
two ways of scoring alternate, for a ratio that is robust on a busy machine. Clients are tasks of this process, over gRPC: on
a small machine they share its cores with the server. The overhead of a request is nearly constant, so the ratio holds for
this model only: --side gives larger clips and lets the model read all their pixels.
"""

import asyncio
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from reward import shapes_clips

from components.config.params import PackageParams, load_params
from components.files.text import read_json
from components.pipeline.memory import keep_freed_memory
from components.pipeline.stage import write_json
from components.reward.card import CARD
from components.reward.score import Clip, RewardModel, Score
from components.serving.client import ClientOptions, RewardClient
from components.serving.install import install_triton
from components.serving.repository import MODEL, write_repository
from components.serving.server import serving
from components.video.decode import read_frames

Items = list[tuple[bytes | Clip, str]]
CLIENTS = (1, 8, 32)
FRAMES, FPS = 9, 8
GOAL = 0.85


def main(
    model: Annotated[Path, typer.Option(help="Folder of a VideoReward.")] = Path("models/video_reward"),
    clips: Annotated[int, typer.Option(help="Requests of a measurement.")] = 200,
    repeats: Annotated[int, typer.Option(help="Turns of the comparison.")] = 3,
    clients: Annotated[list[int] | None, typer.Option(help="[default: 1, 8, 32]")] = None,
    side: Annotated[int, typer.Option(help="Pixels a side of the clips.")] = 32,
) -> None:
    """Print a table, then the ratios."""
    keep_freed_memory()  # as the server does
    install_triton()
    params = load_params().package
    with tempfile.TemporaryDirectory() as folder:
        paths, encoded, frames = shapes(Path(folder) / "clips", clips, side)
        model = that_sees(model, side, Path(folder) / "model")
        engine = RewardModel.load(model, token_budget=params.token_budget)
        engine.score(paths[:32])
        for batching in (False, True):
            repository = Path(folder) / f"repository-{batching}"
            write_repository(repository, model, params)
            if not batching:
                one_by_one(repository, params)
            with serving(repository, Path(folder) / "triton.log") as server:
                url = f"grpc://{server.grpc}"
                for what, items in (("frames", frames), ("encoded", encoded)):
                    asyncio.run(ask(url, items[:32], 8))  # warm-up: the first forward passes take longer
                    for count in clients or CLIENTS:
                        seconds, latencies = asyncio.run(ask(url, items, count))
                        report(batching, what, count, len(items) / seconds, latencies)
                if batching:
                    for what, items, local in (("frames", frames, frames), ("encoded", encoded, paths)):
                        compare(engine, url, what, items, local, repeats)


def that_sees(model: Path, side: int, folder: Path) -> Path:
    """The model with a frame plan that does not resize clips of this size; its scores are then meaningless."""
    facts = read_json(model / CARD)
    if side * side <= facts["frame_plan"]["max_pixels"]:
        return model
    shutil.copytree(model, folder)
    facts["frame_plan"]["max_pixels"] = side * side
    write_json(folder / CARD, facts)
    return folder


def shapes(folder: Path, count: int, side: int) -> tuple[Items, Items, Items]:
    """The same clips of the shapes world as files, as bytes and as frames, with their prompts."""
    paths = shapes_clips(folder, count, side, FRAMES)
    encoded = [(path.read_bytes(), prompt) for path, prompt in paths]
    frames = [(Clip(read_frames(path), FPS), prompt) for path, prompt in paths]
    return paths, encoded, frames


def one_by_one(repository: Path, params: PackageParams) -> None:
    """Remove dynamic batching from a repository's configuration."""
    config = repository / MODEL / "config.pbtxt"
    text, found = re.subn(r"dynamic_batching \{.*?\n\}\n", "", config.read_text(), flags=re.DOTALL)
    assert found == 1
    config.write_text(text)


async def ask(url: str, items: Items, clients: int) -> tuple[float, list[float]]:
    """Seconds for all items with `clients` concurrent requests, and the latency of each."""
    latencies: list[float] = []
    numbered = iter(items)

    async def work(client: RewardClient) -> None:
        for video, prompt in numbered:
            start = time.perf_counter()
            result = await client.score(video, prompt)
            latencies.append(time.perf_counter() - start)
            assert isinstance(result, Score), result

    async with RewardClient(url, ClientOptions(in_flight=clients, attempts=1)) as client:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for _ in range(clients):
                workers.create_task(work(client))
        return time.perf_counter() - start, latencies


def report(batching: bool, what: str, clients: int, rate: float, latencies: list[float]) -> None:
    p50, p95, p99 = (1000 * value for value in np.quantile(latencies, (0.5, 0.95, 0.99)))
    say(
        f"batching {'on ' if batching else 'off'}  {what:7}  {clients:2} clients  {rate:6.1f} requests/s  "
        f"p50 {p50:.0f} ms  p95 {p95:.0f} ms  p99 {p99:.0f} ms"
    )


def compare(engine: RewardModel, url: str, what: str, items: Items, local: Items, repeats: int) -> None:
    """Print the median ratio over turns: 32 clients against one call of the engine."""
    ratios, here, there = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        engine.score(local)
        here.append(time.perf_counter() - start)
        there.append(asyncio.run(ask(url, items, CLIENTS[-1]))[0])
        ratios.append(here[-1] / there[-1])
    rates = [len(items) / statistics.median(seconds) for seconds in (here, there)]
    ratio = statistics.median(ratios)
    met = "met" if ratio >= GOAL else "not met"
    say(f"{what}: in process {rates[0]:.1f}/s, served to {CLIENTS[-1]} {rates[1]:.1f}/s: {ratio:.2f} (goal {GOAL}: {met})")


def say(text: str) -> None:
    print(text)
    sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
