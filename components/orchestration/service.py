"""A service as a process of this checkout: start it, find it again, stop it and all that it started.

It outlives the program that starts it. `.reelign/services/NAME.json` records it, NAME.log and NAME.log.1 have the end of its
output. Its processes, and theirs, carry MARK in their environment, so that what a killed parent left behind is found.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from components.errors import BadInput
from components.files.atomic import atomic_write, discard
from components.orchestration import bounded_log
from components.runtime.termination import end

FOLDER = Path(".reelign/services")
START_SECONDS, STOP_SECONDS = 240.0, 60.0
MARK = "REELIGN_SERVICE"
SETUP = "setup"  # the mark of what runs before a service starts, and ends by itself
BOOT = Path("/proc/sys/kernel/random/boot_id")
LOG = ".log"  # the mark of what writes a service's log, behind its name
LIGHT, STACK = "light", "stack"


@dataclass(frozen=True)
class Service:
    """`ready`: whether it does its work. `stop`: the signal for an orderly end. `after`: services that must be ready before
    it starts; `prepare` is called then. `user`: the account that it runs as, where this process is root's."""

    name: str
    command: list[str]
    ports: list[int]
    ready: Callable[[], bool]
    about: str
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    stop: signal.Signals = signal.SIGTERM
    umask: int = -1  # of this process
    after: tuple[str, ...] = ()
    prepare: Callable[[], None] | None = None
    user: str | None = None

    @property
    def log(self) -> Path:
        return FOLDER / f"{self.name}.log"


