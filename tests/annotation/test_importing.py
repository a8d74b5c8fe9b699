"""Labels come back to the clips they were given to; what does not fit is named by file, task and key."""

import copy
import json
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from components.annotation.importing import count_waiting, import_csv, import_studio, merge
from components.annotation.tasks import export, read_key
from components.cli.main import app
from components.curation.source import read_labels
from components.errors import BadInput
from components.files.locks import sole_writer
from components.preferences.pairs import labelled_pair
from components.preferences.paths import stored_file
from components.preferences.schema import group_by_pair, read_annotations, write_annotations
from tests.annotation.conftest import QUESTIONS, Exported, work, write_csv

ALL_A = dict.fromkeys(QUESTIONS, "A")
ALL_ONE = dict.fromkeys(QUESTIONS, 1) | {"Overall": None}
ANSWER = st.sampled_from(["A", "tie", "B"])


def refusal(call, *arguments) -> str:
    with pytest.raises(BadInput) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_labels_land_on_the_clips_that_were_shown(exported, data):
    answers = {person: {name: data.draw(ANSWER) for name in QUESTIONS} for person in (11, 12, 13)}
    stars = {f"rating_{side}_TA": data.draw(st.integers(1, 5)) for side in "AB"}
    answers[12] |= stars
    file = exported.write(exported.studio(answers))
    found = import_studio(file, exported.folder, [])
    assert len(found.annotations) == 18
    shown = {task.pair: task for task in exported.tasks}
    for view in found.annotations:
        task = shown[view.pair]
        assert (view.path_A, view.path_B, view.model_A, view.model_B) == (
            *(task.path_A, task.path_B),
            *(task.model_A, task.model_B),
        )
        said = answers[int(view.annotator)]
        assert {name: view.labels[name] for name in QUESTIONS} == {
            name: {"A": 1, "tie": 0, "B": -1}[said[name]] for name in QUESTIONS
        }
        rated = view.annotator == "12"
        assert (view.ratings_A["TA"], view.ratings_B["TA"]) == (
            (stars["rating_A_TA"], stars["rating_B_TA"]) if rated else (None, None)
        )
    out = exported.folder / "labels.csv"
    write_annotations(out, found.annotations)
    again = read_annotations(out)
    assert [(view.pair, view.annotator, view.labels, view.ratings) for view in again] == [
        (view.pair, view.annotator, view.labels, view.ratings) for view in found.annotations
    ]


def test_the_reviewer_is_named_by_number_or_address(exported):
    three = dict(zip((11, 12, 13), ("A", "tie", "B"), strict=True))
    tasks = exported.studio({person: ALL_A | {"MQ": said} for person, said in three.items()})
    boss = work(14, ALL_A | {"MQ": "B"}) | {"completed_by": {"id": 14, "email": "boss@example.org", "first_name": ""}}
    for task in tasks:
        task["annotations"].insert(0, copy.deepcopy(boss))
    file = exported.write(tasks)
    for who in ("14", "boss@example.org"):
        found = import_studio(file, exported.folder, [who])
        (views, *_), _ = group_by_pair(file, found.annotations)
        assert [view.annotator for view in views] == ["11", "12", "13", "reviewer"]
        row = labelled_pair(views)
        assert (row["VQ"], row["MQ"], row["decided_by"]) == (1, -1, "reviewer")
    assert "key 'completed_by': annotators 11, 12, 13, 14: a pair has 3" in refusal(import_studio, file, exported.folder, [])


def test_a_reviewer_may_answer_only_what_is_in_dispute(exported):
    tasks = exported.studio({person: ALL_A | {"MQ": said} for person, said in ((11, "A"), (12, "tie"), (13, "B"))})
    tasks[0]["annotations"].append(work(14, {"MQ": "tie"}))
    found = import_studio(exported.write(tasks), exported.folder, ["14"])
    assert count_waiting(exported.folder, found.annotations)[1] == {"ready": 1, "reviewer": 5}
    assert labelled_pair(group_by_pair("f", found.annotations)[0][0])["MQ"] == 0


