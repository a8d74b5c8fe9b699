"""Files of labelled pairs: told apart by the header, read by their protocol, refused by line."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contracts import NO_LABEL
from components.errors import BadInput
from components.preferences.columns import read_mapped
from components.reward.layouts import GENAI, LAYOUTS, ONE_LABEL, REACT, VIDEOGEN, read_benchmark, refuse

DIMENSIONS = ["VQ", "MQ", "TA"]
EXAMPLE = Path(__file__).parents[2] / "../shared/data/videoalign/example.csv"
VIDEOGEN_HEADER = ["path_A", "path_B", "A_model", "B_model", "prompt", "VQ", "MQ", "TA", "Overall"]
GENAI_HEADER = ["prompt", "left_model", "left_video", "right_model", "right_video", "vote_type"]
REACT_HEADER = ["path_A", "path_B", "A_model", "B_model", "prompt", "GSB_MQ", "GSB_MQ_A_reasoning", "GSB_MQ_B_reasoning"]
ONE_HEADER = ["path_A", "path_B", "prompt", "label"]
HEADERS = {"VideoGen-RewardBench": VIDEOGEN_HEADER, "GenAI-Bench": GENAI_HEADER, "the one-label layout": ONE_HEADER}
HEADERS["chosen and rejected"] = ["chosen", "rejected", "prompt"]
HEADERS["REACT-Video"] = REACT_HEADER
HUB = "https://huggingface.co/datasets/someone/genai-arena-video-mp4/blob/main/dir/"


def write(path, header, *rows):
    with open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def one_label(path, *labels):
    return write(path, ONE_HEADER, *((f"{place}a.mp4", f"{place}b.mp4", "a cat", text) for place, text in enumerate(labels)))


def refusal(*arguments):
    with pytest.raises(BadInput) as caught:
        read_benchmark(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_videogen_rewardbench(tmp_path):
    row = ["a.mp4", "./b.mp4", "m1", "m2", "a cat", "A", "same", "B", "A"]
    pairs = read_benchmark(write(tmp_path / "x.csv", VIDEOGEN_HEADER, row), DIMENSIONS)
    labels = {name: found.tolist() for name, found in pairs.labels.items()}
    assert labels == {"VQ": [1], "MQ": [0], "TA": [-1], "Overall": [1]}
    assert pairs.score_of == {name: name for name in [*DIMENSIONS, "Overall"]}
    assert (pairs.paths, pairs.models) == ((["a.mp4"], ["b.mp4"]), (["m1"], ["m2"]))
    assert pairs.votes["MQ"] == {"same": 1} and pairs.layout is VIDEOGEN


def test_genai_bench_is_answered_by_text_alignment_and_its_addresses_are_files(tmp_path):
    votes = ["leftvote", "rightvote", "tievote", "bothbad_vote", "tievote"]
    rows = [["a cat", "m1", f"{HUB}{place}.mp4", "m2", f"v/{place}.mp4", vote] for place, vote in enumerate(votes)]
    file = write(tmp_path / "x.csv", GENAI_HEADER, *rows)
    pairs = read_benchmark(file, DIMENSIONS)
    assert pairs.labels["preference"].tolist() == [1, -1, 0, 0, 0]
    assert pairs.score_of == {"preference": "TA"} and pairs.layout is GENAI
    assert pairs.votes == {"preference": {"leftvote": 1, "rightvote": 1, "tievote": 2, "bothbad_vote": 1}}
    assert pairs.paths[0][3] == "3.mp4" and pairs.paths[1][3] == "v/3.mp4"
    assert read_benchmark(file, DIMENSIONS, "MQ").score_of == {"preference": "MQ"}
    rows[4][2] = f"https://elsewhere.org/{3}.mp4"
    why = refusal(write(tmp_path / "x.csv", GENAI_HEADER, *rows), DIMENSIONS)
    assert "row 6" in why and "left_video" in why and f"3.mp4 is the file of {HUB}3.mp4 too" in why


def test_one_label_is_answered_by_the_score_asked_for(tmp_path):
    file = one_label(tmp_path / "x.csv", "A", "B", "same")
    pairs = read_benchmark(file, DIMENSIONS)
    assert pairs.labels["preference"].tolist() == [1, -1, 0]
    assert pairs.score_of == {"preference": "Overall"} and pairs.models == (["unknown"] * 3, ["unknown"] * 3)
    assert pairs.layout is ONE_LABEL
    assert read_benchmark(file, DIMENSIONS, "VQ").score_of == {"preference": "VQ"}
    named = write(tmp_path / "y.csv", [*ONE_HEADER, "A_model", "model_B"], ["a.mp4", "b.mp4", "a cat", "A", "m1", ""])
    assert read_benchmark(named, DIMENSIONS).models == (["m1"], ["unknown"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A", "B", "same"]),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda text: text.strip()),
        ),
        min_size=1,
    )
)
def test_any_one_label_file_comes_back_with_its_lines(tmp_path_factory, pairs):
    file = tmp_path_factory.mktemp("csv") / "x.csv"
    write(file, ONE_HEADER, *((f"{n}a.mp4", "b.mp4", prompt, label) for n, (label, prompt) in enumerate(pairs)))
    read = read_benchmark(file, DIMENSIONS)
    assert read.prompts == [prompt.strip() for _, prompt in pairs]
    assert read.labels["preference"].tolist() == [{"A": 1, "B": -1, "same": 0}[label] for label, _ in pairs]
    lines = file.read_bytes().decode().splitlines(keepends=True)
    assert len(read.rows) == len(pairs) and read.rows == sorted(set(read.rows)) and read.rows[-1] <= len(lines)
    assert sum(read.votes["preference"].values()) == len(pairs)
    expected = {(f"{n}a.mp4", p.strip()) for n, (_, p) in enumerate(pairs)} | {("b.mp4", p.strip()) for _, p in pairs}
    assert len(read.items()) == len(expected) and set(read.items()) == expected


@given(st.data())
def test_a_header_that_lacks_a_column_is_refused_with_what_each_layout_lacks(tmp_path_factory, data):
    chosen = data.draw(st.sampled_from(LAYOUTS))
    needed = [*chosen.paths, "prompt", *chosen.labels]
    gone = data.draw(st.sampled_from(needed))
    gone = set(chosen.labels) if gone in chosen.labels else {gone}  # of several labels any one will do
    header = data.draw(st.permutations([column for column in HEADERS[chosen.name] if column not in gone]))
    why = refusal(write(tmp_path_factory.mktemp("csv") / "x.csv", header), DIMENSIONS)
    assert f"for {chosen.name}" in why and "row 1" in why
    for layout in LAYOUTS:
        lacks = [column for column in (*layout.paths, "prompt") if column not in header]
        if layout.labels and not set(layout.labels) & set(header):
            lacks.append(" or ".join(layout.labels))
        assert lacks and f"{', '.join(lacks)} for {layout.name}" in why


def test_what_cannot_be_read_is_named(tmp_path):
    file = tmp_path / "x.csv"
    assert "missing" in refusal(file, DIMENSIONS)
    assert "no pairs" in refusal(write(file, ONE_HEADER), DIMENSIONS)
    both = refusal(write(file, [*VIDEOGEN_HEADER, "label"]), DIMENSIONS)
    assert "fits VideoGen-RewardBench and the one-label layout" in both
    why = refusal(one_label(file, "A", "a"), DIMENSIONS)
    assert "row 3" in why and "'label'" in why and "'a' is not A, B, same" in why
    genai = write(file, GENAI_HEADER, ["a cat", "m1", "1.mp4", "m2", "2.mp4", "left"])
    assert "row 2, key 'vote_type'" in refusal(genai, DIMENSIONS)
    assert "row 2, key 'prompt'" in refusal(write(file, ONE_HEADER, ["a.mp4", "b.mp4", " ", "A"]), DIMENSIONS)
    assert "row 2, key 'path_A'" in refusal(write(file, ONE_HEADER, ["../a.mp4", "b.mp4", "x", "A"]), DIMENSIONS)
    assert "compared with itself" in refusal(write(file, ONE_HEADER, ["a.mp4", "./a.mp4", "x", "A"]), DIMENSIONS)
    assert "--answer: 'TB' is no score" in refusal(one_label(file, "A"), DIMENSIONS, "TB")
    genai = write(file, GENAI_HEADER, ["a cat", "m1", "1.mp4", "m2", "2.mp4", "leftvote"])
    assert "'TA' is no score of this model: VQ, Overall" in refusal(genai, ["VQ"])
    videogen = write(file, VIDEOGEN_HEADER, ["a.mp4", "b.mp4", "m1", "m2", "a cat", "A", "A", "A", ""])
    assert "answered by the score of its name" in refusal(videogen, DIMENSIONS, "TA")
    assert "for none of this model's scores: sharpness, Overall" in refusal(videogen, ["sharpness"])


def test_chosen_and_rejected_clips_are_answered_by_overall(tmp_path):
    header = ["prompt", "chosen", "rejected", "chosen_model"]
    file = write(tmp_path / "x.csv", header, ["a cat", "a.mp4", "b.mp4", "m1"], ["a cat", "c.mp4", "a.mp4", ""])
    pairs = read_benchmark(file, DIMENSIONS)
    assert pairs.labels["preference"].tolist() == [1, 1] and pairs.score_of == {"preference": "Overall"}
    assert pairs.paths == (["a.mp4", "c.mp4"], ["b.mp4", "a.mp4"]) and pairs.models[0] == ["m1", "unknown"]
    assert read_benchmark(file, ["Overall"]).score_of == {"preference": "Overall"}
    assert "row 3, key 'chosen': contradicts row 2" in refusal(
        write(file, header, ["a cat", "a.mp4", "b.mp4", ""], ["a cat", "b.mp4", "a.mp4", ""]), DIMENSIONS
    )


def test_labels_of_some_questions_are_measured(tmp_path):
    file = write(tmp_path / "x.csv", ["path_A", "path_B", "prompt", "Overall"], ["a.mp4", "b.mp4", "a cat", "B"])
    pairs = read_benchmark(file, DIMENSIONS)
    assert {name: found.tolist() for name, found in pairs.labels.items()} == {"Overall": [-1]}
    assert (pairs.layout.name, pairs.layout.published) == ("labels by question", None)


def test_a_pair_that_stands_there_more_than_once_counts_once(tmp_path):
    """As in VideoAlign's own example, whose three pairs stand there four times each; sides may be exchanged."""
    row, turned = ["a.mp4", "b.mp4", "a cat", "A"], ["b.mp4", "./a.mp4", "A  cat", "B"]
    file = write(tmp_path / "x.csv", ONE_HEADER, row, ["a.mp4", "b.mp4", "a dog", "A"], turned, row)
    pairs = read_benchmark(file, DIMENSIONS)
    assert (pairs.rows, pairs.repeats, pairs.votes) == ([2, 3], 2, {"preference": {"A": 2}})
    for other in ("B", "same"):
        said = refusal(write(file, ONE_HEADER, row, ["a.mp4", "b.mp4", "a cat", other]), DIMENSIONS)
        assert said == f"{file}, row 3, key 'label': contradicts row 2"
    row = ["a.mp4", "b.mp4", "m1", "m2", "a cat", "A", "same", "B", "A"]
    pairs = read_benchmark(write(file, VIDEOGEN_HEADER, row, row, row), DIMENSIONS)
    assert (pairs.rows, pairs.repeats) == ([2], 2)
    assert "contradicts row 2" in refusal(write(file, VIDEOGEN_HEADER, row, [*row[:5], "B", *row[6:]]), DIMENSIONS)


