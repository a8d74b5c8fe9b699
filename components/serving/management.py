"""The calls that manage a Triton server, with the key that these need (access.py)."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from socket import gaierror
from typing import Any

import gevent
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from components.errors import BadInput, Unreachable
from components.serving.access import HEADER, read_key
from components.serving.client import split_url
from components.serving.repository import FRONTS, MODEL

LOAD_SECONDS = 600.0
LOST = (ConnectionError, TimeoutError, gaierror, HTTPException)  # of a connection, and of no file


class Management:
    """The calls that manage a server. BadInput where it has another key, else InferenceServerException."""

    def __init__(self, client: triton.InferenceServerClient, where: str, key: str):
        self.client, self.where, self.headers = client, where, {HEADER: key}

    def load(self, name: str, config: str | None = None) -> None:
        """Load a model as the repository has it, or by another configuration (JSON) that the repository does not name."""
        with self._own_key():
            self.client.load_model(name, headers=self.headers, config=config)

    def unload(self, name: str) -> None:
        with self._own_key():
            self.client.unload_model(name, headers=self.headers)

    def ready(self) -> set[tuple[str, int]]:
        """Models that are loaded, dead or alive: (name, version)."""
        with self._own_key():
            index: list[dict[str, Any]] = self.client.get_model_repository_index(headers=self.headers)
        return {(entry["name"], int(entry["version"])) for entry in index if entry.get("state") == "READY"}

    def loaded_versions(self) -> list[int]:
        """Versions of the reward model that are loaded, dead or alive."""
        return sorted(version for name, version in self.ready() if name == MODEL)

    def served(self) -> set[int | None]:
        """Versions that clients are sent to: one, unless a switch was cut short; None where a front is not loaded."""
        loaded = {name for name, _ in self.ready()}
        return {self._target(name) if name in loaded else None for name in FRONTS}

    def _target(self, front: str) -> int:
        [step] = self.client.get_model_config(front)["ensemble_scheduling"]["step"]
        return int(step["model_version"])

    @contextmanager
    def _own_key(self) -> Iterator[None]:
        try:
            yield
        except InferenceServerException as error:
            if HEADER in error.message():
                raise BadInput(self.where, "the server has another key than this repository; start it again") from error
            raise


@contextmanager
def asking(url: str) -> Iterator[triton.InferenceServerClient]:
    """A client of the server; Unreachable where none answers, or it goes away."""
    protocol, address = split_url(url)
    if protocol != "http":
        raise BadInput(url, "deploying goes over HTTP: http://host:port")
    quiet_on_interrupt()
    with triton.InferenceServerClient(address, network_timeout=LOAD_SECONDS) as client:
        check_triton(client, url)
        try:
            yield client
        except LOST as error:
            raise Unreachable(url, f"no Triton server answers: {error}") from error


def quiet_on_interrupt() -> None:
    """Let gevent, which waits for Triton's answers, raise a KeyboardInterrupt without printing it as an error first."""
    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)


def check_triton(client: triton.InferenceServerClient, url: str) -> None:
    """Unreachable where nothing answers, or no Triton server does."""
    try:
        metadata = client.get_server_metadata()
    except (OSError, HTTPException) as error:
        raise Unreachable(url, f"no Triton server answers: {error}") from error
    except InferenceServerException as error:
        raise Unreachable(url, f"what answers is no Triton server: status {error.status()}") from error
    except ValueError as error:
        raise Unreachable(url, f"what answers is no Triton server: no JSON, {error}") from error
    if not isinstance(metadata, dict) or "extensions" not in metadata:
        raise Unreachable(url, "what answers is no Triton server: its metadata has no extensions")


@contextmanager
def connected(address: str, key: str, seconds: float) -> Iterator[Management]:
    """The management of a server that was started here, for one question: an idle connection would hold up its end."""
    with triton.InferenceServerClient(address, network_timeout=seconds) as client:
        yield Management(client, address, key)


@contextmanager
def managing(url: str, repository: Path) -> Iterator[Management]:
    """The management of the server that serves the repository; errors as of `asking` and `read_key`."""
    with asking(url) as client:
        yield Management(client, url, read_key(repository))
