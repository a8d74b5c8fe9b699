"""MLflow's store: it moves with its checkout, and a server that does not answer is one line."""

import errno
import http.server
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.errors import BadInput, Unreachable, exit_codes
from components.pipeline.mlflow_store import (
    ARTIFACTS,
    PLACES,
    answering,
    artifact_place,
    artifacts_of,
    await_server,
    mlflow_client,
    redacted,
    store_uri,
)
from components.pipeline.tracking import _experiment
from components.registry.versions import FILES, bring, fetch
from tests.conftest import REPOSITORY

PROFILE = "shapes"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder that no test has been in: MLFLOW_TRACKING_URI unset, as for a user."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout with a store that has one run with an artifact and a registered model; its run."""
    folder = tmp_path_factory.mktemp("made") / "with space"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        client = mlflow_client()
        run = client.create_run(_experiment(client, PROFILE))
        Path("model").mkdir()
        Path("model/weights").write_text("ours")
        artifacts_of(client, run.info.run_id).log_artifacts("model", "m")
        client.create_registered_model("m")
        client.create_model_version("m", source=f"{run.info.artifact_uri}/m", run_id=run.info.run_id)
    return folder, run.info.run_id


def places(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return {row[0] for table, column in PLACES for row in store.execute(f"SELECT {column} FROM {table}")}


def as_older_versions_wrote(folder: Path, home: Path) -> None:
    """Give the store absolute places below `home`, as it had them."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        for table, column in PLACES:
            store.execute(f"UPDATE {table} SET {column} = ? || {column}", (f"{home.as_uri()}/",))
        store.commit()


def write_and_read(run_id: str) -> str:
    """Write an artifact, and what the registered model's files say."""
    client = mlflow_client()
    Path("note").write_text("new")
    artifacts_of(client, run_id).log_artifact("note")
    return (fetch(client.get_model_version("m", "1")).folder / "weights").read_text()


def test_no_place_in_the_store_is_absolute(made):
    folder, run_id = made
    found = places(folder)
    assert found == {"mlruns/0", ARTIFACTS, f"{ARTIFACTS}/{run_id}/artifacts", f"{ARTIFACTS}/{run_id}/artifacts/m"}
    assert (folder / ARTIFACTS / run_id / "artifacts/m/weights").read_text() == "ours"


@pytest.mark.parametrize("older", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("old_stays", [True, False], ids=["copied", "moved"])
def test_a_checkout_elsewhere_reads_and_writes_its_own_artifacts(made, here, older, old_stays):
    folder, run_id = made
    old, new = here / "old", here / "new"
    shutil.copytree(folder, old)
    if older:
        as_older_versions_wrote(old, old)
    shutil.copytree(old, new)
    if old_stays:
        (old / ARTIFACTS / run_id / "artifacts/m/weights").write_text("theirs")
    else:
        shutil.rmtree(old)
    os.chdir(new)
    assert write_and_read(run_id) == "ours"
    assert (new / ARTIFACTS / run_id / "artifacts/note").exists()
    assert not (old / ARTIFACTS / run_id / "artifacts/note").exists()
    assert not any(str(old) in place for place in places(new))


STAGE = """
import sys
from components.pipeline.graph import stage_definition
from components.config.params import load_params
from components.pipeline.tracking import ChildRun
run = ChildRun(sys.argv[1], "digest", stage_definition("pairs"), load_params(), {})
run.log({"figure": 1.0})
run.close("FINISHED", 1.0, {})
"""


def test_stages_make_one_store_at_once(here):
    """Each task of a DAG is a process: tables, experiment, parent and child; no place is absolute."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(REPOSITORY / name, here / name)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    stages = [subprocess.Popen([sys.executable, "-c", STAGE, str(n)], cwd=here, env=environment, **pipes) for n in range(3)]
    ended = [(stage.communicate()[0], stage.returncode) for stage in stages]
    assert [code for _, code in ended] == [0, 0, 0], ended
    assert all(place == "mlruns/0" or place.startswith(ARTIFACTS) for place in places(here)), places(here)
    with closing(sqlite3.connect(here / "mlflow.db")) as store:
        assert store.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone() == (6,)


def test_artifacts_are_beside_the_store_wherever_a_stage_works(made, here, monkeypatch):
    folder, run_id = made
    shutil.copytree(folder, here / "home")
    (here / "tree").mkdir()
    monkeypatch.chdir(here / "tree")  # as a stage's own tree, or a second checkout of one store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/home/mlflow.db")
    assert write_and_read(run_id) == "ours"
    assert (here / "home" / ARTIFACTS / run_id / "artifacts/note").exists() and not Path(ARTIFACTS).exists()


def test_artifacts_that_were_left_behind_are_not_used_silently(made, here):
    shutil.copytree(made[0], here / "old")
    as_older_versions_wrote(here / "old", here / "old")
    (here / "new").mkdir()
    shutil.copy(here / "old/mlflow.db", here / "new/mlflow.db")
    os.chdir(here / "new")
    with pytest.raises(BadInput, match=r"mlflow\.db: its artifacts were left in .*/old/mlartifacts: copy or move that"):
        mlflow_client()
    shutil.rmtree(here / "old")  # nowhere now: runs go on, the model's files are missed by name
    client = mlflow_client()
    with pytest.raises(BadInput, match=r"m/1: its files are not in .*/new/mlartifacts/"):
        fetch(client.get_model_version("m", "1"))


def test_a_full_disk_here_is_not_taken_for_files_that_are_missing(made, here, monkeypatch, capsys):
    shutil.copytree(made[0], here / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/store/mlflow.db")
    record = mlflow_client().get_model_version("m", "1")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "part")

    monkeypatch.setattr("components.registry.versions.bring", full)
    with pytest.raises(SystemExit) as ended, exit_codes():
        fetch(record)
    assert (ended.value.code, capsys.readouterr().err) == (4, "error: part: No space left on device\n")


def test_of_two_that_bring_a_version_at_once_both_have_it(made, here, monkeypatch):
    """The second has its files when the first has put its own in place."""
    shutil.copytree(made[0], here / "store")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{here}/store/mlflow.db")
    record, first = mlflow_client().get_model_version("m", "1"), []

    def while_another_does(*given):
        monkeypatch.setattr("components.registry.versions.bring", bring)
        first.append(fetch(record))
        return bring(*given)

    monkeypatch.setattr("components.registry.versions.bring", while_another_does)
    assert fetch(record) == first[0] and any(first[0].folder.iterdir())
    assert list((FILES / "partial").iterdir()) == []


def test_another_folder_on_record_and_a_damaged_store_are_refused(made, here):
    shutil.copy(made[0] / "mlflow.db", "mlflow.db")
    with closing(sqlite3.connect("mlflow.db")) as store:
        store.execute("UPDATE experiments SET artifact_location = 'file:///elsewhere/runs' WHERE name != 'Default'")
        store.commit()
    with pytest.raises(BadInput, match="experiment reelign-shapes has its artifacts in /elsewhere/runs, not in"):
        mlflow_client()
    Path("mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(BadInput, match=r"mlflow\.db: cannot be used as MLflow's store"):
        mlflow_client()


def test_store_and_server_mean_the_same_folder(here, monkeypatch):
    assert artifact_place("mlartifacts/r/artifacts") == f"{here}/mlartifacts/r/artifacts"
    assert artifact_place("mlflow-artifacts:/2/r/artifacts") == f"{here}/mlartifacts/2/r/artifacts"
    assert artifact_place("s3://bucket/r") == "s3://bucket/r" and artifact_place("/a/b") == "/a/b"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert artifact_place("mlartifacts/r/artifacts") == "mlflow-artifacts:/r/artifacts"
    assert artifact_place("mlflow-artifacts:/2/r/artifacts") == "mlflow-artifacts:/2/r/artifacts"


@pytest.mark.parametrize(
    "uri",
    [
        *("ftp://host", "127.0.0.1:5000", "mlflow.internal", "./mlruns", "file:///runs"),
        *("http://", "http://[::1", "http://h:port", "sqlite:///", "postgresql://u:secret@db/mlflow"),
        *("u:secret@h:5000", "http//u:secret@h", "postgresql://u:secret/secret@h/db", "http://u:s/secret@h:port"),
    ],
)
def test_an_address_that_is_none_is_named_without_its_password(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(BadInput, match=r"MLFLOW_TRACKING_URI: '.*' is neither http") as caught:
        mlflow_client()
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_address_is_none(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert store_uri() == "sqlite:///mlflow.db"


def test_passwords_are_not_shown():
    assert redacted("https://me:p@ss/w@mlflow.example:5000/a") == "https://mlflow.example:5000/a"
    assert redacted("u:p@h:5000") == "h:5000" and redacted("postgresql://u:pa/ss@h/db") == "h/db"
    assert redacted("http://mlflow:5000") == "http://mlflow:5000"
    assert redacted("sqlite:////home/me@work/mlflow.db") == "sqlite:////home/me@work/mlflow.db"


@contextmanager
def server_of(status=200, kind="text/html", body=b"<html>", silent=False, healthy_after=99):
    """A server that is no MLflow, or one only from its n-th request on; its address."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            if silent:
                time.sleep(4)
            well = len(asked) >= healthy_after
            self.send_response(200 if well else status)
            self.send_header("Content-Type", "application/json" if well else kind)
            self.end_headers()
            self.wfile.write(b"{}" if well else body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # a client that went away
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"status": 200}, r"something answers, but not as MLflow does \(200, text/html\)"),
        ({"status": 404}, r"not as MLflow does \(404, text/html\)"),
        ({"status": 401}, r"access is refused \(401\); MLflow's clients read credentials from MLFLOW_TRACKING_USERNAME"),
        ({"status": 403, "kind": "application/json", "body": b"{}"}, r"access is refused \(403\)"),
        ({"status": 503}, r"MLflow does not answer \(503\)"),
        ({"status": 500, "kind": "application/json", "body": b"{}"}, r"MLflow does not answer \(500\)"),
        ({"silent": True}, r"MLflow does not answer \(ConnectionError\)"),
    ],
)
def test_what_answers_otherwise_than_mlflow_is_named(monkeypatch, capsys, answer, says):
    with server_of(**answer) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(Unreachable, match=rf"^http://127\.0\.0\.1:\d+: .*{says}") as caught:
            await_server(patience=5 if "silent" in answer else 2)
    said = capsys.readouterr().err
    assert "secret" not in f"{caught.value}{said}"
    transient = "does not answer" in says
    assert said.count("\n") == transient and (not transient or "waiting" in said)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid"])
