"""Models fetched by name and revision from a server that speaks the hub's protocol."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from components.errors import disk_error
from components.pipeline.stage import folder_digest

COMMITS = {"main": "a" * 40, "v1": "b" * 40}
FILES = {
    "a" * 40: {"model_index.json": b'{"new": 1}', "transformer/weights.safetensors": bytes(100_000), "pickle.bin": b"x"},
    "b" * 40: {"model_index.json": b'{"old": 1}'},
}


class Hub(BaseHTTPRequestHandler):
    """team/model with two revisions."""

    cut_off = False  # answer half of each file and hang up

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        if path.startswith("/api/models/team/model"):
            kind, _, revision = path.removeprefix("/api/models/team/model").strip("/").partition("/")
            commit = COMMITS.get(revision or "main", revision)
            if commit not in FILES:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif kind == "tree":
                self.answer(200, json.dumps([entry(name, data) for name, data in FILES[commit].items()]).encode())
            else:
                siblings = [{"rfilename": name} for name in FILES[commit]]
                self.answer(200, json.dumps({"id": "team/model", "sha": commit, "siblings": siblings}).encode())
        elif path.startswith("/team/model/resolve/"):
            commit, _, name = path.removeprefix("/team/model/resolve/").partition("/")
            data = FILES[commit][name]
            self.answer(200, data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})
        else:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if type(self).cut_off and len(body) > 50_000 else body)

    def log_message(self, *_: object) -> None:
        pass


def entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(Hub, "cut_off", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def fetch(endpoint: str, model: str, folder: Path, *more: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder.parent / "home"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "components.cli.main", "fetch", model, "--to", str(folder), *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_revision_is_fetched_and_pinned(hub, tmp_path):
    new, old = fetch(hub, "team/model", tmp_path / "new"), fetch(hub, "team/model@v1", tmp_path / "old")
    assert (new.returncode, old.returncode) == (0, 0), new.stderr + old.stderr
    files = {str(path.relative_to(tmp_path / "new")): path.read_bytes() for path in (tmp_path / "new").rglob("*.*")}
    assert files == {name: data for name, data in FILES["a" * 40].items() if name != "pickle.bin"}
    assert new.stdout.split() == [f"{tmp_path}/new:", "commit", f"{'a' * 40},", "digest", folder_digest(tmp_path / "new")]
    assert (tmp_path / "old/model_index.json").read_bytes() == b'{"old": 1}'
    assert fetch(hub, "team/model", tmp_path / "new").stdout == new.stdout


def test_what_is_not_there_is_one_line(hub, tmp_path):
    for model in ("team/nothing", "team/model@v9", "a/b/c"):
        said = fetch(hub, model, tmp_path / "folder")
        assert said.returncode == 2
        assert said.stderr.splitlines()[-1].startswith(f"error: {model}: not on {hub}")


def test_a_hub_that_does_not_answer_or_breaks_off(hub, tmp_path, monkeypatch):
    said = fetch("http://127.0.0.1:9", "team/model", tmp_path / "folder")
    assert said.returncode == 4 and said.stderr.splitlines()[-1].startswith("error: http://127.0.0.1:9: ")
    monkeypatch.setattr(Hub, "cut_off", True)
    said = fetch(hub, "team/model", tmp_path / "folder")
    assert said.returncode == 4, said.stderr
    assert not (tmp_path / "folder/transformer/weights.safetensors").exists()
    monkeypatch.setattr(Hub, "cut_off", False)
    assert fetch(hub, "team/model", tmp_path / "folder").returncode == 0
    assert (tmp_path / "folder/transformer/weights.safetensors").stat().st_size == 100_000


def test_a_model_that_is_not_the_one_wanted_is_refused(hub, tmp_path):
    first = fetch(hub, "team/model", tmp_path / "folder")
    digest = folder_digest(tmp_path / "folder")
    assert fetch(hub, "team/model", tmp_path / "folder", "--digest", digest).stdout == first.stdout
    said = fetch(hub, "team/model", tmp_path / "other", "--digest", "0123456789abcdef")
    why = f"has digest {digest}, expected was 0123456789abcdef (team/model at commit {'a' * 40}): do not use it"
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.splitlines()[-1] == f"error: {tmp_path}/other: {why}"


def test_a_full_disk_here_is_not_the_hubs_fault(hub, tmp_path):
    """A process whose files may have 20,000 bytes, in place of a disk that is full."""
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    program = f"{limit}; sys.argv[0] = 'reelign'; from components.cli.main import main; main()"
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", program, "fetch", "team/model", "--to", str(tmp_path / "new")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 4 and "File too large" in done.stderr and hub not in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    from components.cli.hub import fetch as bring

    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(sha="a" * 40))
    monkeypatch.setattr("huggingface_hub.snapshot_download", Mock(side_effect=denied))
    with pytest.raises(PermissionError) as caught:
        bring("team/model", tmp_path)
    assert disk_error(caught.value) == (f"{tmp_path / 'weights'}: Permission denied", 2)