def test_overall_is_an_answer_where_it_was_asked(clips, tmp_path):
    export(clips.csv, clips.videos, tmp_path / "out", overall=True)
    folder = Exported(tmp_path / "out", read_key(tmp_path / "out"))
    assert '<Choices name="Overall"' in (folder.folder / "config.xml").read_text()
    found = import_studio(folder.write(folder.studio({11: ALL_A | {"Overall": "B"}})), folder.folder, [])
    assert [view.labels["Overall"] for view in found.annotations] == [-1] * 6
    without = folder.write(folder.studio({11: ALL_A}))
    assert "key 'Overall': annotation 7011 of '11' has no answer" in refusal(import_studio, without, folder.folder, [])


def test_skips_drafts_and_repeats_are_no_labels_and_are_counted(exported):
    tasks = exported.studio({11: ALL_A, 12: ALL_A})
    tasks[0]["annotations"].append(work(13, {}, was_cancelled=True))
    tasks[0]["drafts"] = [{"id": 5, "result": []}]
    tasks[1]["annotations"].append(work(11, ALL_A, number=1))
    tasks[2]["predictions"] = [5]
    found = import_studio(exported.write(tasks), exported.folder, [])
    assert len(found.annotations) == 12
    assert +found.left_out == {"drafts, never submitted": 1, "skipped": 1, "repeats of the same answer": 1}


def changed(tasks: list[dict], at: str, value: object) -> list[dict]:
    """Tasks with one thing replaced; `at` is a dotted path into the list."""
    *way, last = at.split(".")
    place = tasks
    for part in way:
        place = place[int(part) if part.isdigit() else part]
    place[int(last) if last.isdigit() else last] = value
    return tasks


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (
            "0.annotations.0.result.1.value.choices",
            ["C"],
            "task 100, key 'MQ': annotation 7011 has ['C'], not one of A, tie",
        ),
        ("0.annotations.0.result.1.value.choices", ["A", "B"], "key 'MQ': annotation 7011 has ['A', 'B']"),
        ("0.annotations.0.result.1.value.choices", [], "key 'MQ': annotation 7011 of '11' has no answer"),
        ("0.annotations.0.result.1.value.choices", None, "key 'MQ': annotation 7011 of '11' has no answer"),
        ("0.annotations.0.result.1.value.choices", [["A"]], "key 'MQ': annotation 7011 has [['A']]"),
        ("0.annotations.0.result.1.value", {"text": "A"}, "key 'MQ': annotation 7011 has nothing"),
        ("0.annotations.0.result.1.value", None, "key 'MQ': annotation 7011 has nothing"),
        ("0.annotations.0.result", None, "key 'VQ': annotation 7011 of '11' has no answer"),
        ("0.annotations.0.result.1.from_name", "VQ", "key 'VQ': answered twice in annotation 7011"),
        ("0.annotations.0.result.1.from_name", "beauty", "key 'MQ': annotation 7011 of '11' has no answer"),
        ("0.data.task", ["0"], "key 'data.task': '['0']' is no task of this folder's key.csv"),
        ("0.annotations.0.result.1.from_name", "Overall", "key 'Overall': annotation 7011 answers a question nobody asked"),
        ("0.annotations.0.result", [], "key 'VQ': annotation 7011 of '11' has no answer"),
        ("0.annotations.0.completed_by", None, "key 'completed_by': annotation 7011 has no author"),
        ("0.annotations.0.completed_by", "me", "key 'annotations.0.completed_by"),
        ("0.data.task", "0123456789abcdef", "key 'data.task': '0123456789abcdef' is no task of this folder's key.csv"),
        ("0.data", {}, "key 'data.task': 'None' is no task"),
        ("0.data.video_A", "/data/local-files/?d=videos/../x.mp4", "key 'data.video_A': side A is not"),
        (
            "0.data.prompt",
            "a red circle moving  left",
            "key 'data.prompt': 'a red circle moving  left' is not the",
        ),
        ("0.annotations", 3, "key 'annotations': "),
        ("1.id", None, "key 'id': "),
        ("1", 3, "task no. 2: "),
    ],
)
def test_bad_exports_are_named(exported, at, value, said):
    tasks = changed(exported.studio({11: ALL_A, 12: ALL_A, 13: ALL_A}), at, value)
    file = exported.write(tasks)
    assert (found := refusal(import_studio, file, exported.folder, [])).startswith(f"{file}, task ") and said in found