@pytest.mark.skipif(not EXAMPLE.exists(), reason="VideoAlign's example.csv is not here")
def test_videoaligns_example_is_three_pairs():
    pairs = read_benchmark(EXAMPLE, DIMENSIONS)
    assert (len(pairs.rows), pairs.repeats) == (3, 9)


def test_three_annotators_of_a_pair_are_one_label(tmp_path):
    header = ["path_A", "path_B", "prompt", "annotator", "VQ", "MQ", "TA"]
    rows = [["a.mp4", "b.mp4", "a cat", name, label, "A", "A"] for name, label in zip("123", "ABA", strict=True)]
    pairs = read_benchmark(write(tmp_path / "x.csv", header, *rows), DIMENSIONS)
    assert pairs.rows == [2] and pairs.labels["VQ"].tolist() == [1]
    assert "all three differ" in refusal(
        write(tmp_path / "x.csv", header, *rows[:2], [*rows[2][:4], "same", "A", "A"]), DIMENSIONS
    )


def test_paths_below_videos_are_found_whole_and_in_either_unicode_form(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "cafe\u0301.mp4").write_text("")
    file = write(tmp_path / "x.csv", ONE_HEADER, [f"{videos}/a.mp4", "caf\u00e9.mp4", "a cat", "A"])
    assert read_benchmark(file, DIMENSIONS, None, videos).paths == (["a.mp4"], ["cafe\u0301.mp4"])


