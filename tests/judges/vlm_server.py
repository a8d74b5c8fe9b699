"""A small server that speaks the protocol of chat completions, for tests: it looks at the pictures that it is shown.

It prefers the brighter clip, or Says Yes to bright ones, so that what a right answer is can be counted. `Mode` has how else
it behaves. `seen` counts the requests of each distinct message, and `answered` those that got an answer.
"""

import base64
import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

QUESTIONS = ("VQ", "MQ", "TA", "Overall")


@dataclass
class Mode:
    """delay: seconds an answer takes. per_second: requests beyond it get 429 with Retry-After. failing: share of messages
    whose first request fails: by status 500, a lost connection, or a page that is no JSON. broken: share of messages
    that always get 500. unreadable: share of messages answered without a verdict. first: share of messages in which the clip
    shown first is preferred, whatever it is. noise: chance of a random verdict, drawn anew for each request. key: what the
    server demands."""

    delay: float = 0.0
    per_second: float | None = None
    failing: float = 0.0
    broken: float = 0.0
    unreadable: float = 0.0
    first: float = 0.0
    noise: float = 0.0
    key: str | None = None
    no_logprobs: bool = False
    verdict: Callable[[str, list[np.ndarray]], str] | None = None


class VlmServer:
    def __init__(self, mode: Mode, port: int = 0):
        self.mode, self.seen, self.answered = mode, Counter(), Counter()
        self.bodies: dict[str, dict] = {}
        self.rejected = 0
        self._lock = threading.Lock()
        self._room, self._rng = [], np.random.default_rng(0)
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner.handle(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self.server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "VlmServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        raw = request.rfile.read(int(request.headers["content-length"]))
        if request.path != "/v1/chat/completions":
            return reply(request, 404, {"error": {"message": "no such model"}})
        if self.mode.key is not None and request.headers["authorization"] != f"Bearer {self.mode.key}":
            given = request.headers["authorization"]
            return reply(request, 401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        if request.headers["content-type"] != "application/json":
            return reply(request, 422, {"detail": "Input should be a valid dictionary"})
        digest = hashlib.sha256(raw).hexdigest()
        with self._lock:
            if self.mode.per_second is not None:
                now = time.monotonic()
                self._room = [at for at in self._room if at > now - 1]
                if len(self._room) >= self.mode.per_second:
                    self.rejected += 1
                    return reply(request, 429, {"error": {"message": "slow down"}}, {"Retry-After": "1"})
                self._room.append(now)
            self.seen[digest] += 1
            attempt = self.seen[digest]
            noise = self._rng.random() < self.mode.noise
            drawn = ("first", "second")[int(self._rng.integers(2))]
        luck = int(digest[:8], 16) / 2**32
        kind = int(digest[8:16], 16)
        if luck < self.mode.broken:
            return reply(request, 500, {"error": {"message": "broken"}})
        if luck < self.mode.broken + self.mode.failing and attempt == 1:
            if kind % 3 == 0:
                return reply(request, 500, {"error": {"message": "try again"}})
            if kind % 3 == 1:
                request.close_connection = True
                return request.connection.close()
            return reply(request, 200, None, text="<html>gateway</html>")
        time.sleep(self.mode.delay)
        body = json.loads(raw)
        texts, clips = read_message(body["messages"][0]["content"])
        other = int(digest[16:24], 16) / 2**32
        if other < self.mode.unreadable:
            text = "I cannot compare these videos."
        elif "Answer with one word: Yes or No." in texts:
            text = "Yes" if clips[0].mean() > 127 else "No"
        else:
            word = "first" if clips[0].mean() > clips[1].mean() else "second"
            if self.mode.verdict is not None:
                word = self.mode.verdict(texts, clips)
            if int(digest[24:32], 16) / 2**32 < self.mode.first:
                word = "first"
            word = drawn if noise else word
            asked = [name for name in QUESTIONS if f"\n{name}: " in texts]
            text = "The clips differ in light.\n" + "\n".join(f"{name}: {word}" for name in asked)
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        if body.get("logprobs") and not self.mode.no_logprobs:
            odds = (float(clips[0].mean()) - 127) / 32
            yes = 0.98 / (1 + math.exp(-odds))
            tokens = [("Yes", yes), ("No", 0.98 - yes), ("yes", 0.01)] if other >= self.mode.unreadable else [("I", 0.99)]
            top = [{"token": token, "logprob": math.log(chance)} for token, chance in tokens]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        with self._lock:
            self.answered[digest] += 1
            self.bodies[digest] = body
        reply(request, 200, {"choices": [choice], "usage": {"prompt_tokens": 1000, "completion_tokens": 10}})


def read_message(content: list[dict]) -> tuple[str, list[np.ndarray]]:
    """All text, and the frames of each clip: pictures between two texts are one clip's, in grey, [T, H, W]."""
    texts, clips, frames = [], [], []
    for part in content:
        if part["type"] == "text":
            clips.extend([np.stack(frames)] if frames else [])
            frames = []
            texts.append(part["text"])
        elif part["type"] == "image_url":
            coded = np.frombuffer(base64.b64decode(part["image_url"]["url"].split(",", 1)[1]), np.uint8)
            frames.append(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE))
        else:
            clips.append(grey_video(base64.b64decode(part["video_url"]["url"].split(",", 1)[1])))
    return "".join(texts), clips


def grey_video(content: bytes) -> np.ndarray:
    import io

    import av

    with av.open(io.BytesIO(content)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])


def reply(request, status: int, value: dict | None, headers: dict | None = None, text: str = "") -> None:
    raw = text.encode() if value is None else json.dumps(value).encode()
    request.send_response(status)
    for name, content in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}.items():
        request.send_header(name, content)
    request.end_headers()
    request.wfile.write(raw)
