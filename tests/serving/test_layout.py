"""Repositories that an earlier version packaged: refused in one line before anything changes. `layout_1` is what the code
of commit da32428 wrote, without weights."""

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.cli.serving import copy_once, mend
from components.errors import BadInput
from components.serving import management
from components.serving.deploy import deploy, rollback, serves_already
from components.serving.layout import check_layout
from components.serving.record import Deployment, write_deployment
from components.serving.repository import BACKEND_FILE, LAYOUT, MODEL, backend_config, write_repository, write_version
from components.serving.server import start_triton
from tests.serving.conftest import PARAMS

OLD = Path(__file__).with_name("layout_1")
SAID = "packaged by an earlier version: run `dvc repro package` to package again"
URL = "http://127.0.0.1:1"


def put_old_backend(version: Path) -> None:
    shutil.copyfile(OLD / MODEL / "1/model.py.txt", version / "model.py")


@pytest.fixture
def old(tmp_path) -> Path:
    repository = tmp_path / "repository"
    shutil.copytree(OLD, repository)
    (repository / MODEL / "1/model.py.txt").rename(repository / MODEL / "1/model.py")
    return repository


@pytest.fixture
def mixed(model_folder, tmp_path) -> Path:
    """Version 2 of today serves; version 1, which served before, has the earlier backend."""
    repository = tmp_path / "mixed"
    write_repository(repository, model_folder, PARAMS)
    write_version(repository, model_folder, 2)
    (repository / MODEL / "config.pbtxt").write_text(backend_config(repository, PARAMS, [1, 2]))
    for front in ("video_reward", "video_reward_file"):
        config = repository / front / "config.pbtxt"
        config.write_text(config.read_text().replace("model_version: 1", "model_version: 2"))
    write_deployment(repository, Deployment(serving=2, before=1, verified=[1, 2]))
    put_old_backend(repository / MODEL / "1")
    return repository


def contents(folder: Path) -> dict[str, bytes]:
    """Locks aside, which are empty."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.stat().st_size
    }


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    monkeypatch.setattr(management.triton, "InferenceServerClient", lambda *_, **__: pytest.fail("it asked the server"))


def test_every_command_refuses_an_old_repository_and_changes_nothing(old, model_folder, tmp_path):
    (tmp_path / "triton/server/bin").mkdir(parents=True)
    before = contents(old)
    for call in (
        lambda: mend(old),
        lambda: copy_once(old, tmp_path / "live"),
        lambda: deploy(URL, old, model_folder, [], PARAMS),
        lambda: serves_already(URL, old, model_folder, PARAMS),
        lambda: rollback(URL, old, PARAMS),
    ):
        with pytest.raises(BadInput, match=SAID) as raised:
            call()
        assert "\n" not in str(raised.value) and str(old) in str(raised.value)
    assert contents(old) == before and not (tmp_path / "live").exists()


def test_a_server_is_not_started_on_it(old, tmp_path, monkeypatch):
    monkeypatch.setattr("components.serving.server.SERVER", "server")
    (tmp_path / "server").mkdir()
    with pytest.raises(BadInput, match=SAID):
        start_triton(old, tmp_path / "log", folder=tmp_path)


def test_by_the_command_line(old, tmp_path):
    told = CliRunner().invoke(app, ["serve", str(old), "--live", str(tmp_path / "live")])
    assert isinstance(told.exception, BadInput) and SAID in str(told.exception)
    told = CliRunner().invoke(app, ["deploy", URL, "--live", str(old), "--rollback"])
    assert isinstance(told.exception, BadInput) and SAID in str(told.exception)


def test_a_rollback_to_an_old_version_is_refused_before_anything_changes(mixed):
    before = contents(mixed)
    with pytest.raises(BadInput, match=rf"{MODEL}/1/model\.py: {SAID}"):
        rollback(URL, mixed, PARAMS)
    assert contents(mixed) == before


def test_todays_layout_passes_and_a_later_one_is_named(model_folder, tmp_path):
    write_repository(tmp_path, model_folder, PARAMS)
    check_layout(tmp_path, [1])
    config = tmp_path / MODEL / "config.pbtxt"
    stamp = '"layout" value { string_value: '
    assert config.read_text().count(f'{stamp}"{LAYOUT}"') == 1
    config.write_text(config.read_text().replace(f'{stamp}"{LAYOUT}"', f'{stamp}"99"'))
    with pytest.raises(BadInput, match=r"packaged by a later version of reelign \(layout 99"):
        check_layout(tmp_path, [1])


def test_a_packaged_backend_imports_one_module_of_the_project(monkeypatch):
    """Under the name by which Triton finds a Python model."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    monkeypatch.delitem(sys.modules, "components.serving.backend.entry", raising=False)
    spec = importlib.util.spec_from_file_location("packaged", BACKEND_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TritonPythonModel.__module__ == "components.serving.backend.entry"
    assert BACKEND_FILE.read_text().count("import ") == 1
    sys.modules.pop("components.serving.backend.entry")
