"""Layouts of preferences that people have, from a folder to pairs; paths as they write them."""

import json
from pathlib import Path

import pytest

from components.curation.source import source
from components.errors import BadInput
from components.files.tables import read_table
from components.preferences.first_frames import read_first_frames
from components.schemas import PAIRS_SCHEMA
from tests.curation.test_stages import PlainStage, labels, rows_of, run


def test_an_absolute_path_of_a_file_in_the_folder_is_that_file(folder, tmp_path, monkeypatch):
    """Tools that list a folder write whole paths; by a link to the folder as well as by its own name."""
    (tmp_path / "link").symlink_to(folder)
    rows = [row.replace("videos/0_A", f"{folder}/videos/0_A").replace("./videos/0_B", f"{tmp_path}/link/videos/0_B")
            for row in rows_of(folder)]  # fmt: skip
    labels(folder, rows)
    for given in (folder, tmp_path / "link", "../given"):
        source(PlainStage(given))
        text = Path("data/source/annotations.csv").read_text()
        assert "\n0_A.mp4," in text and str(tmp_path) not in text
    labels(folder, [rows_of(folder)[0].replace(str(folder), str(tmp_path / "other")), *rows[1:]])
    with pytest.raises(BadInput, match=r"row 2, key 'path_A': '.*other/videos/0_A.mp4' is not a path inside the folder"):
        source(PlainStage(folder))


def test_a_name_in_another_unicode_form_is_the_file_that_is_there(folder):
    """As from a zip archive that macOS made: names are decomposed there, and composed in a CSV that was typed."""
    composed, decomposed = "videos/caf\u00e9/\u00e9.mp4", "videos/cafe\u0301/e\u0301.mp4"
    (folder / decomposed).parent.mkdir()
    (folder / "videos/0_A.mp4").rename(folder / decomposed)
    labels(folder, [row.replace("videos/0_A.mp4", composed) for row in rows_of(folder)])
    run(PlainStage(folder))
    assert Path(f"data/source/{decomposed}").exists()
    labels(folder, [*rows_of(folder), f"{decomposed},videos/1_B.mp4,prompt 3,A,same,B,8,8,8,8"])
    source(PlainStage(folder))
    assert json.loads(Path("metrics/source.json").read_text())["videos"] == 6


def test_what_nothing_reads_stops_nothing(folder):
    labels(folder, [row.replace("8.0,8.0,8.0,8.0", "NA,n/a,,fast") for row in rows_of(folder)])
    assert run(PlainStage(folder))["pairs"] == 3


def preferences(folder: Path, header: str, rows: list[str]) -> None:
    (folder / "labels.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize(
    ("header", "row", "labelled"),
    [
        ("chosen,rejected,prompt", "videos/{n}_A.mp4,videos/{n}_B.mp4,prompt {n}", {"Overall": 1}),
        ("prompt,rejected,chosen", "prompt {n},videos/{n}_B.mp4,{folder}/videos/{n}_A.mp4", {"Overall": 1}),
        ("path_A,path_B,prompt,label", "videos/{n}_A.mp4,videos/{n}_B.mp4,prompt {n},B", {"Overall": -1}),
        ("path_A,path_B,prompt,Overall", "videos/{n}_A.mp4,videos/{n}_B.mp4,prompt {n},same", {"Overall": 0}),
        ("path_A,path_B,prompt,MQ", "videos/{n}_A.mp4,videos/{n}_B.mp4,prompt {n},A", {"MQ": 1}),
        ("path_A,path_B,VQ,prompt,TA,MQ", "videos/{n}_A.mp4,videos/{n}_B.mp4,,prompt {n},A,NA", {"TA": 1}),
    ],
)
def test_any_set_of_labels_becomes_pairs(folder, header, row, labelled):
    preferences(folder, header, [row.format(n=n, folder=folder) for n in range(3)])
    report = run(PlainStage(folder, dimensions=tuple(labelled)))
    found = {name: part["labelled"] for name, part in report["dimensions"].items()}
    assert found == {name: 3 if name in labelled else 0 for name in ("VQ", "MQ", "TA", "Overall")}
    for name in ("train", "validation", "test"):
        (pair,) = read_table(f"data/pairs/{name}.parquet", PAIRS_SCHEMA)
        assert {key: pair[key] for key in labelled} == labelled and pair["path_A"].endswith("_A.mp4")


def test_labels_that_the_reward_model_needs_and_nobody_gave_are_named(folder):
    preferences(folder, "chosen,rejected,prompt", [f"videos/{n}_A.mp4,videos/{n}_B.mp4,prompt {n}" for n in range(3)])
    why = r"annotations.csv, key 'VQ': no labels of this dimension of reward.dimensions; there are labels of Overall"
    with pytest.raises(BadInput, match=why):
        run(PlainStage(folder))


def test_errors_name_the_columns_that_the_csv_has(folder):
    preferences(folder, "chosen,rejected,prompt", ["videos/0_A.mp4,videos/9_B.mp4,prompt 0"])
    with pytest.raises(BadInput, match=r"labels.csv, row 2, key 'rejected': no such video: .*videos/9_B.mp4"):
        source(PlainStage(folder))
    preferences(folder, "chosen,rejected,prompt", ["../0_A.mp4,videos/9_B.mp4,prompt 0"])
    with pytest.raises(BadInput, match=r"row 2, key 'chosen': '../0_A.mp4' is not a path inside the folder"):
        source(PlainStage(folder))
    preferences(folder, "chosen,rejected,prompt,VQ", [])
    with pytest.raises(BadInput, match=r"row 1, key 'VQ': chosen and rejected name the better clip"):
        source(PlainStage(folder))
    row = "videos/0_A.mp4,videos/0_B.mp4,prompt 0"
    preferences(folder, "chosen,rejected,prompt", [row, "videos/0_B.mp4,videos/0_A.mp4,prompt 0"])
    with pytest.raises(BadInput, match=r"row 3, key 'Overall': annotator 'given' contradicts row 2"):
        source(PlainStage(folder))
    preferences(folder, "path_A,path_B,prompt,winner", [row + ",A"])
    with pytest.raises(BadInput, match=r"row 1: no column of labels: VQ, MQ, TA, Overall \(one or more\), or label"):
        source(PlainStage(folder))
    preferences(folder, "chosen,prompt", [])
    with pytest.raises(BadInput, match=r"row 1, key 'rejected': missing column: the header has 'chosen', 'prompt'"):
        source(PlainStage(folder))


def test_images_of_prompts_stay_where_they_are_and_are_pinned(folder):
    (folder / "first.png").write_bytes(b"pixels")
    rows = [f"videos/{n}_A.mp4,videos/{n}_B.mp4,prompt {n},A,{'first.png' if n < 2 else ''}" for n in range(3)]
    preferences(folder, "path_A,path_B,prompt,label,image", rows)
    source(PlainStage(folder, dimensions=("Overall",)))
    found = read_first_frames(Path("data/source/prompts.csv"), None)
    assert list(found) == ["prompt 0", "prompt 1"]
    assert all(Path(own.path).samefile(folder / "first.png") for own in found.values())
    (folder / "first.png").unlink()
    with pytest.raises(BadInput, match=r"labels\.csv, row 2, key 'image': no such image"):
        source(PlainStage(folder, dimensions=("Overall",)))
