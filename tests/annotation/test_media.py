"""The copy that annotators see shows the frames that the clip shows, or the clip is refused before anything is written."""

from pathlib import Path

import numpy as np
import pytest

from components.annotation.media import check_video, copy_blind
from components.errors import BadInput
from components.video.decode import probe, read_frames
from tests.video.files import set_edit, write

CASES = Path(__file__).parents[2] / "../shared/cases/videos"


def copied(source: Path, folder: Path) -> Path:
    check_video(folder / "clips.csv", 2, source)
    copy_blind(source, folder / "copy.mp4")
    return folder / "copy.mp4"


def same_frames(source: Path, folder: Path) -> None:
    copy = copied(source, folder)
    assert np.array_equal(read_frames(copy), read_frames(source))
    assert probe(copy).fps == pytest.approx(probe(source).fps, rel=0.01)
    assert not list(folder.glob("*.partial"))


PEOPLES = ["av1.mp4", "cover_art_before_video.mp4", "edit_list_ends_early.mp4", "edit_list_hides_start.mp4"]
PEOPLES += ["metadata_latin1.mp4", "interlaced.mp4", "ts_cut_inside_group_of_pictures.ts"]


@pytest.mark.parametrize("name", PEOPLES)
def test_files_that_people_had(tmp_path, name):
    if not (CASES / name).exists():
        pytest.skip(f"no {CASES / name} beside the checkout")
    same_frames(CASES / name, tmp_path)


PLAYED = {"Style: a.mp4": "libx264", "a.mkv": "libx264", "a.ts": "libx264", "a.mp4": "libsvtav1", "a.webm": "libvpx-vp9"}


@pytest.mark.parametrize("name", PLAYED)
def test_what_browsers_play_is_copied(tmp_path, name):
    (tmp_path / "given").mkdir()
    same_frames(write(tmp_path / "given" / name, 9, PLAYED[name]), tmp_path)


def test_what_an_edit_list_hides_is_not_in_the_copy(tmp_path):
    source = write(tmp_path / "clip.mp4", options={"bf": "0"})
    set_edit(source, 4 * 1024, 20 * 1024)
    same_frames(source, tmp_path)
    assert probe(tmp_path / "copy.mp4").frames == 20


def test_a_copy_that_would_show_other_frames_is_refused(tmp_path):
    """Frames within the clip lean on one behind its end, which a copy would show."""
    source = write(tmp_path / "clip.mp4", 60, options={"preset": "medium", "bf": "7", "b-adapt": "0", "b-pyramid": "none"})
    refused = 0
    for length in range(20, 29):
        set_edit(source, 2 * 1024, length * 1024)
        try:
            same_frames(source, tmp_path)
        except BadInput as error:
            refused += 1
            assert f"where it shows {probe(source).frames}; re-encode it" in str(error)
            assert str(error).startswith(f"{tmp_path / 'clips.csv'}, row 2, key 'path': {source}: a copy would show")
    assert refused


@pytest.mark.parametrize("codec", ["libvpx", "mpeg4"])
def test_what_browsers_do_not_play_in_mp4(tmp_path, codec):
    source = write(tmp_path / "clip.mkv", 9, codec)
    with pytest.raises(BadInput, match=r"browsers play H\.264, VP9 and AV1"):
        check_video(tmp_path / "clips.csv", 2, source)