def test_the_first_pair_with_a_bad_video_is_named_with_how_many_others(tmp_path):
    pairs = read_benchmark(one_label(tmp_path / "x.csv", "A", "A", "A"), DIMENSIONS)
    refuse(pairs, {})
    with pytest.raises(BadInput, match=r"x\.csv, row 3, key 'path_B': broken \(and 1 more of 6 videos\)"):
        refuse(pairs, {("2a.mp4", "a cat"): "gone", ("1b.mp4", "a cat"): "broken"})


def test_react_video_is_answered_by_the_score_of_the_questions_name(tmp_path):
    words = ["A", "B", "same", "G", "S", "B"]
    rows = [[f"{n}a.mp4", f"{n}b.mp4", "m1", "m2", "a cat", word, "why", "why"] for n, word in enumerate(words)]
    pairs = read_benchmark(write(tmp_path / "x.csv", REACT_HEADER, *rows), DIMENSIONS)
    assert pairs.layout is REACT and pairs.score_of == {"MQ": "MQ"}
    assert pairs.labels["MQ"].tolist() == [1, -1, 0, 1, 0, -1] and pairs.models[0][0] == "m1"
    rows[2][5] = "1"
    assert "row 4, key 'GSB_MQ': '1' is not A, B, same" in refusal(
        write(tmp_path / "x.csv", REACT_HEADER, *rows), DIMENSIONS
    )
    assert "for none of this model's scores: VQ, Overall" in refusal(tmp_path / "x.csv", ["VQ"])


