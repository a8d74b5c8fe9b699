"""Requests that are none: each is answered by an error, the backend's process stays the same one and its memory its size."""

import asyncio
import json
import random
import struct

import aiohttp
import psutil
import pytest

from components.reward.score import Score
from components.serving.client import ClientOptions, RewardClient, score_remote
from components.serving.repository import FRONTS, MODEL
from tests.serving.conftest import clip

Tensor = tuple[str, str, list[int], bytes]  # name, type, shape, content
PLAYLISTS = (
    b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
    b"ffconcat version 1.0\nfile /etc/hostname\n",
    b"<?xml?><MPD></MPD>",
)


def frames(shape: list[int], content: bytes | None = None, kind: str = "UINT8") -> Tensor:
    size = 1
    for side in shape:
        size *= side
    return "frames", kind, shape, bytes(size) if content is None else content


def fps(value: float = 8.0) -> Tensor:
    return "fps", "FP64", [1, 1], struct.pack("<d", value)


def prompt(text: bytes = b"a red circle") -> Tensor:
    return "prompt", "UINT8", [1, len(text)], text


def video(content: bytes) -> Tensor:
    return "video", "UINT8", [1, len(content)], content


def malformed(rng: random.Random, mp4: bytes) -> tuple[str, list[Tensor]]:
    """A model and a request for it that no score can answer."""
    side = rng.randint(1, 40)
    good = [1, 9, 32, 32, 3]
    cut = bytearray(mp4[: rng.randint(0, len(mp4) * 9 // 10)])
    noise = rng.randbytes(rng.randint(1, 5000))
    cases = [
        ("video_reward", [frames([1, rng.randint(0, 3), side, side, 3]), prompt(), fps()]),  # too few
        ("video_reward", [frames([1, 9, side, 0, 3]), prompt(), fps()]),
        ("video_reward", [frames([1, 9, 1, 300, 3]), prompt(), fps()]),  # aspect ratio
        ("video_reward", [frames([1, 9, side, side, rng.choice([1, 2, 4])]), prompt(), fps()]),
        ("video_reward", [frames([rng.choice([0, 2, 3]), 9, 8, 8, 3]), prompt(), fps()]),
        ("video_reward", [frames([9, side, side, 3]), prompt(), fps()]),
        ("video_reward", [frames([1, -9, 32, 32, 3], bytes(9)), prompt(), fps()]),
        ("video_reward", [frames([1, 2**40, 32, 32, 3], bytes(9)), prompt(), fps()]),
        ("video_reward", [frames(good, noise), prompt(), fps()]),  # not as many bytes as the shape says
        ("video_reward", [frames(good, kind=rng.choice(["INT8", "FP32", "BYTES", "BOOL", "NONE"])), prompt(), fps()]),
        ("video_reward", [frames(good), prompt(), fps(rng.choice([0.0, -1.0, float("nan"), float("inf"), -float("inf")]))]),
        ("video_reward", [frames(good), prompt(b"\xff\xfe" + noise), fps()]),
        ("video_reward", [frames(good), prompt(rng.choice([b"", b" ", b"\n\t", b"a <|VQ_reward|>", b"<|im_end|>"])), fps()]),
        ("video_reward", [frames(good), prompt(b"a red circle " * rng.randint(2000, 4000)), fps()]),
        ("video_reward", rng.sample([frames(good), prompt(), fps()], rng.randint(0, 2))),
        ("video_reward", [frames(good), prompt(), fps(), video(mp4)]),
        ("video_reward_file", [video(noise), prompt()]),
        ("video_reward_file", [video(bytes(cut)), prompt()]),
        ("video_reward_file", [video(noise + mp4[len(noise) :]), prompt()]),  # the head is gone
        ("video_reward_file", [video(b""), prompt()]),
        ("video_reward_file", [video(rng.choice(PLAYLISTS)), prompt()]),
        ("video_reward_file", [video(mp4), prompt(rng.choice([b"", b"  ", b"\xc3\x28", b"a <|TA_reward|>"]))]),
        ("video_reward_file", rng.sample([video(mp4), prompt()], rng.randint(0, 1))),
        (MODEL, [frames(good), prompt(), fps(), video(mp4)]),
        (MODEL, [prompt(), rng.choice([frames(good), fps()])]),
        (rng.choice([*FRONTS, MODEL]) + "/versions/7", [frames(good), prompt(), fps()]),
        ("no_such_model", [frames(good), prompt(), fps()]),
    ]
    return rng.choice(cases)


def as_body(tensors: list[Tensor]) -> tuple[bytes, dict[str, str]]:
    """A request in Triton's binary layout over HTTP, whatever it holds: the client library refuses to make most of these."""
    inputs = [
        {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": len(content)}}
        for name, kind, shape, content in tensors
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    length = {"Inference-Header-Content-Length": str(len(header))}
    return header + b"".join(content for *_, content in tensors), length


def garbage(rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """A body that is no request at all."""
    body = rng.choice([b"", b"{}", b"[]", b'{"inputs": 7}', b'{"inputs": [{}]}', rng.randbytes(200)])
    return body, rng.choice([{}, {"Inference-Header-Content-Length": rng.choice(["-1", "3", "99999", "x"])}])


async def fire(server, mp4: bytes, count: int, seed: int) -> dict[int, int]:
    """Send so many bad requests, eight at a time; answers by HTTP status."""
    rng, answers = random.Random(seed), {}

    async def work(numbers) -> None:
        for _ in numbers:
            if rng.random() < 0.1:
                model, (body, headers) = rng.choice(list(FRONTS)), garbage(rng)
            else:
                model, tensors = malformed(rng, mp4)
                body, headers = as_body(tensors)
            async with http.post(f"http://{server.http}/v2/models/{model}/infer", data=body, headers=headers) as answer:
                said = await answer.read()
                assert answer.status != 200 and b"error" in said, (model, headers, body[:300], answer.status, said[:300])
                assert b"is not healthy" not in said, (model, headers, body[:300])
                answers[answer.status] = answers.get(answer.status, 0) + 1

    async with aiohttp.ClientSession() as http:
        numbers = iter(range(count))
        async with asyncio.TaskGroup() as workers:
            for _ in range(8):
                workers.create_task(work(numbers))
    return answers


async def fire_grpc(server, count: int) -> int:
    """Bad requests that only gRPC's own layout allows; errors among the answers."""
    async with RewardClient(f"grpc://{server.grpc}", ClientOptions(attempts=1)) as client:
        results = await client.score_many((clip(n, n % 4, 32, 32), "a red circle") for n in range(count))
    return sum(not isinstance(result, Score) for result in results)


def processes(server) -> dict[int, int]:
    """Memory in bytes of the server and its backend, by process id."""
    above = psutil.Process(server.process.pid)
    return {process.pid: process.memory_info().rss for process in (above, *above.children(recursive=True))}


@pytest.mark.serving
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.serving_load)])
def test_every_malformed_request_gets_an_error_and_nothing_else_happens(server, videos, count, capsys):
    mp4 = videos[0].read_bytes()
    good = [(videos[0], "a red circle"), (clip(0, 9, 32, 32), "a red circle")]
    expected = score_remote(server.http, good)
    asyncio.run(fire(server, mp4, 200, seed=1))  # memory that is taken once and kept
    before = processes(server)
    answers = asyncio.run(fire(server, mp4, count - 20, seed=2))
    refused = asyncio.run(fire_grpc(server, 20))
    after = processes(server)
    assert sum(answers.values()) == count - 20 and refused == 20
    assert after.keys() == before.keys()  # nothing crashed, nothing was replaced
    assert score_remote(server.http, good) == expected
    growth = sum(after.values()) / sum(before.values()) - 1
    with capsys.disabled():
        print(f"\n{count} malformed requests, {count} errors by HTTP status {answers}; memory {growth:+.1%}")
    assert growth < 0.05
