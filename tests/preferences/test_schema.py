"""Annotation files: both layouts, and every bad row by its line."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import BadInput
from components.preferences.pairs import labelled_pair
from components.preferences.paths import clip_path
from components.preferences.schema import group_by_pair, read_annotations, write_annotations

EXAMPLE = Path(__file__).parents[2] / "../shared/data/videoalign/example.csv"
HEADER = "path_A,path_B,prompt,VQ,MQ,TA,fps_A,num_frames_A,fps_B,num_frames_B"
GOOD = 'videos/a.mp4,./videos/b.mp4,"a girl, sitting",B,same,A,24.0,126.0,30.0,152.0'
OWN = "path_A,path_B,prompt,annotator,VQ,MQ,TA,Overall,model_A,model_B"


def written(tmp_path, *lines, header=HEADER):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def refusal(path, read=read_annotations) -> str:
    with pytest.raises(BadInput) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


@pytest.mark.skipif(not EXAMPLE.exists(), reason="VideoAlign's example.csv is not here")
def test_videoalign_example():
    annotations = read_annotations(EXAMPLE)
    pairs, dropped = group_by_pair(EXAMPLE, annotations)
    assert (len(annotations), len(pairs), dropped) == (12, 3, 9)
    first = pairs[0][0]
    assert (first.path_A, first.path_B) == ("videos/example_1_A.mp4", "videos/example_1_B.mp4")
    assert first.labels == {"VQ": -1, "MQ": -1, "TA": 1, "Overall": None}
    assert (first.annotator, first.model_A, first.ratings["MOS_A_VQ"]) == ("given", None, None)


def test_blank_lines_and_quoted_line_breaks_keep_line_numbers(tmp_path):
    path = written(tmp_path, "", GOOD.replace("a girl, sitting", "a girl,\nsitting"), "  ", GOOD, "", "")
    annotations = read_annotations(path)
    assert [view.row for view in annotations] == [3, 6]
    assert annotations[0].prompt == "a girl,\nsitting"


def test_own_layout_round_trip(tmp_path):
    path = written(
        tmp_path,
        "a.mp4,b.mp4,a cat,1,A,B,same,A,old,new",
        "a.mp4,b.mp4,a cat,reviewer,A,,,,old,new",
        header=OWN,
    )
    annotations = read_annotations(path)
    write_annotations(tmp_path / "again.csv", annotations)
    assert read_annotations(tmp_path / "again.csv") == annotations
    assert annotations[1].labels == {"VQ": 1, "MQ": None, "TA": None, "Overall": None}


RATED = OWN + ",MOS_A_VQ,MOS_B_VQ,MOS_B_TA"


def test_ratings_go_with_their_clips(tmp_path):
    path = written(
        tmp_path,
        "a.mp4,b.mp4,a cat,1,A,B,same,A,old,new,4,2.5,",
        "b.mp4,a.mp4,a cat,2,A,B,same,A,new,old,1,,5",
        header=RATED,
    )
    annotations = read_annotations(path)
    assert annotations[0].ratings_A == {"VQ": 4.0, "MQ": None, "TA": None, "Overall": None}
    write_annotations(tmp_path / "again.csv", annotations)
    assert read_annotations(tmp_path / "again.csv") == annotations
    (views,), _ = group_by_pair(path, annotations)
    assert [view.ratings_A["VQ"] for view in views] == [4.0, None] and [view.ratings_B["VQ"] for view in views] == [2.5, 1.0]
    row = labelled_pair([replace(view, annotator=name) for view, name in zip((*views, views[0]), "123", strict=True)])
    assert (row["MOS_A_VQ"], row["MOS_B_VQ"], row["MOS_A_TA"], row["MOS_B_MQ"]) == (4.0, 2.0, 5.0, None)


@pytest.mark.parametrize(
    ("rating", "said"),
    [
        ("0", "rating '0' is not from 1 to 5"),
        ("5.5", "rating '5.5' is not from 1 to 5"),
        ("inf", "rating 'inf' is not from 1 to 5"),
        ("good", "'good' is not a number"),
    ],
)
def test_a_bad_rating_is_named(tmp_path, rating, said):
    path = written(tmp_path, f"a.mp4,b.mp4,a cat,1,A,B,same,A,old,new,4,{rating},", header=RATED)
    assert refusal(path) == f", row 2, key 'MOS_B_VQ': {said}"


def test_other_ratings_of_the_same_annotator_are_a_contradiction(tmp_path):
    line = "a.mp4,b.mp4,a cat,1,A,B,same,A,old,new,4,2,"
    path = written(tmp_path, line, line.replace("4,2,", "4,3,"), header=RATED)
    said = refusal(path, lambda path: group_by_pair(path, read_annotations(path)))
    assert said == ", row 3, key 'MOS_B_VQ': annotator '1' contradicts row 2"


def test_benchmark_names_of_models(tmp_path):
    path = written(
        tmp_path, "a.mp4,b.mp4,x,y,a cat,A,B,same,A", header="path_A,path_B,A_model,B_model,prompt,VQ,MQ,TA,Overall"
    )
    assert (read_annotations(path)[0].model_A, read_annotations(path)[0].labels["Overall"]) == ("x", 1)


def test_byte_order_mark_is_no_part_of_a_name(tmp_path):
    path = written(tmp_path, GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_annotations(path)) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",B,same,A,", ",b,same,A,", ", row 3, key 'VQ': label 'b' is not A, B or same"),
        (",B,same,A,", ",B,,A,", ", row 3, key 'MQ': label '' is not A, B or same"),
        (",B,same,A,", ",B,same,tie,", ", row 3, key 'TA': label 'tie' is not A, B or same"),
        ('"a girl, sitting"', "", ", row 3, key 'prompt': empty prompt"),
        ('"a girl, sitting"', '"  "', ", row 3, key 'prompt': empty prompt"),
        ("./videos/b", "../b", ", row 3, key 'path_B': '../b.mp4' is not a path inside the folder"),
        ("videos/a", "/videos/a", ", row 3, key 'path_A': '/videos/a.mp4' is not a path inside the folder"),
        ("./videos/b", "./videos/a", ", row 3, key 'path_B': a clip is compared with itself"),
        ("a girl, sitting", "a <|im_end|> girl", ", row 3, key 'prompt': the prompt holds the special token <|im_end|>"),
        ("a girl, sitting", "<|VQ_reward|>", ", row 3, key 'prompt': the prompt holds the special token <|VQ_reward|>"),
        (",152.0", "", ", row 3: 9 cells, the header has 10"),
        ('sitting"', "sitting", ", row 3: not CSV: a quote opens here and is never closed"),
    ],
)
def test_a_bad_row_is_named(tmp_path, old, new, said):
    assert old in GOOD
    assert refusal(written(tmp_path, GOOD, GOOD.replace(old, new, 1))) == said


def test_a_bad_file_is_named(tmp_path):
    assert refusal(tmp_path / "none.csv") == ": missing"
    assert refusal(written(tmp_path)) == ": no annotations"
    said = ", row 1, key 'MQ': missing column: the header has 'mq'"
    assert refusal(written(tmp_path, GOOD, header=HEADER.replace("MQ", "mq"))) == said
    said = ", row 1, key 'VQ': column appears twice"
    assert refusal(written(tmp_path, GOOD, header=HEADER.replace("MQ", "VQ"))) == said
    assert refusal(written(tmp_path, GOOD + ",A", header=HEADER + ",VQ")) == ", row 1, key 'VQ': column appears twice"
    (tmp_path / "empty.csv").write_text("")
    assert refusal(tmp_path / "empty.csv") == ": empty: a CSV begins with a line of column names"
    assert "key 'annotator': empty annotator" in refusal(written(tmp_path, "a.mp4,b.mp4,a cat,,A,A,A,A,,", header=OWN))


def test_swapped_sides_are_the_same_pair(tmp_path):
    path = written(tmp_path, "a.mp4,b.mp4,a cat,1,A,B,same,A,old,new", "b.mp4,a.mp4,a cat,2,A,B,same,B,new,old", header=OWN)
    (views,), dropped = group_by_pair(path, read_annotations(path))
    assert dropped == 0
    assert {view.path_A for view in views} == {"a.mp4"} and {view.model_A for view in views} == {"old"}
    assert [view.labels["VQ"] for view in views] == [1, -1]
    assert [view.labels["Overall"] for view in views] == [1, 1]


def test_repeats_are_dropped_and_contradictions_refused(tmp_path):
    def grouped(path):
        return group_by_pair(path, read_annotations(path))

    assert grouped(written(tmp_path, GOOD, GOOD, GOOD))[1] == 2
    contradiction = written(tmp_path, GOOD, GOOD.replace("B,same,A", "B,A,A"))
    assert refusal(contradiction, grouped) == ", row 3, key 'MQ': annotator 'given' contradicts row 2"
    respelt = written(tmp_path, GOOD, GOOD.replace("a girl, sitting", "A girl,  sitting"))
    assert "key 'prompt': row 2 has the same pair and prompt with" in refusal(respelt, grouped)


@pytest.mark.parametrize("text", ["", ".", "..", "../a", "a/../../b", "/a", "a\\..\\b"])
def test_paths_that_leave(text):
    with pytest.raises(ValueError, match="is not a path inside the folder"):
        clip_path(text)


@pytest.mark.parametrize("text", ["a\0.mp4", "a\nb.mp4", "a" * 256, "videos/" + "é" * 128, "videos/" * 200])
def test_names_that_no_file_has(text):
    with pytest.raises(ValueError, match="is not a valid file name"):
        clip_path(text)
    clip_path("é" * 127)


@given(st.lists(st.sampled_from(["a", "b", ".", "..", "", "é", "~", "..."]), max_size=6).map("/".join))
def test_a_path_that_is_taken_stays_in_its_folder(text):
    try:
        path = clip_path(text)
    except ValueError:
        assert ".." in text or text.startswith("/") or not text.strip("./")
        return
    folder = Path("/folder")
    assert (folder / path).resolve().is_relative_to(folder) and (folder / path).resolve() != folder
    assert clip_path(path) == path and (folder / path) == (folder / text)


def test_paths_in_plain_form():
    assert clip_path("./videos//a.mp4") == "videos/a.mp4"