def test_what_else_the_interface_has_is_no_label_and_is_counted(exported):
    """A box for comments, marks on a clip, a relation between two of them: the interface is the team's to change."""
    tasks = exported.studio({11: ALL_A | {"rating_A_VQ": 4.0}, 12: ALL_A})
    box = {"from_name": "comment", "to_name": "prompt", "type": "textarea", "value": {"text": ["flickers", "late"]}}
    mark = {"from_name": "moments", "to_name": "video_A", "type": "timelinelabels", "value": {"ranges": [{"start": 1}]}}
    for task in tasks:
        task["annotations"][0]["result"] += [box, mark, mark, {"type": "relation", "from_id": "a", "to_id": "b"}]
    found = import_studio(exported.write(tasks), exported.folder, [])
    assert [view.labels for view in found.annotations] == [ALL_ONE] * 12
    assert found.annotations[0].ratings_A["VQ"] == 4.0
    assert +found.left_out == {"answers to comment": 6, "answers to moments": 12, "relations": 6}


def test_fields_with_nothing_in_them_may_be_null(exported):
    """As exports of other releases, and of scripts, have them; a rating that was taken back is one that was never given."""
    tasks = exported.studio({11: ALL_A | {"rating_A_VQ": None}, 12: ALL_A})
    for task in tasks:
        task |= {"drafts": None, "predictions": None, "comment_count": 0}
        task["annotations"][0] |= {"was_cancelled": None, "lead_time": None, "parent_prediction": None}
        task["annotations"].append(work(13, {}, was_cancelled=True) | {"result": None})
    tasks[5]["annotations"] = None
    file = exported.write(tasks)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    found = import_studio(file, exported.folder, [])
    assert len(found.annotations) == 10 and +found.left_out == {"skipped": 5}
    assert found.annotations[0].ratings_A["VQ"] is None


def test_an_export_as_csv_is_told_from_annotations(tmp_path):
    header = ["VQ", "MQ", "TA", "annotation_id", "annotator", "id", "lead_time", "prompt", "task", "video_A", "video_B"]
    file = write_csv(tmp_path / "export.csv", header, [])
    assert "Label Studio's CSV export" in refusal(import_csv, file)


def test_prompts_are_the_same_to_the_letter(exported):
    tasks = exported.studio({11: ALL_A})
    place = next(place for place, task in enumerate(tasks) if "ä" in task["data"]["prompt"])
    tasks[place]["data"]["prompt"] = tasks[place]["data"]["prompt"].replace("ä", "a\u0308")
    assert f"task {100 + place}, key 'data.prompt'" in refusal(import_studio, exported.write(tasks), exported.folder, [])


@pytest.mark.parametrize("stars", [0, 6, "5", 2.5, True, float("inf")])
def test_bad_stars_are_named(exported, stars):
    tasks = exported.studio({11: ALL_A | {"rating_B_VQ": stars}})
    assert f"task 100, key 'rating_B_VQ': annotation 7011 rates {stars}" in refusal(
        import_studio, exported.write(tasks), exported.folder, []
    )


def test_doubles_are_named(exported):
    tasks = exported.studio({11: ALL_A})
    twice = [*tasks, tasks[0] | {"id": 999}]
    assert "task 999, key 'data.task': the same pair as task 100" in refusal(
        import_studio, exported.write(twice), exported.folder, []
    )
    tasks[1]["annotations"].append(work(11, ALL_A | {"TA": "B"}, number=5))
    assert "task 101, key 'annotations': annotations 7011 and 5 of '11' differ" in refusal(
        import_studio, exported.write(tasks), exported.folder, []
    )


@pytest.mark.parametrize(("text", "said"), [("{", "row 1: not JSON"), ("{}", "not a list of tasks"), (None, "missing")])
def test_bad_files_are_named(exported, text, said):
    file = exported.folder / "bad.json"
    if text is not None:
        file.write_text(text)
    assert said in refusal(import_studio, file, exported.folder, [])


