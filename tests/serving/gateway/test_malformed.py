"""A thousand requests that no score can answer: each gets an error, none a number, and the gateway answers on."""

import asyncio
import base64
import contextlib
import json
import random
import socket
from collections import Counter

import aiohttp
import pytest
import requests

from tests.serving.gateway.conftest import GOOD

ROUTES = ("/v1/score", "/score", "/compute")
TYPES = (
    "application/json",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/plain",
    "",
    "application/json; \xff",
)
TEXTS = ("", " ", "\ud800", "a\0b", "x" * 3000)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def broken_value(rng: random.Random, depth: int = 0) -> object:
    """A JSON value at random."""
    simple = [
        None,
        True,
        -1,
        1e308,
        10**400,
        "",
        "x",
        "\ud800",
        "\0",
        encoded(b"no video"),
        "../../etc/passwd",
        float("nan"),
    ]
    if depth > 3 or rng.random() < 0.5:
        return rng.choice(simple)
    inner = [broken_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return inner if rng.random() < 0.5 else {rng.choice(["prompt", "video", "items", "requests", "x"]): v for v in inner}


def bad_body(rng: random.Random, route: str) -> bytes:
    bad = rng.choice([encoded(b"no video"), "%%%", "", "A", encoded(GOOD)[:-1] + "*"])
    prompt = rng.choice(["a cat", *TEXTS])
    turn = {"text": prompt, rng.choice(["video_b64", "image_b64", "video_path", "image_ipc"]): bad}
    value = rng.choice(
        [
            broken_value(rng),
            {"prompt": prompt, "video": bad},
            {"prompt": prompt, "path": rng.choice(["../secret.mp4", "none", "\0", "/dev/zero", "."])},
            {"items": [{"prompt": prompt, "video": bad}] * 9},
            {
                "requests": [{"history": [turn], "required_rewards": [rng.choice(["videoalign", "x", "\ud800"])]}]
                * rng.choice([1, 9])
            },
            {"requests": [{"history": broken_value(rng), "required_rewards": broken_value(rng)}]},
            {
                "prompt": [prompt],
                "video": [[rng.choice([bad, encoded(rng.randbytes(60))])]],
                "kwargs": {"fps": broken_value(rng)},
            },
            {"prompt": [prompt] * 2, "video": [[bad]], "kwargs": broken_value(rng)},
        ]
    )
    whole = json.dumps(value).encode()
    form = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\nno video\r\n--x--\r\n'
    return rng.choice(
        [
            whole,
            whole,
            whole,
            whole[: rng.randint(0, len(whole))],
            b"\xff" + whole,
            b"[" * 20_000,
            b'{"prompt": ' + b"[" * 20_000,
            rng.randbytes(rng.randint(0, 300)),
            form,
            form[: rng.randint(0, len(form))],
            form.replace(b"name", rng.choice([b"nam", b"name=", b"\xff"])),
            form.replace(b"--x\r\n", b"--x\r\n" * rng.randint(2, 20)),
            b"",
        ]
    )


async def fire(url: str, count: int, seed: int) -> Counter[int]:
    rng, answers = random.Random(seed), Counter()

    async def work(numbers) -> None:
        for _ in numbers:
            route = rng.choice(ROUTES)
            body, kind = bad_body(rng, route), rng.choice([TYPES[0], TYPES[0], *TYPES])
            async with http.post(url + route, data=body, headers={"Content-Type": kind}) as answer:
                said = await answer.read()
                case = (route, kind, body[:500], answer.status, said[:500])
                answers[answer.status] += 1
                assert answer.status < 500, case
                if answer.status != 200:
                    assert list(json.loads(said)) in (["detail"], ["detail", "retry"]), case
                    continue
                told = json.loads(said)
                scores = [*told.get("results", []), *told.get("rewards", [])]
                assert not any(isinstance(each, float) or {"scores", "videoalign"} & each.keys() for each in scores), case
                assert "scores" not in told, case

    async with aiohttp.ClientSession() as http:
        numbers = iter(range(count))
        async with asyncio.TaskGroup() as workers:
            for _ in range(4):
                workers.create_task(work(numbers))
    return answers


@pytest.mark.parametrize("count", [1000])
def test_every_malformed_request_gets_an_error(url, triton, count, capsys):
    answers = asyncio.run(fire(url, count, seed=5))
    good = requests.post(f"{url}/v1/score", json={"prompt": "p", "video": encoded(GOOD)})
    assert good.status_code == 200 and answers.total() == count
    assert "reelign_gateway_requests_held 0" in requests.get(f"{url}/metrics").text
    with capsys.disabled():
        print(f"\n{count} malformed requests by HTTP status: {dict(sorted(answers.items()))}")


RAW = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /v1/score HTTP/1.1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    b"POST /v1/score HTTP/9.9\r\nHost: x\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_what_is_no_http_is_no_score(url, triton, raw):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it may close at any point: before all is sent, or half read
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    assert b" 200 " not in answer[:20] and not triton.seen
    assert requests.get(f"{url}/health").status_code == 200
    assert "reelign_gateway_requests_held 0" in requests.get(f"{url}/metrics").text
