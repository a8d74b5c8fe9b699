"""Notice a backend process that died, or a model that is no longer loaded, and put things right.

Triton still reports server and model as ready when a Python process behind a model is gone, killed for memory or by a
broken decoder. Every request that goes there ends in an error until the model is loaded again. So the processes of
each loaded version are counted from time to time, and one scores the small clip of its warm-up.
Versions that the repository does not name are being tried by a deployment, and are its business alone.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import NoReturn

import numpy as np
import psutil
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from components.reward.score import Clip
from components.serving.client import DEAD_BACKEND, frame_tensors
from components.serving.management import LOAD_SECONDS, connected
from components.serving.record import loaded_by_config
from components.serving.repository import FRONTS, MODEL, WARMUP_FPS, WARMUP_PROMPT, warmup_shape
from components.serving.server import Triton

PROBE_SECONDS = 1.0  # between two probes, of a few milliseconds each
ANSWER_SECONDS = 30.0  # a busy server may take long: silence alone is no reason to throw a model out


def watch(server: Triton, repository: Path, say: Callable[[str], None]) -> NoReturn:
    """Probe and heal until a signal; ServingError if the server itself ends. `say` receives a line on what happens."""
    missing: set[str] = set()
    while True:
        time.sleep(PROBE_SECONDS)
        server.check_alive()
        server.shorten_log()
        try:
            before, missing = missing, not_loaded(server)
            if gone := before & missing:  # twice in a row: not one that is being loaded again just now
                load_again(server, gone, say)
            for version in set(loaded_versions(server)) & {*map(str, loaded_by_config(repository))}:
                heal(server, repository, version, say)
        except (OSError, HTTPException, InferenceServerException) as error:
            say(f"probe: {error}")  # the next one will see


def not_loaded(server: Triton) -> set[str]:
    """Models that clients need and that the server has not loaded."""
    with connected(server.http, server.key, ANSWER_SECONDS) as management:
        return {MODEL, *FRONTS} - {name for name, _ in management.ready()}


def load_again(server: Triton, gone: set[str], say: Callable[[str], None]) -> None:
    """Load what clients ask, and with it what that calls."""
    say(f"{', '.join(sorted(gone))}: not loaded; loading again")
    with connected(server.http, server.key, LOAD_SECONDS) as management:
        for front in FRONTS:
            management.load(front)
    say(f"{', '.join(FRONTS)} are loaded again")


def heal(server: Triton, repository: Path, version: str, say: Callable[[str], None]) -> None:
    """Load the model again if a process of this version is dead."""
    if not is_dead(server, repository, version):
        return
    say(f"{MODEL} version {version} lost its process; loading it again")
    before = server.backends()
    with connected(server.http, server.key, LOAD_SECONDS) as management:
        # Loading alone does nothing to files that have not changed. What calls the model goes and comes back with it.
        management.unload(MODEL)
        management.load(MODEL)
    for process in before:  # Triton never ends those that lived beside the dead one
        with suppress(psutil.NoSuchProcess):
            process.kill()
    probe(server, repository, version)
    say(f"{MODEL} version {version} answers again")


def is_dead(server: Triton, repository: Path, version: str) -> bool:
    """Whether a process of a loaded version is gone, or a request to it fails for that reason."""
    if len(server.backends(version)) < wanted_processes(server, version):
        return version in loaded_versions(server)  # otherwise it went in order, since it was listed
    try:
        probe(server, repository, version)
    except InferenceServerException as error:
        if DEAD_BACKEND not in error.message():
            raise
        return True
    return False


def wanted_processes(server: Triton, version: str) -> int:
    """How many hold this version."""
    with connected(server.http, server.key, ANSWER_SECONDS) as management:
        groups = management.client.get_model_config(MODEL, version)["instance_group"]
    return sum(group["count"] * max(1, len(group.get("gpus", []))) for group in groups)


def probe(server: Triton, repository: Path, version: str) -> None:
    """Ask one version for a score; InferenceServerException if there is none."""
    clip = Clip(np.zeros(warmup_shape(repository, int(version)), np.uint8), WARMUP_FPS)
    with connected(server.http, server.key, ANSWER_SECONDS) as management:
        management.client.infer(MODEL, frame_tensors(triton, clip, WARMUP_PROMPT), model_version=version)


def loaded_versions(server: Triton) -> list[str]:
    """Versions of the model that Triton has loaded, dead or alive."""
    with connected(server.http, server.key, ANSWER_SECONDS) as management:
        return [*map(str, management.loaded_versions())]