def test_a_short_export_is_told_from_a_full_one(exported):
    tasks = [{"id": 1, "VQ": "A", **exported.studio({})[0]["data"]}]
    assert "task 1, key 'data': missing key; export as JSON, not as JSON-MIN" in refusal(
        import_studio, exported.write(tasks), exported.folder, []
    )


def test_another_folders_key_opens_nothing(clips, exported, tmp_path):
    export(clips.csv, clips.videos, tmp_path / "other", seed=2)
    file = exported.write(exported.studio({11: ALL_A}))
    assert "is no task of this folder's key.csv" in refusal(import_studio, file, tmp_path / "other", [])


def test_what_is_ready(exported):
    tasks = exported.studio({11: ALL_A, 12: ALL_A, 13: ALL_A})
    del tasks[0]["annotations"][0]
    tasks[1]["annotations"] = [work(11, ALL_A), work(12, ALL_A | {"TA": "B"}), work(13, ALL_A | {"TA": "tie"})]
    found = import_studio(exported.write(tasks), exported.folder, [])
    ready, counts = count_waiting(exported.folder, found.annotations)
    assert counts == {"ready": 4, "annotators": 1, "reviewer": 1}
    assert len(ready) == 12
    for views in group_by_pair("f", ready)[0]:
        assert labelled_pair(views)["decided_by"] == "majority"


HEADER = ["path_A", "path_B", "prompt", "annotator", "VQ", "MQ", "TA"]


def test_a_csv_is_checked_and_its_repeats_dropped(tmp_path):
    row = ["a.mp4", "b.mp4", "a cat", "1", "A", "B", "same"]
    turned = ["b.mp4", "a.mp4", "a cat", "1", "B", "A", "same"]
    found = import_csv(write_csv(tmp_path / "labels.csv", HEADER, [row, turned, [*row[:3], "2", "A", "A", "A"]]))
    assert [view.annotator for view in found.annotations] == ["1", "2"]
    assert found.left_out == {"repeats of an earlier row": 1}
    bad = write_csv(tmp_path / "bad.csv", HEADER, [row, [*row[:4], "B", "B", "same"]])
    assert "row 3, key 'VQ': annotator '1' contradicts row 2" in refusal(import_csv, bad)
    bad = write_csv(tmp_path / "bad.csv", HEADER, [row, ["a.mp4", "b.mp4", "a  Cat", *row[3:]]])
    assert "row 3, key 'prompt': row 2 has the same pair and prompt with" in refusal(import_csv, bad)
    four = write_csv(tmp_path / "four.csv", HEADER, [[*row[:3], name, *row[4:]] for name in "1234"])
    assert "key 'annotator': annotators 1, 2, 3, 4" in refusal(count_waiting, four, import_csv(four).annotations)


def test_merging_refuses_contradictions_by_both_places(tmp_path):
    old = write_csv(tmp_path / "old.csv", HEADER, [["a.mp4", "b.mp4", "a cat", "1", "A", "B", "same"]])

    def against(*row: str):
        new = write_csv(tmp_path / "new.csv", HEADER, [["c.mp4", "d.mp4", "a dog", "1", "A", "A", "A"], row])
        return merge(old, new, read_annotations(new))

    merged, known = against("b.mp4", "a.mp4", "a cat", "1", "B", "A", "same")
    assert (len(merged), known) == (2, 1)
    merged, known = against("b.mp4", "a.mp4", "a cat", "2", "A", "A", "A")
    assert (len(merged), known) == (3, 0)
    said = refusal(against, "b.mp4", "a.mp4", "a cat", "1", "B", "A", "A")
    assert said == f"{old}, row 2, key 'TA': annotator '1' says something else in {tmp_path / 'new.csv'}, row or task 3"
    assert "key 'prompt'" in refusal(against, "b.mp4", "a.mp4", "a CAT", "2", "B", "A", "A")


def run(*arguments: object):
    return CliRunner().invoke(app, ["annotate", "import", *map(str, arguments)])


