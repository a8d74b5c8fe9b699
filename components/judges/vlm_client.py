"""Requests to an OpenAI-compatible server: paced, tried again with growing waits, never more than `concurrency` at a time.

An answer is an Answer. A request that fails for its own sake is a Failed with the reason. Where the server is not there, has
no room for long, or refuses the key or model, all requests would fail: the run ends, and answers on record stay.
"""

import json
import os
import random
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2

from components.errors import BadInput, Unreachable
from components.judges.vlm_questions import Answer, Unreadable, excerpt
from components.judges.vlm_settings import VlmSettings

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between tries, doubled each time
SHORTEST_GAP = 0.002  # seconds between starts, once a server had no room
SLOWED_FOR = 1.0  # seconds before the gap grows again
MOST_HELD = 600.0  # seconds that a server may ask to wait
REFUSED = {401: "the key", 403: "the key", 404: "the address or the model"}  # by HTTP status, of any request
FULL = {429, 503}  # no room just now, for any request
TOP_TOKENS = 20  # log-probabilities of a token, the most that servers give


@dataclass(frozen=True)
class Failed:
    """Why a question has no answer. It is not on record: a later run tries again."""

    reason: str


@dataclass(frozen=True)
class Again:
    """Why a request is tried again. everyone: the reason may hold for all requests. full: the server was not there or had
    no room, for `after` seconds if the response has a number."""

    why: str
    everyone: bool = False
    full: bool = False
    after: float = 0.0


class Pace:
    """Starts of requests, evenly spaced. A server that has no room makes the gap between them longer, each answer a little
    shorter, down to that of the settings."""

    def __init__(self, per_minute: float | None):
        self._least = 0.0 if per_minute is None else 60.0 / per_minute
        self._gap = self._least
        self._lock = threading.Lock()
        self._next = 0.0
        self._slowed = -SLOWED_FOR

    def wait(self, stopped: threading.Event) -> None:
        """Until the next start; at once when `stopped`."""
        with self._lock:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + self._gap
        stopped.wait(start - now)

    def slower(self, seconds: float) -> None:
        """No request starts within the next `seconds`."""
        now = time.monotonic()
        with self._lock:
            if now > self._slowed + SLOWED_FOR:  # once for all requests that were under way
                self._gap, self._slowed = min(1.0, max(self._gap * 1.25, SHORTEST_GAP)), now
            self._next = max(self._next, now + min(seconds, MOST_HELD))

    def faster(self) -> None:
        with self._lock:
            self._gap = max(self._least, self._gap * 0.99)


class Endpoint:
    """A server, by its settings; `where` is their file. Threads share it."""

    def __init__(self, settings: VlmSettings, where: Path):
        self.settings, self.where = settings, where
        self.pace = Pace(settings.requests_per_minute)
        self._lock, self._answered = threading.Lock(), 0
        self._key = None
        if settings.key_variable is not None:
            self._key = os.environ.get(settings.key_variable)
            if not self._key:
                raise BadInput(where, f"the environment variable {settings.key_variable} is empty", key="key_variable")
        headers = {"Content-Type": "application/json"}  # FastAPI reads a body without it as text, and refuses it
        headers |= {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        room = httpx2.Limits(max_connections=settings.concurrency)
        self._client = httpx2.Client(headers=headers, timeout=settings.timeout, limits=room)

    def close(self) -> None:
        self._client.close()

    def ask(self, content: list[dict[str, Any]], stopped: threading.Event) -> Answer | Failed:
        """The answer to one message. Unreachable or BadInput where no message is answered, and Failed once `stopped`.

        A server without room does not use up the tries of a request while it answers others: that is a matter of pace.
        """
        body, tries = self._body(content), 0
        first = before = self._answered
        while True:
            self.pace.wait(stopped)
            if stopped.is_set():
                return Failed("stopped")
            found = self._once(body)
            if isinstance(found, Answer):
                with self._lock:
                    self._answered += 1
                self.pace.faster()
            if not isinstance(found, Again):
                return found
            if found.full:
                self.pace.slower(found.after)
                if self._answered > before:
                    before, tries = self._answered, 0
            tries += 1
            if tries == self.settings.tries:
                break
            stopped.wait(min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)) * (0.5 + random.random()))
        why = f"{found.why} ({tries} tries)"
        if found.everyone and self._answered == first:
            raise Unreachable(self.settings.url, why)
        return Failed(why)

    def _once(self, body: bytes) -> "Answer | Failed | Again":
        """One request. BadInput where the server refuses every request."""
        try:
            response = self._client.post(f"{self.settings.url}/chat/completions", content=body)
        except httpx2.RequestError as error:
            why = f"{type(error).__name__} {error}".strip()
            return Again(why, everyone=True, full=isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout))
        status = response.status_code
        if status == 200:
            try:
                return read_answer(response)
            except Unreadable as error:  # a proxy's page, a cut answer
                return Again(str(error))
        why = f"HTTP {status}{self._said(response)}"
        if status in REFUSED:
            raise BadInput(self.where, f"{self.settings.url} refuses {REFUSED[status]}: {why}")
        if status in FULL:
            return Again(why, everyone=True, full=True, after=retry_after(response))
        return Again(why) if status >= 500 or status in (408, 409, 425) else Failed(why)

    def _body(self, content: list[dict[str, Any]]) -> bytes:
        settings = self.settings
        body = {
            "model": settings.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
        }
        if settings.protocol == "pointwise":
            body |= {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_TOKENS}
        return json.dumps({key: value for key, value in (body | settings.request).items() if value is not None}).encode()

    def _said(self, response: httpx2.Response) -> str:
        """The server's own words, without the key."""
        try:
            found = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            found = response.text
        text = str(found) if self._key is None else str(found).replace(self._key, "***")
        return f", {excerpt(text, 160)}" if text.strip() else ""


def retry_after(response: httpx2.Response) -> float:
    """Seconds of the header Retry-After, a number or a date; 0 without one."""
    text = response.headers.get("retry-after", "0")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return 0.0


def read_answer(response: httpx2.Response) -> Answer:
    """The first choice of a chat completion. Unreadable where the response is no such thing; a message without text has the
    text ''."""
    try:
        value = response.json()
        choice = value["choices"][0]
        usage = value.get("usage") or {}
        return Answer(
            text=choice["message"].get("content") or "",
            finish=choice.get("finish_reason"),
            first_token=first_token(choice.get("logprobs")),
            tokens_in=int(usage.get("prompt_tokens") or 0),
            tokens_out=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unreadable(f"the response is no chat completion: {excerpt(response.text)}") from error


def first_token(logprobs: dict[str, Any] | None) -> dict[str, float] | None:
    """Log-probabilities of the likeliest first tokens; of two of one text the likelier. None where there are none."""
    content = (logprobs or {}).get("content")
    if not content:
        return None
    found: dict[str, float] = {}
    for one in content[0].get("top_logprobs") or []:
        found[one["token"]] = max(float(one["logprob"]), found.get(one["token"], -float("inf")))
    return found or None