def start(service: Service, form: str = LIGHT) -> None:
    """Start a service and record it; what an earlier one of its name left behind is ended first."""
    end_leftovers(service.name)
    os.close(os.open(service.log, os.O_WRONLY | os.O_CREAT, 0o600))  # wait may read it before bounded_log has begun
    log = subprocess.Popen(
        [sys.executable, "-I", bounded_log.__file__, service.log], env=os.environ | {MARK: mark(f"{service.name}{LOG}")},
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    assert log.stdin is not None  # a pipe
    with log.stdin as pipe:
        process = subprocess.Popen(
            service.command, env={**service.environment, MARK: mark(service.name)}, stdin=subprocess.DEVNULL,
            stdout=pipe, stderr=pipe, start_new_session=True, umask=service.umask, **as_user(service.user),
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored by what a shell runs in background
        )  # fmt: skip
    made = psutil.Process(process.pid)
    known = {"pid": process.pid, "created": made.create_time(), "ports": service.ports, "stop": service.stop, "form": form}
    known["started"] = started(made)
    atomic_write(FOLDER / f"{service.name}.json", json.dumps(known))


def as_user(user: str | None) -> dict[str, Any]:
    """Arguments of Popen that make a child another account's; none where this process is not root's."""
    return {"user": user, "group": user, "extra_groups": []} if user is not None and os.geteuid() == 0 else {}


def set_up(words: list[Any], environment: Mapping[str, str], what: str, user: str | None = None, given: str = "") -> str:
    """Run a program to its end with `given` as its input, and return what it printed. BadInput with its last lines where it
    fails."""
    done = subprocess.run(
        [*map(str, words)], env={**environment, MARK: mark(SETUP)}, input=given, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True, umask=0o077, **as_user(user),
    )  # fmt: skip
    if done.returncode:
        lines = done.stdout.strip().splitlines()[-15:]
        raise BadInput(what, f"ended with code {done.returncode}: " + " | ".join(lines))
    return done.stdout


def mark(name: str) -> str:
    """Of the processes of a service. It survives a move of the checkout, and a copy has another one."""
    place = FOLDER.stat()
    return f"{place.st_dev}:{place.st_ino}/{name}"


def started(process: psutil.Process) -> str:
    """The boot, and clock ticks from it to the start of a process: no later process of its number has them. The time of day
    of a start moves where the system's clock is set."""
    ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{BOOT.read_text().strip()}/{ticks}"


def is_started(process: psutil.Process, known: Mapping[str, Any]) -> bool:
    """Whether a process is the one of a record; of records without `started`, by the time of its start."""
    if known["started"] is None:
        return process.create_time() == known["created"]
    with suppress(FileNotFoundError, ProcessLookupError):
        return started(process) == known["started"]
    return False


def age(process: psutil.Process) -> float:
    """Seconds since a process started."""
    ticks = int(started(process).rpartition("/")[2])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def record(name: str) -> dict | None:
    """What is known of a service that was started; None where that is nothing, or damaged: then the file is removed."""
    file = FOLDER / f"{name}.json"
    if not file.exists():
        return None
    try:
        known = json.loads(file.read_bytes())
        found = {key: known[key] for key in ("pid", "created", "ports", "stop", "form")}
        return found | {"started": known.get("started")}
    except (ValueError, TypeError, KeyError):
        discard(file, "no record of a service; `make down` finds one that still runs by its environment")
        return None


def running(name: str) -> psutil.Process | None:
    """The process of a service, if it is still the one that was started; in a copied checkout it is another's."""
    known = record(name)
    if known is None:
        return None
    try:
        process = psutil.Process(known["pid"])
        same = is_started(process, known) and process.status() != psutil.STATUS_ZOMBIE
        same = same and _works_here(process)  # Postgres in its folder of data
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def not_started(service: Service) -> BadInput:
    """The error for a service that ended or timed out, with its last log lines."""
    time.sleep(1)  # its last words pass through bounded_log
    lines = service.log.read_text(errors="replace").splitlines()
    return BadInput(service.log, f"{service.name} did not start:\n" + "\n".join(lines[-15:]))


def stop(name: str) -> None:
    """End a service and its children, by an orderly stop if possible and by a kill after STOP_SECONDS."""
    process, known = running(name), record(name)
    if process is not None and known is not None:
        with suppress(psutil.NoSuchProcess):
            end(process, signal.Signals(known["stop"]), STOP_SECONDS)
    end_leftovers(name)
    (FOLDER / f"{name}.json").unlink(missing_ok=True)


def end_leftovers(name: str | None = None) -> None:
    """Kill what services of this checkout, or the one of this name, have left running; never a service that is recorded."""
    kept = {process.pid for file in FOLDER.glob("*.json") if (process := running(file.stem)) is not None}
    found = [process for process in leftovers(name) if process.pid not in kept and not _writes_log(process)]
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(found, 10)
    writers = leftovers(f"{name}{LOG}" if name else None)  # of logs: they end after the others
    for last in psutil.wait_procs(writers, 10)[1]:
        last.kill()


def leftovers(name: str | None = None) -> list[psutil.Process]:
    """Processes with the mark of a service, or of any. A program that writes its title over its environment hides the
    mark: such ones are found by their session, which is that of the recorded process."""
    if not FOLDER.is_dir():
        return []
    wanted = mark(name or "")
    sessions = {session for file in FOLDER.glob(f"{name or '*'}.json") if (session := _session(file.stem)) is not None}
    found = []
    for process in psutil.process_iter(["environ"]):
        marked = (process.info["environ"] or {}).get(MARK, "")
        with suppress(ProcessLookupError, PermissionError, psutil.Error):
            ours = marked == wanted if name else marked.startswith(wanted)
            if ours or (os.getsid(process.pid) in sessions and _works_here(process)):
                found.append(process)
    return found


def _writes_log(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.environ().get(MARK, "").endswith(LOG)
    return False


def _works_here(process: psutil.Process) -> bool:
    return Path(process.cwd()).is_relative_to(Path.cwd())


def _session(name: str) -> int | None:
    """The session that a recorded service leads, or led; None where its number has gone to another process since."""
    known = record(name)
    if known is None:
        return None
    with suppress(psutil.NoSuchProcess):
        if not is_started(psutil.Process(known["pid"]), known):
            return None
        return known["pid"] if running(name) is not None else None  # a copied checkout's record
    return known["pid"]
