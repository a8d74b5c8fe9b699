"""Paths of clips: below a root that may be written out, and stored in either Unicode form."""

import pytest

from components.preferences.paths import clip_path, stored_file, stored_names

COMPOSED, DECOMPOSED = "caf\u00e9.mp4", "cafe\u0301.mp4"


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("a/b.mp4", None),
        ("./a//b.mp4", "/data"),
        ("/data/a/b.mp4", "/data"),
        ("/data/a/b.mp4", "/data/"),
        ("s3://bucket/set/a/b.mp4", "s3://bucket/set"),
    ],
)
def test_a_path_below_the_root_is_relative_to_it(text, root):
    assert clip_path(text, root) == "a/b.mp4"


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("/data/a.mp4", None),
        ("/database/a.mp4", "/data"),
        ("/data/../a.mp4", "/data"),
        ("/data", "/data"),
        ("s3://bucket/setting/../a.mp4", "s3://bucket/set"),
    ],
)
def test_a_path_elsewhere_is_refused(text, root):
    with pytest.raises(ValueError, match="is not a path inside the folder"):
        clip_path(text, root)


def test_a_stored_name_is_found_in_either_form_where_there_is_one():
    assert stored_names([COMPOSED])(DECOMPOSED) == COMPOSED and stored_names([DECOMPOSED])(COMPOSED) == DECOMPOSED
    both = stored_names([COMPOSED, DECOMPOSED])
    assert (both(COMPOSED), both(DECOMPOSED)) == (COMPOSED, DECOMPOSED)
    assert both("tea.mp4") is None and stored_names([])(COMPOSED) is None


def test_a_stored_file_is_found_below_folders_of_other_forms(tmp_path):
    (tmp_path / "e\u0301").mkdir()
    (tmp_path / "e\u0301" / COMPOSED).write_text("")
    assert stored_file(tmp_path, f"\u00e9/{DECOMPOSED}") == f"e\u0301/{COMPOSED}"
    for absent in ("\u00e9", "\u00e9/tea.mp4", "tea/tea.mp4", f"/\u00e9/{COMPOSED}", "../tea.mp4"):
        assert stored_file(tmp_path, absent) is None