def test_the_command_writes_all_or_nothing(exported, tmp_path):
    out = tmp_path / "labels.csv"
    tasks = exported.studio({11: ALL_A, 12: ALL_A, 13: ALL_A})
    part = exported.write(tasks[:2])
    assert run(part, "--folder", exported.folder, "--out", out, "--reviewer", "77").exit_code == 0
    assert len(read_annotations(out)) == 6
    whole = exported.write(tasks)
    outcome = run(whole, "--folder", exported.folder, "--out", out, "--append")
    assert "18 annotations; left out: 6 already there" in outcome.output and "6 pairs are ready" in outcome.output
    before = out.read_bytes()
    del tasks[3]["annotations"][0]
    run(exported.write(tasks), "--folder", exported.folder, "--out", tmp_path / "ready.csv", "--ready")
    assert len(read_annotations(tmp_path / "ready.csv")) == 15
    tasks[0]["annotations"][0] = work(12, ALL_A | {"VQ": "tie"})
    tasks[0]["annotations"][1] = work(11, ALL_A)
    outcome = run(exported.write(tasks), "--folder", exported.folder, "--out", out, "--append")
    assert isinstance(outcome.exception, BadInput) and "annotator '12' says something else" in str(outcome.exception)
    assert out.read_bytes() == before and not list(tmp_path.glob("*.partial"))
    outcome = run(exported.write(json.loads("[]")), "--folder", exported.folder, "--out", tmp_path / "none.csv")
    assert "no annotations" in str(outcome.exception) and not (tmp_path / "none.csv").exists()
    outcome = run(whole, "--out", out)
    assert "--folder" in str(outcome.exception)


@pytest.mark.parametrize(
    "command",
    [
        ["import", "given.csv", "--out", "out", "--append"],
        ["pull", "folder", "--out", "out"],
        ["next", "--clips", "clips.csv", "--scores", "scores.parquet", "--count", "1", "--out", "out"],
    ],
    ids=lambda command: command[0],
)
def test_what_another_command_writes_is_left_alone(tmp_path, monkeypatch, command):
    """Two commands that read, merge and write would lose the labels of one."""
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "given.csv", HEADER, [["a.mp4", "b.mp4", "a cat", "1", "A", "B", "same"]])
    with sole_writer("out"):
        told = CliRunner().invoke(app, ["annotate", *command])
        assert isinstance(told.exception, BadInput) and "out: is being written by process" in str(told.exception)
    assert not (tmp_path / "out").exists()


def test_the_command_takes_a_csv_as_it_is(tmp_path):
    out = tmp_path / "labels.csv"
    given = write_csv(tmp_path / "given.csv", HEADER, [["a.mp4", "b.mp4", "a cat", "1", "A", "B", "same"]])
    assert "1 await annotators" in run(given, "--out", out).output
    before = out.read_bytes()
    assert "names clips and annotators itself" in str(run(given, "--out", out, "--reviewer", "1").exception)
    assert "no pair has all its answers yet" in str(run(given, "--out", out, "--ready").exception)
    assert out.read_bytes() == before


def test_what_is_ready_goes_through_the_stages(clips, exported):
    """As profile `examples` with source.folder = the videos and source.csv = annotations.csv."""
    export = exported.write(exported.studio({11: ALL_A, 12: ALL_A, 13: ALL_A | {"TA": "B"}}))
    out = clips.videos / "annotations.csv"
    assert run(export, "--folder", exported.folder, "--out", out, "--ready").exit_code == 0
    annotations = read_annotations(out)
    assert sorted(read_labels(out, str(out), clips.videos, partial(stored_file, clips.videos)).clips) == sorted(
        path for path, _, _ in clips.rows
    )
    rows = [labelled_pair(views) for views in group_by_pair(out, annotations)[0]]
    assert [(row["VQ"], row["TA"], row["decided_by"]) for row in rows] == [(1, 1, "majority")] * 6
    models = {path: model for path, _, model in clips.rows}
    assert all(row[f"model_{side}"] == models[row[f"path_{side}"]] for row in rows for side in "AB")
