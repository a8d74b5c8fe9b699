"""Labels are used once enough tasks have all their answers; until then nothing changes."""

import pytest
from typer.testing import CliRunner

from components.annotation import studio
from components.cli.main import app
from components.errors import NO
from components.preferences.schema import read_annotations
from tests.annotation.conftest import QUESTIONS, write_csv

SAME = {question: "tie" for question in QUESTIONS} | {f"rating_{side}_{one}": 3 for side in "AB" for one in QUESTIONS}


@pytest.fixture
def project(exported, monkeypatch):
    """Sets what Label Studio has: `done` tasks labelled by three people, the others by one."""

    def holds(done: int) -> None:
        three, one = exported.studio({1: SAME, 2: SAME, 3: SAME}), exported.studio({1: SAME})
        monkeypatch.setattr(studio, "pull", lambda folder, url: three[:done] + one[done:])

    return holds


def collect(folder, out, *more: str):
    words = ["annotate", "collect", str(folder), "--out", str(out), *more]
    return CliRunner().invoke(app, words)


def test_until_enough_tasks_are_ready_it_says_no_and_writes_nothing(exported, project, tmp_path):
    out = tmp_path / "annotations.csv"
    project(done=3)
    found = collect(exported.folder, out)
    assert found.exit_code == NO and "3 of 6 new tasks are ready, 6 needed; 3 await annotators" in found.output
    assert not out.exists()
    found = collect(exported.folder, out, "--ready", "0.5")
    assert found.exit_code == 0, found.output
    assert len({view.pair for view in read_annotations(out)}) == 3, "only those with all their answers"

    before = out.read_bytes()
    found = collect(exported.folder, out, "--ready", "0.4")
    assert found.exit_code == NO and "0 of 3 new tasks are ready, 2 needed" in found.output, "a share of the new ones"
    assert out.read_bytes() == before
    project(done=6)
    assert collect(exported.folder, out).exit_code == 0
    whole = read_annotations(out)
    assert len({view.pair for view in whole}) == 6 and len(whole) == 18
    before = out.read_bytes()
    assert collect(exported.folder, out).exit_code == 0, "once more, as after a crash"
    assert out.read_bytes() == before


def test_export_chooses_pairs_by_their_scores(clips, tmp_path):
    """The most uncertain pair of two prompts with three clips each; then the others; then none."""
    scores, out = tmp_path / "scores.csv", tmp_path / "out"
    rows = [(path, prompt, "ok", "", place * place) for place, (path, prompt, _) in enumerate(clips.rows)]
    write_csv(scores, ["path", "prompt", "status", "reason", "raw_VQ"], rows)
    words = ["annotate", "export", "--clips", clips.csv, "--videos", clips.videos, "--scores", scores, "--out", out]

    def export(count: int):
        return CliRunner().invoke(app, [*map(str, words), "--count", str(count)])

    first = export(2)
    assert first.exit_code == 0 and "2 tasks, 2 of them new" in first.output, first.output
    assert "6 tasks, 4 of them new" in export(9).output
    none = export(1)
    assert none.exit_code == NO and "no unlabelled pair" in none.output
