"""Start and stop a Triton server on this machine: loopback, free ports, one process that is ended by its id.

The Python that runs this is the Python of the models: the backend's process finds its environment by PATH, and
`libpython` by LD_LIBRARY_PATH. It ignores PYTHONPATH, so this project must be installed in that environment.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.client import HTTPException
from pathlib import Path

import psutil

from components.errors import BadInput
from components.serving.access import VARIABLE, make_key, options
from components.serving.install import SERVER, TRITON
from components.serving.layout import check_layout
from components.serving.ports import free_ports
from components.serving.record import loaded_by_config
from components.serving.repository import FRONTS, MODEL
from components.serving.served_log import FOLDER

START_SECONDS = 180
LOG_BYTES = 64 * 2**20
EXIT_SECONDS = 10  # that Triton waits for requests in flight
SHARED_MEMORY = Path("/dev/shm")
STUB = "triton_python_backend_stub"  # the program of a process that holds a model


class ServingError(Exception):
    """The server did not start, or died; carries the last lines of its log."""


@dataclass(frozen=True)
class Triton:
    """A running server. Addresses are host:port, as tritonclient takes them."""

    process: subprocess.Popen
    http: str
    grpc: str
    metrics: str
    log: Path
    shared_prefix: str
    key: str = field(repr=False)  # of its management (access.py)

    def wait(self, seconds: float) -> None:
        """Return when each model that clients may ask is ready (the server calls itself ready with none at all), and metrics
        are, which come last; ServingError if the server ends or time runs out before."""
        until = time.monotonic() + seconds
        asked = {model: f"http://{self.http}/v2/models/{model}/ready" for model in FRONTS}
        for what, address in {**asked, "metrics": f"http://{self.metrics}/metrics"}.items():
            while not answers(address):
                self.check_alive()
                if time.monotonic() > until:
                    raise ServingError(f"{what} was not ready after {seconds:g} s:\n{self.last_lines()}")
                time.sleep(0.2)

    def check_alive(self) -> None:
        """ServingError if the server has ended."""
        if self.process.poll() is not None:
            raise ServingError(f"Triton ended with code {self.process.returncode}:\n{self.last_lines()}")

    def backends(self, version: str = "*") -> list[psutil.Process]:
        """Live processes that hold the model, or one version of it."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    program, *words = process.cmdline() or [""]  # nothing is left of a dead one's
                    if program.endswith(STUB) and fnmatchcase(words[0], f"*/{MODEL}/{version}/model.py"):
                        found.append(process)
        return found

    def last_lines(self, count: int = 15) -> str:
        """The end of the server's log, without its tables."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line and line[0] not in "|+"]
        return "\n".join(lines[-count:])

    def shorten_log(self, most: int = LOG_BYTES) -> None:
        """Let a log that has grown to `most` bytes begin anew; what it held is beside it, NAME.1, until the next time."""
        if self.log.stat().st_size >= most:
            shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
            os.truncate(self.log, 0)

    def stop(self) -> int:
        """End the server, letting requests in flight finish; its exit code. Nothing of it stays, neither a process nor
        shared memory. May be called twice.

        A client that keeps an idle connection open holds the server up for EXIT_SECONDS and makes the code 1, not 0.
        """
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(EXIT_SECONDS + 10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with contextlib.suppress(ProcessLookupError):  # the backend's process, where the server could not end it
            os.killpg(self.process.pid, signal.SIGKILL)
        for left in SHARED_MEMORY.glob(f"{self.shared_prefix}*"):
            left.unlink(missing_ok=True)
        return self.process.returncode


def start_triton(
    repository: Path,
    log: Path,
    folder: Path = TRITON,
    ports: tuple[int | None, int | None, int | None] = (None, None, None),
    served: Path | None = None,
) -> Triton:
    """Start a server on a model repository of stage `package`, but do not wait for it: see Triton.wait.

    log: file for all that server and model print. folder: where install_triton put Triton. ports: for HTTP, gRPC and
    metrics; a free one for each None. served: folder for the log of served requests. BadInput where Triton or a model is
    missing, the repository is of an older layout, or a port is taken.
    """
    server = folder / SERVER
    if not server.exists():
        raise BadInput(folder, "no Triton here; `reelign serve --install` installs it")
    for model in (MODEL, *FRONTS):
        if not (repository / model / "config.pbtxt").exists():
            raise BadInput(repository, f"no model {model} in this repository; `dvc repro package` makes it")
    for port in filter(None, ports):
        if not is_free(port):
            raise BadInput(f"127.0.0.1:{port}", "something listens there already")
    check_layout(repository, loaded_by_config(repository))
    key = make_key(repository)
    http, grpc, metrics = (port or free for port, free in zip(ports, free_ports(3), strict=True))
    prefix = f"reelign-{os.getpid()}-{http}-"
    command = [
        server / "bin/tritonserver",
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={server / 'backends'}",
        f"--cache-directory={server / 'caches'}",
        "--model-control-mode=explicit",
        *(f"--load-model={front}" for front in FRONTS),  # and with them what they call
        "--disable-auto-complete-config",
        *(f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")),
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        "--allow-gpu-metrics=false",
        "--metrics-config=summary_latencies=true",  # beside the sums: medians and 95% of the last minute
        f"--exit-timeout-secs={EXIT_SECONDS}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        *options(key),
    ]
    # Not resolved: a virtual environment's python is a link to one outside it.
    paths = {"PATH": Path(sys.executable).parent, "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")}
    # Compiled code beside a model's own file would make the model look changed, and be loaded again at the next occasion.
    environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
    environment.pop(VARIABLE, None)  # models need no key
    for name, first in paths.items():
        environment[name] = os.pathsep.join([str(first), *filter(None, [os.environ.get(name)])])
    if served is not None:
        environment[FOLDER] = str(served.resolve())
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    with open(log, "ab") as stream:  # always at its end, wherever that is after shorten_log
        # A session of its own, so that Ctrl-C reaches the caller alone, who then stops the server in order.
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    addresses = (f"127.0.0.1:{port}" for port in (http, grpc, metrics))
    return Triton(process, *addresses, log=log, shared_prefix=prefix, key=key)


@contextlib.contextmanager
def serving(
    repository: Path,
    log: Path,
    folder: Path = TRITON,
    ports: tuple[int | None, int | None, int | None] = (None, None, None),
    start_seconds: float = START_SECONDS,
    served: Path | None = None,
) -> Iterator[Triton]:
    """A server that is ready for requests, stopped at the end of the `with` block."""
    triton = start_triton(repository, log, folder, ports, served)
    try:
        triton.wait(start_seconds)
        yield triton
    finally:
        triton.stop()


def answers(address: str) -> bool:
    """Whether an HTTP address answers, and with success."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException):  # the last of a server that is killed
        return False


def is_free(port: int) -> bool:
    """Whether a server may listen on this port of 127.0.0.1. One that ended a moment ago does not stand in the way."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
