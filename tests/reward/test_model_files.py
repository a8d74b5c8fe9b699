"""What scores are kept under: other bytes of a video, of the model, or of the code are other work."""

import os
import shutil
from pathlib import Path

import pytest

from components.errors import BadInput
from components.reward import score_files
from components.reward.model_files import ModelFiles
from components.reward.score_files import state_folder

OPEN = Path("../shared/data/reference-open").absolute()


@pytest.fixture
def model(tmp_path) -> ModelFiles:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("w")
    return ModelFiles(str(tmp_path / "model"), None, -1)


def test_scores_of_another_video_of_the_same_size_and_time_are_not_taken(model, tmp_path):
    video, out = tmp_path / "a.mp4", tmp_path / "scores.parquet"
    folders = []
    for content in ("first", "other"):
        video.write_text(content)
        os.utime(video, (0, 0))
        folders.append(state_folder(out, [(video, "a cat")], model, 8))
    assert folders[0] != folders[1]


def test_scores_of_other_code_are_not_taken(model, tmp_path, monkeypatch):
    def folder() -> Path:
        return state_folder(tmp_path / "scores.parquet", [(tmp_path / "none.mp4", "a cat")], model, 8)

    before = folder()
    assert folder() == before
    monkeypatch.setattr(score_files, "code_digest", lambda modules: "another")
    assert folder() != before


@pytest.mark.skipif(not OPEN.exists(), reason="no reference-open folder beside the checkout")
def test_the_version_of_a_published_model_covers_template_normalisation_and_base(tmp_path):
    run, template = tmp_path / "ckpt_a", tmp_path / "template.txt"
    shutil.copytree(OPEN / "ckpt_a", run)
    shutil.copytree(OPEN / "base", tmp_path / "base", dirs_exist_ok=True)
    shutil.copyfile(OPEN / "prompt_detailed_special.txt", template)
    files = ModelFiles(str(run), str(template), -1)
    versions = [files.version()]
    assert versions == [files.version()]
    for file in (template, run / "model_config.json", tmp_path / "base" / "config.json"):
        file.write_text(file.read_text() + "\n")
        versions.append(files.version())
    assert len(set(versions)) == 4
    with pytest.raises(BadInput, match=r"model_config\.json: this layout has no prompt template: give its file"):
        ModelFiles(str(run), None, -1).version()
