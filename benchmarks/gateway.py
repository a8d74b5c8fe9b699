"""The gateway compared with Triton's own HTTP endpoint behind it, for the same clips, in turns.

    python benchmarks/gateway.py [--model models/video_reward] [--clips 200] [--repeats 5] [--clients 32] [--side 64]

Each way gets ready-made bodies from the same client: to Triton the tensors of video_reward_file, to the gateway a form. All
share the machine's cores. The ratio is the median over the turns of the gateway's requests per second by Triton's.
"""

import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
from serving import shapes, that_sees

from components.config.params import load_params
from components.serving.client import FILE_MODEL
from components.serving.install import install_triton
from components.serving.repository import write_repository
from components.serving.server import serving

Sent = list[tuple[bytes, dict[str, str]]]  # body and headers
GOAL = 0.9


def main(
    model: Annotated[Path, typer.Option(help="Folder of a VideoReward.")] = Path("models/video_reward"),
    clips: Annotated[int, typer.Option(help="Requests of a turn, each way.")] = 200,
    repeats: Annotated[int, typer.Option(help="Turns.")] = 5,
    clients: Annotated[int, typer.Option(help="Requests under way at a time.")] = 32,
    side: Annotated[int, typer.Option(help="Pixels a side of the clips.")] = 64,
) -> None:
    """Print requests per second of both ways, and the ratio."""
    install_triton()
    params = load_params().package
    with tempfile.TemporaryDirectory() as folder:
        _, encoded, _ = shapes(Path(folder) / "clips", clips, side)
        items = [(video, prompt) for video, prompt in encoded if isinstance(video, bytes)]
        repository = Path(folder) / "repository"
        write_repository(repository, that_sees(model, side, Path(folder) / "model"), params)
        with serving(repository, Path(folder) / "triton.log") as server, gateway(server.grpc, clients) as address:
            ways = {
                "Triton": (f"http://{server.http}/v2/models/{FILE_MODEL}/infer", [as_tensors(*item) for item in items]),
                "gateway": (f"{address}/v1/score", [as_form(*item) for item in items]),
            }
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for url, sent in ways.values():
                asyncio.run(fire(url, sent[:64], clients))  # the first forward passes take longer
            for turn in range(repeats):
                for way in list(ways) if turn % 2 else reversed(ways):
                    rates[way].append(clips / asyncio.run(fire(*ways[way], clients)))
    ratios = [ours / theirs for ours, theirs in zip(rates["gateway"], rates["Triton"], strict=True)]
    for way, found in rates.items():
        print(f"{way}: {statistics.median(found):.1f} requests/s ({', '.join(f'{rate:.1f}' for rate in found)})")
    ratio = statistics.median(ratios)
    print(f"{clients} clients, {clips} clips of {side} px, {repeats} turns: ratio {ratio:.2f}", end=" ")
    print(f"({min(ratios):.2f} to {max(ratios):.2f}), wanted {GOAL}")


@contextmanager
def gateway(triton: str, clients: int) -> Iterator[str]:
    """The address of `reelign gateway`, which runs in a separate process."""
    command = [sys.executable, "-m", "components.cli.main", "gateway", "--triton", f"grpc://{triton}", "--port", "0"]
    command += ["--in-flight", str(clients), "--queue", str(2 * clients)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[0]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def as_tensors(video: bytes, prompt: str) -> tuple[bytes, dict[str, str]]:
    """A request to video_reward_file in Triton's binary layout."""
    contents = {"video": video, "prompt": prompt.encode()}
    inputs = [
        {"name": name, "datatype": "UINT8", "shape": [1, len(content)], "parameters": {"binary_data_size": len(content)}}
        for name, content in contents.items()
    ]
    head = json.dumps({"inputs": inputs}).encode()
    return head + b"".join(contents.values()), {"Inference-Header-Content-Length": str(len(head))}


def as_form(video: bytes, prompt: str) -> tuple[bytes, dict[str, str]]:
    """The same as curl -F sends it to the gateway."""
    mark = "----------------------------reelign"
    head = f'--{mark}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{prompt}\r\n--{mark}\r\n'
    head += 'Content-Disposition: form-data; name="video"; filename="clip.mp4"\r\nContent-Type: video/mp4\r\n\r\n'
    return head.encode() + video + f"\r\n--{mark}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={mark}"}


async def fire(url: str, sent: Sent, clients: int) -> float:
    """Seconds for all requests, so many at a time; each must get a score."""
    numbered = iter(sent)

    async def work() -> None:
        for body, headers in numbered:
            async with http.post(url, data=body, headers=headers) as answer:
                said = await answer.json()
                assert answer.status == 200, said

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=clients)) as http:
        start = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for _ in range(clients):
                workers.create_task(work())
        return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
