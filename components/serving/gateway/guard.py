"""The way in: who may call, how many at a time, how large a body, and how long it may take to arrive.

ASGI middleware. All is checked before a route sees a request. The body is read here: a slow or endless one holds one place
of the queue, for a limited time.
"""

import asyncio
import hmac
import json
import time
from typing import Any

from components.serving.gateway.metrics import Metrics
from components.serving.gateway.options import GatewayOptions

OPEN = {"/health", "/rewards", "/metrics", "/openapi.json", "/docs"}  # without a token, to be read alone
ROUTES = {"/v1/score", "/score", "/compute"} | OPEN
RETRY_SECONDS = 1


class Refusal(Exception):
    """An answer without a look at the request."""

    def __init__(self, status: int, why: str, **headers: str):
        self.status, self.why = status, why
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Guard:
    """Middleware around `app`. Answers 401, 403, 408, 413 and 429 by itself."""

    def __init__(self, app: Any, options: GatewayOptions, metrics: Metrics):
        self.app, self.options, self.metrics = app, options, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"
        begun, seen = time.perf_counter(), []

        async def noted(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append(message["status"])
            await send(message)

        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            self._check(scope, headers)
            if scope["method"] in ("GET", "HEAD"):
                await self.app(scope, receive, noted)
            else:
                await self._hold(scope, headers, receive, noted)
        except Refusal as refusal:
            await answer(noted, refusal)
        finally:
            # A caller that left before its answer counts as 499, as in nginx.
            self.metrics.count(route, seen[0] if seen else 499, time.perf_counter() - begun)

    def _check(self, scope: Any, headers: dict[bytes, bytes]) -> None:
        if b"origin" in headers:
            raise Refusal(403, "a request of a page in a browser; call from a program")
        if self.options.token is None or (scope["path"] in OPEN and scope["method"] == "GET"):
            return
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self.options.token.encode()):
            raise Refusal(401, "a token is needed: Authorization: Bearer TOKEN", www_authenticate="Bearer")

    async def _hold(self, scope: Any, headers: dict[bytes, bytes], receive: Any, send: Any) -> None:
        if self.metrics.held >= self.options.queue:
            why = f"{self.options.queue} requests are under way; try again later"
            raise Refusal(429, why, retry_after=str(RETRY_SECONDS))
        self.metrics.held += 1
        try:
            body = await self._body(headers, receive)
            self.metrics.bytes += len(body)
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> Any:
                return messages.pop() if messages else await receive()

            await self.app(scope, replay, send)
        finally:
            self.metrics.held -= 1

    async def _body(self, headers: dict[bytes, bytes], receive: Any) -> bytes:
        most = self.options.most_bytes
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise Refusal(413, f"a body of {int(length)} bytes; at most {most} are read")
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.options.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the body ended early")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise Refusal(413, f"a body of more than {most} bytes")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            raise Refusal(408, f"the body did not arrive within {self.options.body_seconds:g} s") from error


async def answer(send: Any, refusal: Refusal) -> None:
    body = json.dumps({"detail": refusal.why}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
    pairs = [(name.encode(), value.encode()) for name, value in (headers | refusal.headers).items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
