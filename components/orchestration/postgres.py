"""Debian's Postgres as a process of `make up`: never root's, on the loopback, with a user and a database each for MLflow and
Airflow."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from components.errors import BadInput
from components.files.atomic import put_in_place
from components.files.text import read_text
from components.orchestration.service import MARK, SETUP, as_user, mark, set_up

INSTALLED = Path("/usr/lib/postgresql")
USER = "postgres"  # Debian's package makes it
DATABASES = Path("infra/helm/reelign/files/databases.sh")
SECONDS = 60.0
ANSWER_SECONDS = 10.0


def programs(data: Path | None = None) -> Path:
    """The folder of Postgres's programs: of the version that made `data`, else of the newest. BadInput without one."""
    found = {place.parent.name: place for place in INSTALLED.glob("*/bin")}
    if data is not None and data.exists():
        version = read_text(data / "PG_VERSION").strip()
    else:
        version = max(found, key=float, default="")
    if version not in found:
        raise BadInput(INSTALLED / version, "no Postgres here; `make postgres` installs Debian's")
    return found[version]


def server(data: Path, port: int) -> list[str]:
    """The command of the server: TCP on the loopback alone."""
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
    words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    return [str(programs(data) / "postgres"), "-D", str(data), *words]


def client(port: int, user: str, password: str) -> dict[str, str]:
    """Variables of Postgres's own programs."""
    return {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": user, "PGPASSWORD": password}


def answers(data: Path, port: int, password: str) -> bool:
    """The health check of infra/compose.yaml."""
    if not listens(port):
        return False
    command = [programs(data) / "psql", "--dbname=airflow", "--command=SELECT 1"]
    environment = os.environ | client(port, "airflow", password)
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=ANSWER_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:  # a server that hangs still takes connections
        return False
    return done.returncode == 0


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def make_cluster(data: Path, port: int, environment: Mapping[str, str], passwords: Mapping[str, str]) -> None:
    """Make `data` with its users and databases, whole or not at all, unless it is there.

    `passwords`: POSTGRES_PASSWORD of the superuser, and those that the script of the databases reads. BadInput where the
    service's account cannot enter the folder.
    """
    if data.exists():
        remove_lock_of_zombie(data)
        end_backends(data)
        return
    home, new, password = data.parent, data.with_name("new"), data.with_name("password")
    shutil.rmtree(new, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    if os.geteuid() == 0:
        shutil.chown(home, USER, USER)
        check_entrance(home)
    bin = programs()
    try:
        password.touch(0o600)
        password.write_text(passwords["POSTGRES_PASSWORD"])
        if os.geteuid() == 0:
            shutil.chown(password, USER, USER)
        words = [bin / "initdb", "-D", new, "-U", "postgres", f"--pwfile={password}", "-A", "scram-sha-256", "-E", "UTF8"]
        set_up([*words, "--locale=C.UTF-8", "--no-instructions"], environment, "initdb", USER)
    finally:
        password.unlink(missing_ok=True)
    process = subprocess.Popen(
        server(new, port), env={**environment, MARK: mark(SETUP)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **as_user(USER),
    )  # fmt: skip
    try:
        superuser = {**environment, **passwords, **client(port, "postgres", passwords["POSTGRES_PASSWORD"])}
        superuser["PATH"] = f"{bin}:{superuser['PATH']}"
        await_server(process, port)
        set_up(["bash", "-euc", DATABASES.read_text()], superuser, str(DATABASES))
    finally:
        process.send_signal(signal.SIGINT)  # an orderly end that waits for no client
        process.wait(SECONDS)
    put_in_place(new, data)


def remove_lock_of_zombie(data: Path) -> None:
    """Postgres takes a killed server for a running one as long as nobody has collected its exit code: in a container
    without an init that is for ever. Locks of other dead servers it removes itself."""
    lock = data / "postmaster.pid"
    with suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        if psutil.Process(int(lock.read_text().split()[0])).status() == psutil.STATUS_ZOMBIE:
            lock.unlink()


def end_backends(data: Path) -> None:
    """Kill what a killed server left working in `data`, for which another one does not start: a query may run for hours."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(data.resolve()):
            with suppress(psutil.NoSuchProcess):
                process.kill()
                found.append(process)
    psutil.wait_procs(found, 10)


def await_server(process: subprocess.Popen, port: int) -> None:
    deadline = time.monotonic() + SECONDS
    while not listens(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise BadInput("postgres", f"does not start on port {port}")
        time.sleep(0.1)


def check_entrance(folder: Path) -> None:
    """BadInput that names the folder which keeps the service's account out."""
    for place in (*reversed(folder.absolute().parents), folder.absolute()):
        if subprocess.run(["test", "-x", place], **as_user(USER)).returncode:
            why = f"Postgres never runs as root, and its account `{USER}` cannot enter this folder: `chmod o+x {place}`"
            raise BadInput(place, f"{why}, or move the checkout")
