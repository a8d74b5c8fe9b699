"""Requests to a scorer over HTTP: tried again with growing waits while it is not there or has no room."""

import os
import random
import time
from typing import Any

import httpx2

from components.config.sources import SourceParams
from components.errors import BadInput, Unreachable

FIRST_WAIT, LONGEST_WAIT = 0.5, 20.0  # seconds between attempts, doubled each time
LATER = {429, 502, 503, 504}  # statuses of a server that has no room, or is not there yet
SHOWN = 200  # characters of a refusal


class Poster:
    """Posts JSON to a scorer. where: its key in params.yaml, for errors."""

    def __init__(self, where: str, source: SourceParams):
        self.where, self.source = where, source
        headers = {}
        if source.key_variable:
            if not (key := os.environ.get(source.key_variable)):
                raise BadInput(where, f"the environment variable {source.key_variable} is empty", key="key_variable")
            headers["Authorization"] = f"Bearer {key}"
        self.client = httpx2.Client(timeout=source.seconds, headers=headers)

    def post(self, path: str, body: Any, key: str, count: int) -> list[dict[str, Any]]:
        """The list under `key` of the answer, of `count` objects."""
        return self.listed(self.answer(path, body), key, count)

    def answer(self, path: str, body: Any) -> dict[str, Any]:
        """The object in the answer. Unreachable where there is none in all attempts; BadInput for a refusal of the request
        and for an answer that is no JSON object."""
        url = f"{self.source.place.rstrip('/')}{path}"
        for attempt in range(self.source.attempts):
            if attempt:
                self.wait(attempt - 1)
            try:
                response = self.client.post(url, json=body)
            except httpx2.TransportError as error:
                why = type(error).__name__
                continue
            if response.status_code in LATER:
                why = f"status {response.status_code}"
                continue
            if response.status_code != 200:
                raise BadInput(self.where, f"{url} refuses ({response.status_code}): {response.text[:SHOWN]!r}")
            try:
                found = response.json()
            except ValueError as error:
                raise BadInput(self.where, f"{url} answers without JSON") from error
            if not isinstance(found, dict):
                raise BadInput(self.where, f"{url} answers with no JSON object")
            return found
        raise Unreachable(url, f"no answer in {self.source.attempts} attempt(s): {why}")

    def listed(self, answer: dict[str, Any], key: str, count: int) -> list[dict[str, Any]]:
        """A list of `count` objects in an answer; BadInput where it is none."""
        found = answer.get(key)
        if not isinstance(found, list) or len(found) != count or not all(isinstance(one, dict) for one in found):
            raise BadInput(self.where, f"its answer has no {count} {key}", key=key)
        return found

    def wait(self, attempt: int) -> None:
        time.sleep(random.uniform(0.5, 1.0) * min(LONGEST_WAIT, FIRST_WAIT * 2**attempt))
