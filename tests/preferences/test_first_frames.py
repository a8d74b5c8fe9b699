"""The image of a prompt: a column of any CSV of prompts, checked row by row, pinned by its digest in prompts.csv."""

from pathlib import Path

import pytest

from components.errors import BadInput
from components.files.digests import file_digest
from components.preferences.first_frames import FirstFrame, read_first_frames, refuse_images, write_prompts_with_images
from components.preferences.schema import read_prompts


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).write_bytes(name.encode())
    return tmp_path


def table(folder: Path, text: str) -> Path:
    (folder / "prompts.csv").write_text(text)
    return folder / "prompts.csv"


def test_each_prompt_has_the_image_of_its_row(folder):
    file = table(folder, "prompt,image\none,images/a.png\ntwo,./images/b.png\nthree,\n")
    found = read_first_frames(file, folder)
    assert {prompt: Path(own.path).name for prompt, own in found.items()} == {"one": "a.png", "two": "b.png"}
    assert found["one"].digest == file_digest(folder / "images/a.png")
    assert read_first_frames(table(folder, "prompt\none\n"), folder) == {}
    other = table(folder, "prompt,prompt_zh,image\none,eins,images/a.png\n")
    assert list(read_first_frames(other, folder, "prompt_zh")) == ["eins"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("one,images/c.png,\n", r"row 2, key 'image': no such image"),
        ("one,../a.png,\n", r"row 2, key 'image': '\.\./a\.png' is not a path inside the folder"),
        ("one,images/a.png,\none,images/b.png,\n", r"row 3, key 'image': 'images/b\.png', and row 2 has 'images/a\.png'"),
        ("one,images/a.png,\none,,\n", r"row 3, key 'image': '', and row 2"),
        ("one,images/a.png,0123\n", r"row 2, key 'image_digest': .*is another image"),
    ],
)
def test_images_that_are_not_right_are_named_by_row(folder, rows, said):
    with pytest.raises(BadInput, match=said):
        read_first_frames(table(folder, "prompt,image,image_digest\n" + rows), folder)


def test_written_prompts_are_read_again_and_pin_their_images(folder, monkeypatch):
    monkeypatch.chdir(folder)
    frame = FirstFrame("images/a.png", file_digest(Path("images/a.png")))
    write_prompts_with_images(Path("p.csv"), ["one", "two"], {"one": frame})
    assert read_prompts("p.csv") == ["one", "two"] and read_first_frames(Path("p.csv"), None) == {"one": frame}
    Path("images/a.png").write_bytes(b"another")
    with pytest.raises(BadInput, match="is another image"):
        read_first_frames(Path("p.csv"), None)


def test_images_of_a_bucket_are_refused(folder):
    file = table(folder, "prompt,image\none,images/a.png\n")
    with pytest.raises(BadInput, match=r"s3://x, row 2, key 'image': images of a bucket are not fetched"):
        refuse_images(file, "s3://x")
    refuse_images(table(folder, "prompt\none\n"), "s3://x")