def test_columns_and_words_of_any_csv_are_mapped(tmp_path):
    file = write(tmp_path / "x.csv", ["l", "r", "caption", "vote"], ["a.mp4", "b.mp4", "a cat", "first"],
                 ["c.mp4", "d.mp4", "a cat", "second"], ["e.mp4", "f.mp4", "a cat", "tie"])  # fmt: skip
    mapped = read_mapped("path_A=l,path_B=r,prompt=caption,label=vote", "first=A,second=B,tie=same")
    pairs = read_benchmark(file, DIMENSIONS, "VQ", None, mapped)
    assert pairs.labels["preference"].tolist() == [1, -1, 0] and pairs.score_of == {"preference": "VQ"}
    assert (pairs.layout.name, pairs.votes) == (
        "the one-label layout, as mapped",
        {"preference": {"first": 1, "second": 1, "tie": 1}},
    )
    by_question = read_mapped("path_A=l,path_B=r,prompt=caption,VQ=vote,MQ=more", "first=A,second=B,tie=same")
    file = write(tmp_path / "y.csv", ["l", "r", "caption", "vote", "more"], ["a.mp4", "b.mp4", "a cat", "first", ""])
    pairs = read_benchmark(file, DIMENSIONS, None, None, by_question)
    assert {name: found.tolist() for name, found in pairs.labels.items()} == {"VQ": [1], "MQ": [NO_LABEL]}
    empty = write(tmp_path / "y.csv", ["l", "r", "caption", "vote", "more"], ["a.mp4", "b.mp4", "a cat", "", ""])
    assert "row 2, key 'vote': no label" in refusal(empty, DIMENSIONS, None, None, by_question)
    turned = write(tmp_path / "z.csv", ["l", "r", "caption", "vote", "more"], ["a.mp4", "b.mp4", "a cat", "first", "tie"],
                   ["b.mp4", "a.mp4", "a cat", "second", "tie"], ["b.mp4", "a.mp4", "a cat", "second", "first"])  # fmt: skip
    assert "row 4, key 'more': contradicts row 2" in refusal(turned, DIMENSIONS, None, None, by_question)


