"""MLflow's store: its address, its availability, and the location of its artifacts.

The embedded store is a sqlite file with the folder `mlartifacts` beside it. All artifact locations in it are relative, so
that a checkout may be moved, copied or restored. A tracking server chooses its own locations.
"""

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from components.errors import BadInput, Unreachable
from components.files.locks import sole_writer

STORE = "sqlite:///mlflow.db"
ARTIFACTS = "mlartifacts"
PROXIED = "mlflow-artifacts:"  # the scheme of locations on a tracking server
PATIENCE = 20.0  # seconds that a command waits for a tracking server
# Columns of MLflow's tables with artifact locations.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
# Status codes of a starting server, or of a proxy in front of it.
NOT_YET = (429, 500, 502, 503, 504)
# Codes of MLflow's errors that concern the server and not the request.
OF_THE_SERVER = {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "REQUEST_LIMIT_EXCEEDED",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "ENDPOINT_NOT_FOUND",
}


def store_uri() -> str:
    """MLFLOW_TRACKING_URI, else the embedded store. BadInput where it is neither a sqlite file nor a server's address."""
    given = os.environ.get("MLFLOW_TRACKING_URI") or STORE
    if given.startswith("sqlite:///") and database(given) != Path():
        return given
    try:
        parts = urlsplit(given)
        fine = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:  # a port that is no number, half an IPv6 address
        fine = False
    if not fine:
        raise BadInput("MLFLOW_TRACKING_URI", f"'{redacted(given)}' is neither http(s)://SERVER:PORT nor sqlite:///FILE")
    return given


def database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def embedded_store() -> Path | None:
    """The file of the embedded store; None with a tracking server."""
    uri = store_uri()
    return database(uri).absolute() if uri.startswith("sqlite:") else None


def redacted(uri: str) -> str:
    """A store's URI for printing, without user name and password, even one with a slash. Of one that is no address of a
    server, only what follows the last @: where its password begins is not known."""
    if uri.startswith("sqlite:///"):
        return uri
    scheme = next((known for known in ("http://", "https://") if uri.startswith(known)), "")
    return scheme + uri.removeprefix(scheme).rpartition("@")[2]


