"""What commands print: once, in one line, and no more than a person reads."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from components.cli import doctor
from components.cli.main import app
from components.errors import BadInput
from components.video.encode import write_video
from tests.reward.tiny import saved_model


@pytest.fixture
def words(tmp_path) -> list[str]:
    """`reelign score` for two clips and a folder."""
    for number in range(2):
        clip = np.random.default_rng(number).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
        write_video(tmp_path / f"{number}.mp4", clip, 8)
    (tmp_path / "clips").mkdir()
    videos = [str(tmp_path / name) for name in ("0.mp4", "1.mp4", "clips")]
    return ["score", *videos, "--prompt", "a red circle", "--model", str(saved_model(tmp_path / "model"))]


def test_scores_in_a_table_are_not_printed_as_well(words, tmp_path):
    plain = CliRunner().invoke(app, words)
    assert plain.exit_code == 2 and len(plain.stdout.splitlines()) == 2
    assert plain.stderr.splitlines()[-1] == f"error: {tmp_path / 'clips'}: is a folder"
    out = tmp_path / "scores.csv"
    table = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert (table.exit_code, table.stdout) == (2, f"{out}: 2 of 3 videos scored\n")
    both = CliRunner().invoke(app, [*words, "--out", str(out), "--json"])
    assert [json.loads(line)["path"] for line in both.stdout.splitlines()[:2]] == words[1:3]


def test_the_doctor_prints_a_bad_param_once(monkeypatch, capsys):
    def bad() -> None:
        raise BadInput("params.yaml", "must be positive", key="seed")

    monkeypatch.setattr(doctor, "load_params", bad)
    monkeypatch.setattr(doctor, "mlflow", lambda: "here")
    assert not doctor.examine()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert lines == ["FAIL  params    params.yaml, key 'seed': must be positive"]