def test_a_mapping_that_cannot_be_right_is_refused(tmp_path):
    file = one_label(tmp_path / "x.csv", "A")
    for columns, labels, why in (
        ("path_A", None, "--columns: 'path_A' is not NAME=VALUE"),
        ("path_A=path_A,path_A=path_B", None, "'path_A' stands there twice"),
        ("path_A=path_B,path_B=path_B", None, "stands for two"),
        ("path_A=left", None, f"{file} has no column 'left': its header has path_A, path_B, prompt, label"),
        ("paths=label", None, "'paths' is no column that is read here"),
        (None, "yes=better", "'yes=better': a label means A, B, same"),
        (None, "yes=A", "row 2, key 'label': 'A' is not yes"),
    ):
        with pytest.raises(BadInput) as caught:
            read_benchmark(file, DIMENSIONS, None, None, read_mapped(columns, labels))
        assert why in str(caught.value) and "\n" not in str(caught.value)
    swapped = read_benchmark(file, DIMENSIONS, None, None, read_mapped("path_A=path_B,path_B=path_A", None))
    assert swapped.paths == (["0b.mp4"], ["0a.mp4"])


def test_ratings_are_pairs_of_their_prompts(tmp_path):
    header = ["path", "prompt", "model", "VQ", "sharpness"]
    rows = [["a.mp4", "a cat", "m1", "4", "1"], ["b.mp4", "a cat", "m2", "3", ""], ["c.mp4", "a dog", "", "5", "2"]]
    file = write(tmp_path / "x.csv", header, *rows)
    pairs = read_benchmark(file, DIMENSIONS)
    assert (pairs.rows, pairs.paths, pairs.models) == ([3], (["b.mp4"], ["a.mp4"]), (["m2"], ["m1"]))
    assert pairs.labels["VQ"].tolist() == [-1] and pairs.score_of == {"VQ": "VQ"}
    assert pairs.items() == [("a.mp4", "a cat"), ("b.mp4", "a cat"), ("c.mp4", "a dog")]  # one without a pair, too
    assert read_benchmark(file, DIMENSIONS, margin=1.0).labels["VQ"].tolist() == [0]
    both = read_benchmark(file, ["VQ", "sharpness"])
    assert both.score_of == {"VQ": "VQ", "sharpness": "sharpness"} and both.labels["sharpness"].tolist() == [NO_LABEL]
    with pytest.raises(BadInput, match=r"x\.csv, row 4, key 'path': gone"):
        refuse(pairs, {("c.mp4", "a dog"): "gone"})
    assert "answered by the score of its name" in refusal(file, DIMENSIONS, "TA")
    assert "which have no words" in refusal(file, DIMENSIONS, None, None, read_mapped(None, "a=A"))
    one = read_benchmark(write(tmp_path / "y.csv", ["path", "prompt", "rating"], ["a", "x", "1"]), DIMENSIONS, "MQ")
    assert one.score_of == {"rating": "MQ"} and len(one.rows) == 0
    assert read_benchmark(tmp_path / "y.csv", DIMENSIONS).score_of == {"rating": "Overall"}
