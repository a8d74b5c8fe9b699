"""Who may manage a Triton server, and who may call the gateway.

Whoever reaches Triton's port could load and unload models, map shared memory, and change logging and traces. Triton refuses
these groups, over HTTP and gRPC, without a header that has a key (`--http-restricted-api`, `--grpc-restricted-protocol`).

`reelign serve` makes the key: a file beside the repository, NAME.key, that its owner alone may read. In containers and pods
it comes by the environment variable REELIGN_TRITON_KEY. Scoring, health and metadata need no key. Triton takes the key as an
argument: whoever may list this machine's processes reads it there, unless /proc is mounted with hidepid=2.

A page in a browser cannot send the header: a browser first requests the server's permission (CORS), which Triton never
gives. Requests for scores come to the backend with their header Origin, and it refuses those that have one
(backend/entry.py).
"""

import ipaddress
import os
import re
import secrets
from pathlib import Path

from components.errors import BadInput
from components.files.atomic import atomic_write
from components.files.text import read_text

HEADER = "reelign-key"
VARIABLE = "REELIGN_TRITON_KEY"
TOKEN_VARIABLE = "REELIGN_GATEWAY_TOKEN"
GROUPS = "model-repository,shared-memory,trace,logging"
KEY = re.compile(r"[0-9A-Za-z_-]{16,}")  # Triton's options take ':', '=' and ',' apart


def options(key: str) -> list[str]:
    """Triton's options for this key."""
    return [
        f"--http-restricted-api={GROUPS}:{HEADER}={key}",
        f"--grpc-restricted-protocol={GROUPS}:{HEADER}={key}",
        "--http-header-forward-pattern=(?i)origin",
    ]


def key_file(repository: Path) -> Path:
    """Where `reelign serve` keeps the key of the server of this repository."""
    folder = repository.resolve()
    return folder.with_name(f"{folder.name}.key")


def make_key(repository: Path) -> str:
    """The key for a server that is to start; made where there is none. BadInput as of read_key."""
    file = key_file(repository)
    if VARIABLE not in os.environ and not file.exists():
        atomic_write(file, f"{secrets.token_hex(32)}\n", private=True)
    return read_key(repository)


def read_key(repository: Path) -> str:
    """The key of the server of this repository. BadInput where there is none, others may read it, or
    it is no key."""
    if VARIABLE in os.environ:
        where, key = VARIABLE, os.environ[VARIABLE].strip()
    else:
        where = key_file(repository)
        if not where.exists():
            raise BadInput(where, f"missing; `reelign serve` makes it, and a server in a container has it in {VARIABLE}")
        if where.stat().st_mode & 0o077:
            raise BadInput(where, "others may read it; remove it and start the server again")
        key = read_text(where).strip()
    return checked(where, key)


def gateway_token(file: Path | None) -> str | None:
    """The token that callers of the gateway must send: of the file, or else of the environment; None where neither has one.
    BadInput where others may read the file, or it holds no token."""
    if file is not None:
        if not file.exists():
            raise BadInput(file, "missing")
        if file.stat().st_mode & 0o077:
            raise BadInput(file, "others may read it: chmod 600")
        return checked(file, read_text(file).strip())
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    return checked(TOKEN_VARIABLE, token) if token else None


def need_token(host: str, token: str | None) -> None:
    """BadInput where a gateway without a token would listen for other machines."""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if token is None and not local:
        raise BadInput(host, f"other machines reach it: give --token-file or {TOKEN_VARIABLE}", key="--host")


def checked(where: Path | str, key: str) -> str:
    if not KEY.fullmatch(key):
        raise BadInput(where, "no key: at least 16 letters, digits, - or _; `openssl rand -hex 32` makes one")
    return key
