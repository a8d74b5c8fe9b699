"""Who may manage a server, on a real one: each group of calls, over HTTP and gRPC, with and without the key."""

import os
import stat
import urllib.error
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from components.errors import BadInput
from components.serving.access import HEADER, VARIABLE, key_file, make_key, read_key
from components.serving.client import FRAMES_MODEL, frame_tensors, score_remote
from components.serving.management import managing
from tests.serving.conftest import clip

GRPC = f"triton-grpc-protocol-{HEADER}"  # Triton puts the first part before the name
HTTP_CALLS = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/none/unload"),
    ("POST", "/v2/repository/models/video_reward/load"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("POST", "/v2/systemsharedmemory/region/none/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("GET", "/v2/models/video_reward/trace/setting"),
    ("POST", "/v2/models/video_reward/trace/setting"),
]
GRPC_CALLS = [
    ("get_model_repository_index",),
    ("load_model", "video_reward"),
    ("unload_model", "none"),
    ("get_system_shared_memory_status",),
    ("unregister_system_shared_memory",),
    ("get_cuda_shared_memory_status",),
    ("unregister_cuda_shared_memory",),
    ("get_log_settings",),
    ("update_log_settings", {}),
    ("get_trace_settings",),
    ("update_trace_settings",),
]
KEYS = {"none": lambda key: None, "another": lambda key: "f" * len(key), "a part": lambda key: key[:-1]}


def ask(server, method: str, path: str, **headers: str) -> tuple[int, str]:
    data = b"{}" if method == "POST" else None
    request = urllib.request.Request(f"http://{server.http}{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.serving
@pytest.mark.parametrize("wrong", KEYS)
def test_managing_needs_the_key_and_scoring_does_not(server, repository, wrong):
    key = read_key(repository)
    bad, good = KEYS[wrong](key), key
    for method, path in HTTP_CALLS:
        assert ask(server, method, path, **({HEADER: bad} if bad else {}))[0] == 403, path
        assert ask(server, method, path, **{HEADER: good})[0] == 200, path
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        for name, *words in GRPC_CALLS:
            with pytest.raises(InferenceServerException, match=GRPC):
                getattr(client, name)(*words, headers={GRPC: bad} if bad else None)
            getattr(client, name)(*words, headers={GRPC: good})
    for path in ("/v2/health/ready", "/v2/models/video_reward/ready", "/v2/models/video_reward/config"):
        assert ask(server, "GET", path)[0] == 200
    for url in (server.http, f"grpc://{server.grpc}"):
        [score] = score_remote(url, [(clip(0, 9, 32, 32), "a red circle")])
        assert score.normalised


@pytest.mark.serving
def test_a_page_in_a_browser_gets_neither_management_nor_scores(server):
    """Preflight of a request with the key's header is refused; a score, which needs none, is refused by the backend."""
    page = {"Origin": "http://page.example", "Access-Control-Request-Headers": HEADER}
    status, _ = ask(server, "OPTIONS", "/v2/repository/index", **page)
    assert status in (403, 405)
    with triton_http.InferenceServerClient(server.http) as client:
        tensors = frame_tensors(triton_http, clip(0, 9, 32, 32), "a red circle")
        assert client.infer(FRAMES_MODEL, tensors).as_numpy("overall").dtype == np.float64
        for name in ("Origin", "origin", "ORIGIN"):
            with pytest.raises(InferenceServerException, match="a page in a browser"):
                client.infer(FRAMES_MODEL, tensors, headers={name: "http://page.example"})


@pytest.mark.serving
def test_another_key_is_named(server, repository, monkeypatch):
    monkeypatch.setenv(VARIABLE, "0" * 32)
    with (
        managing(f"http://{server.http}", repository) as management,
        pytest.raises(BadInput, match="the server has another key than this repository"),
    ):
        management.loaded_versions()
    monkeypatch.delenv(VARIABLE)
    with managing(f"http://{server.http}", repository) as management:
        assert management.loaded_versions() == [1] and management.served() == {1}


def test_the_key_is_its_owners_alone(tmp_path, monkeypatch):
    """Made once, whatever the umask; refused where others may read it, and where it is none."""
    monkeypatch.delenv(VARIABLE, raising=False)
    live = tmp_path / "live"
    with pytest.raises(BadInput, match=r"live.key: missing; `reelign serve` makes it"):
        read_key(live)
    before = os.umask(0)
    try:
        key = make_key(live)
    finally:
        os.umask(before)
    file = key_file(live)
    assert file == tmp_path / "live.key" and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert make_key(live) == read_key(live) == key and len(key) == 64
    file.chmod(0o640)
    with pytest.raises(BadInput, match="others may read it"):
        make_key(live)
    file.chmod(0o600)
    for bad in ("", "short", "with,comma,and=sign:0000000000"):
        file.write_text(bad)
        with pytest.raises(BadInput, match="no key"):
            read_key(live)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=r"live\.key: UTF-16 text"):
        read_key(live)
    monkeypatch.setenv(VARIABLE, "x" * 20)
    assert make_key(live) == "x" * 20, "a container's comes by its environment"
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(BadInput, match=rf"{VARIABLE}: no key"):
        make_key(live)