def test_a_server_that_is_not_there_is_given_up_in_time(monkeypatch, capsys, host):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{host}")
    waited: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(waited), sleep=waited.append)
    monkeypatch.setattr("components.pipeline.mlflow_store.time", clock)
    with pytest.raises(Unreachable, match=rf"^http://{host}: MLflow does not answer \(\w+\)$"):
        await_server(patience=3)
    assert sum(waited) == 2 and "waiting 3 s" in capsys.readouterr().err


def test_a_server_that_is_just_starting_is_waited_for(monkeypatch, capsys):
    with server_of(status=503, healthy_after=2) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        await_server(patience=20)
    assert "does not answer (503): waiting" in capsys.readouterr().err


def test_a_server_that_goes_away_later_is_unreachable(monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://me:secret@127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(Unreachable, match="MLflow does not answer") as caught, answering():
        MlflowClient(uri).search_experiments()
    assert "secret" not in str(caught.value)
    with server_of(status=404) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(Unreachable, match="MLflow answers with an error") as caught, answering():
            MlflowClient(uri).search_experiments()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("address", "shown"), [("http://me:hush@127.0.0.1:9", False), ("http://127.0.0.1:9", True)])
def test_mlflow_prints_no_address_that_has_a_password(here, monkeypatch, capsys, address, shown):
    """Where a run ends it prints the run's address into the stage's log."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")
    monkeypatch.setattr("components.pipeline.mlflow_store.await_server", lambda: None)
    client = mlflow_client()._tracking_client
    info, data = SimpleNamespace(experiment_id="1", run_name="a run"), SimpleNamespace(tags={})
    monkeypatch.setattr(client.store, "get_run", lambda run_id: SimpleNamespace(info=info, data=data))
    client._log_url("0123")
    said = capsys.readouterr()
    assert ("a run at: http://127.0.0.1:9/" in said.out) == shown and "hush" not in said.out + said.err
