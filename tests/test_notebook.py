"""The notebook of the documentation runs from top to bottom on the files of a finished run."""

import importlib.util
import json
from pathlib import Path

import pytest

from tests.evaluation.fixtures import make_other_stages, make_samples
from tests.reward.tiny import saved_model

NOTEBOOK = Path("docs/tutorials/read-results.ipynb").resolve()


@pytest.fixture
def notebook():
    spec = importlib.util.spec_from_file_location("notebook", "docs/notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_runs(notebook, tmp_path, monkeypatch):
    make_samples(tmp_path, prompts=4, seeds=1)
    make_other_stages(tmp_path)
    saved_model(tmp_path / "models/reward").rename(tmp_path / "models/tiny")
    (tmp_path / "models/video_reward").rename(tmp_path / "models/logs")
    (tmp_path / "models/tiny").rename(tmp_path / "models/video_reward")
    monkeypatch.chdir(tmp_path)
    made = notebook.run(json.loads(NOTEBOOK.read_text()))
    first, table, figure, scores = (cell["outputs"][0] for cell in made["cells"] if cell["cell_type"] == "code")
    assert "".join(first["text"]) == "400 test pairs of 120 prompts, model 0123456789abcdef\n"
    assert "84.6% [81.0%, 88.0%]" in "".join(table["data"]["text/html"])
    assert set(figure["data"]) == {"image/png"}
    text = "".join(scores["data"]["text/plain"])
    assert "Overall" in text and "a red square moving to the right" in text


def test_an_error_of_a_cell_comes_through(notebook):
    with pytest.raises(KeyError):
        notebook.outputs("{}['gone']", {}, 1)


def test_printed_text_and_a_value_are_kept(notebook):
    printed, value = notebook.outputs("print('a')\n1 + 1", {}, 3)
    assert printed["text"] == ["a\n"] and value["data"]["text/plain"] == ["2"]


def test_the_page_shows_outputs_of_a_run():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in cells), "make docs-assets, after make demo"
