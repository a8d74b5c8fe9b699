"""`reelign score --csv`: a list of videos is read by the one strict reader, before any model is."""

import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.reward.score_list import read_list


def test_paths_are_those_of_the_folder(tmp_path):
    (tmp_path / "cafe\u0301.mp4").write_text("")
    file = tmp_path / "clips.csv"
    file.write_text('\ufeffprompt,path,model\n"a cat, sitting",a.mp4,m\n,,\na dog,caf\u00e9.mp4,\n007,/elsewhere/b.mp4,\n')
    assert [(str(path).removeprefix(f"{tmp_path}/"), prompt) for path, prompt in read_list(file)] == [
        ("a.mp4", "a cat, sitting"),
        ("cafe\u0301.mp4", "a dog"),
        ("/elsewhere/b.mp4", "007"),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,prompt\na.mp4,a cat, sitting\nb.mp4,a dog, running\n", ", row 2: 3 cells, the header has 2"),
        ('path,prompt\na.mp4,"a cat\n', ", row 2: not CSV: a quote opens here and is never closed"),
        ("", ": empty"),
        ("path,prompt\n", ": no videos"),
        ("path,prompt\na.mp4,caf\xe9\n", ", row 2: not UTF-8 text: byte 0xe9; in Windows-1252 it is 'caf\xe9'"),
        ("path,prompt,prompt\na.mp4,a cat,a dog\n", ", row 1, key 'prompt': column appears twice"),
        (f"path,prompt\n{'a' * 300}.mp4,a cat\n", ", row 2, key 'path': 'aaa"),
        ("path,prompt\na.mp4,\n", ", row 2, key 'prompt': empty"),
        ("path,prompt\n\n\n,a cat\n", ", row 4, key 'path': empty"),
    ],
)
def test_a_list_that_is_none_is_one_line(tmp_path, content, said):
    file = tmp_path / "clips.csv"
    file.write_bytes(content.encode("latin1"))
    result = CliRunner().invoke(app, ["score", f"--csv={file}", "--model=nowhere"])
    assert isinstance(result.exception, BadInput) and str(result.exception).startswith(f"{file}{said}")


def test_the_list_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips.csv").write_text("path,prompt,mine\na.mp4,a cat,1\n")
    (tmp_path / "link.csv").symlink_to("clips.csv")
    for out in ("clips.csv", "./clips.csv", "link.csv"):
        result = CliRunner().invoke(app, ["score", "--csv=clips.csv", f"--out={out}", "--model=nowhere"])
        assert isinstance(result.exception, BadInput) and "is the list of --csv: the scores need ano" in str(
            result.exception
        )
    assert (tmp_path / "clips.csv").read_text() == "path,prompt,mine\na.mp4,a cat,1\n"


@pytest.mark.parametrize("words", [["a.mp4"], ["--prompt=a cat"], ["a.mp4", "--prompt=a cat"]])
def test_videos_beside_a_list_are_not_left_out_silently(tmp_path, words):
    (tmp_path / "clips.csv").write_text("path,prompt\nb.mp4,a dog\n")
    result = CliRunner().invoke(app, ["score", *words, f"--csv={tmp_path / 'clips.csv'}", "--model=nowhere"])
    assert isinstance(result.exception, BadInput) and "give video files and --prompt, or --csv" in str(result.exception)