@contextmanager
def answering() -> Iterator[None]:
    """Raise Unreachable instead of MLflow's errors where its server does not respond, or responds wrongly."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError, RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        cause = error if isinstance(error, RequestException) else error.__context__
        if isinstance(cause, HTTPError) and cause.response is not None:
            why = f"MLflow answers with {cause.response.status_code}; see its log"
        elif isinstance(cause, RequestException):
            why = f"MLflow does not answer ({type(cause).__name__})"
        elif isinstance(error, MlflowException) and embedded_store() is None and error.error_code in OF_THE_SERVER:
            why = f"MLflow answers with an error ({error.error_code}); see its log"
        else:
            raise
        raise Unreachable(redacted(store_uri()), why) from error


def mlflow_client() -> Any:
    """A quiet MlflowClient of the store. Unreachable where a server does not answer within PATIENCE; BadInput where the
    embedded store cannot be used."""
    # Progress bars and the banner of the job server have no place in a stage's log.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import logging

    import mlflow

    for name in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    file = embedded_store()
    if file is None:
        mlflow.set_tracking_uri(store_uri())
        if redacted(store_uri()) != store_uri():  # at the end of a run MLflow prints its address, with the password
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        await_server()
        return mlflow.MlflowClient()
    relocate(file)
    # MLflow caches one engine per URI and process: a relative URI would mean another file after a chdir.
    mlflow.set_tracking_uri(f"sqlite:///{file}")
    if _has_experiments(file):
        return mlflow.MlflowClient()
    with one_at_a_time(file):  # MLflow's making of its tables fails in two processes
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        return client


def all_pages(search: Callable[..., Any], *given: Any, **named: Any) -> Iterator[Any]:
    """All results of a search of MLflow's client; one call returns a page of 100 to 10,000."""
    token = None
    while True:
        page = search(*given, **named, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def one_at_a_time(store: Path) -> Iterator[None]:
    """This process alone makes what all share in an embedded store: tables, an experiment. Others wait."""
    with sole_writer(store.with_name(ARTIFACTS) / "making", waits=lambda holder: None):
        yield


def _has_experiments(file: Path) -> bool:
    """Whether an embedded store is complete: MLflow creates the experiment Default last."""
    if not file.exists():
        return False
    with closing(sqlite3.connect(file, timeout=60)) as store, suppress(sqlite3.OperationalError):  # no such table
        return store.execute("SELECT 1 FROM experiments").fetchone() is not None
    return False


def await_server(patience: float = PATIENCE) -> None:
    """Return once the tracking server responds as MLflow. Unreachable after `patience` seconds, and at once where another
    program responds or access is denied. With MLFLOW_HTTP_REQUEST_MAX_RETRIES=0 there is a single try."""
    uri, begun, allowed = store_uri(), time.monotonic(), 3.0
    where = redacted(uri)
    once = os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES") == "0"
    while problem := _ask(uri, allowed):
        left = patience - (time.monotonic() - begun)
        if once or left <= 1:
            raise Unreachable(where, f"MLflow does not answer ({problem})")
        if allowed == 3.0:
            print(f"MLflow at {where} does not answer ({problem}): waiting {left:.0f} s for it", file=sys.stderr, flush=True)
        time.sleep(1)
        allowed = min(2 * allowed, left)


def _ask(uri: str, seconds: float) -> str | None:
    """Send one request with MLflow's credentials: None on success, else a problem that may be temporary."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    where = redacted(uri)
    try:
        answer: Any = http_request(
            get_default_host_creds(uri), "/api/2.0/mlflow/experiments/search", "POST", max_retries=0, timeout=seconds,
            raise_on_status=False, json={"max_results": 1},
        )  # fmt: skip
    except MlflowException as error:
        return type(error.__context__ or error).__name__
    status, kind = answer.status_code, answer.headers.get("Content-Type", "no type").partition(";")[0]
    if status in NOT_YET:
        return str(status)
    if status in (401, 403):
        hint = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise Unreachable(where, f"access is refused ({status}); MLflow's clients read credentials from {hint}")
    if status != 200 or kind != "application/json":
        raise Unreachable(where, f"something answers, but not as MLflow does ({status}, {kind})")
    return None


def relocate(file: Path) -> None:
    """Make the artifact locations in an embedded store relative to it; older ones are absolute, and a moved or copied
    checkout would use the old folder.

    BadInput where the artifacts were left behind, or an experiment of ours keeps them in a folder of another kind, and where
    the store is damaged.
    """
    if not file.exists():
        return
    if not file.stat().st_size and any(place.is_dir() for place in file.with_name(ARTIFACTS).glob("*")):
        # SQLite would begin a new one without a word.
        raise BadInput(file, f"empty, and {ARTIFACTS} has artifacts of runs: bring a copy back, or move both away")
    try:
        with closing(sqlite3.connect(file, timeout=60)) as store:
            if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'logged_models'").fetchone():
                return  # another process is creating it
            ours = "name = 'Default' OR name LIKE 'reelign-%'"
            for name, place in store.execute(f"SELECT name, artifact_location FROM experiments WHERE {ours}").fetchall():
                if is_absolute(place):
                    _make_relative(store, file, name, place)
            store.commit()
    except sqlite3.DatabaseError as error:
        raise BadInput(file, f"cannot be used as MLflow's store ({error})") from error


def _make_relative(store: sqlite3.Connection, file: Path, name: str, place: str) -> None:
    folder, here = Path(unquote(urlsplit(place).path)), file.with_name(ARTIFACTS)
    relative = ARTIFACTS
    if name == "Default":  # MLflow's default experiment, which reelign does not use
        relative = "mlruns/0"
        if not folder.match(relative):
            return
    elif folder.name != ARTIFACTS:
        why = f"has its artifacts in {folder}, not in {here}; `mlflow experiments rename` keeps it under another name"
        raise BadInput(file, f"experiment {name} {why}")
    elif folder != here and folder.exists() and not here.exists():
        raise BadInput(file, f"its artifacts were left in {folder}: copy or move that folder to {here}")
    for table, column in PLACES:
        store.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
            (relative, len(place) + 1, place, len(place) + 1, f"{place}/"),
        )


def is_absolute(place: str) -> bool:
    return place.startswith(("/", "file:/"))


def artifact_place(place: str) -> str:
    """The URI for reading and writing artifacts of a recorded location. `mlartifacts/X` in an embedded store and
    `mlflow-artifacts:/X` behind a server on that store are the same folder, whichever of the two made the record."""
    file = embedded_store()
    if file is None:
        return f"{PROXIED}/{place.removeprefix(ARTIFACTS).lstrip('/')}" if place.startswith(ARTIFACTS) else place
    if place.startswith(PROXIED):
        place = f"{ARTIFACTS}/{urlsplit(place).path.lstrip('/')}"
    return place if ":/" in place else str(file.parent / place)


def artifacts_of(client: Any, run_id: str) -> Any:
    """MLflow's ArtifactRepository of a run, independent of the working directory."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(artifact_place(client.get_run(run_id).info.artifact_uri))
