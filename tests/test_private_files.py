"""What holds a password, a key or mail addresses is its owner's alone to read, whatever the umask."""

import os
import stat
import subprocess

import pandas as pd
import pytest

from components.annotation.human_study import export_study
from components.annotation.tasks import Settings, write_key
from components.files.atomic import atomic_write, whole_file
from components.orchestration import service
from components.orchestration.light import light_services
from tests.annotation.conftest import clip


@pytest.fixture(autouse=True)
def open_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_is_so_from_its_first_byte_on(tmp_path):
    (tmp_path / "file").write_text("of before")
    (tmp_path / "file").chmod(0o644)
    with whole_file(tmp_path / "file", private=True) as partial:
        partial.write_text("now")
        assert mode(partial) == 0o600
    assert mode(tmp_path / "file") == 0o600 and (tmp_path / "file").read_text() == "now"
    with whole_file(tmp_path / "open") as partial:
        partial.write_text("now")
    assert mode(tmp_path / "open") == 0o644


def test_key_and_seed_of_an_annotation_folder(tmp_path):
    write_key(tmp_path, [])
    settings = Settings(seed=1, ratings=False, overall=False, base_url=None)
    atomic_write(tmp_path / "settings.json", settings.model_dump_json(), private=True)
    assert {mode(tmp_path / name) for name in ("key.csv", "settings.json")} == {0o600}


def test_a_studys_record_which_names_the_method_of_each_clip(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, method in enumerate(("dpo", "rwr")):
        folder = tmp_path / "data/samples" / method
        clip(folder / "videos/p_0.mp4", (0, 0, 120 * place))
        row = {"prompt_id": "p", "prompt": "a cat", "seed": 0, "path": "videos/p_0.mp4"}
        pd.DataFrame([row]).to_parquet(folder / "samples.parquet")
    export_study(("dpo", "rwr"), tmp_path / "study")
    readable = {path.name for path in (tmp_path / "study").iterdir() if path.is_file() and mode(path) & 0o077}
    assert readable == {"config.xml", "guidelines.md", "tasks.json"} and mode(tmp_path / "study/study.json") == 0o600


def test_logs_of_services_and_what_airflow_writes(tmp_path, monkeypatch):
    """Airflow prints its admin's password into the log, and keeps it in a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(service, "FOLDER", tmp_path)
    (tmp_path / "airflow.log").write_text("of an earlier start")
    (tmp_path / "airflow.log").chmod(0o644)
    airflow = next(one for one in light_services(1, 2, 3) if one.name == "airflow")
    started: list[subprocess.Popen] = []
    real = subprocess.Popen
    monkeypatch.setattr(
        service.subprocess,
        "Popen",
        lambda words, **how: (
            started.append(real(["touch", "password"] if words == airflow.command else words, **how)) or started[-1]
        ),
    )
    service.start(airflow)
    assert [process.wait(60) for process in started] == [0, 0]
    assert mode(tmp_path / "airflow.log") == 0o600 and mode(tmp_path / "password") == 0o600
