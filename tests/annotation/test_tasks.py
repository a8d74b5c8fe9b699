"""Tasks are blind, balanced, and stay what they were when the data grows; bad clips and pairs are named."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.annotation.clips import Clip, all_pairs, read_clips
from components.annotation.media import copy_blind
from components.annotation.tasks import Face, Settings, draw_sides, export, read_key
from components.errors import BadInput
from components.video.decode import probe, read_frames
from tests.annotation.conftest import MODELS, PROMPTS, clip, write_csv


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(call, *arguments, **more) -> str:
    with pytest.raises(BadInput) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_export_tells_annotators_nothing(clips, exported):
    tasks = json.loads((exported.folder / "tasks.json").read_text())
    assert len(tasks) == 6 and {task["data"]["prompt"] for task in tasks} == set(PROMPTS)
    public = contents(exported.folder / "media") | contents(exported.folder)
    secret = {"key.csv", "settings.json"}
    for name, blob in public.items():
        if name not in secret:
            assert not any(word.encode() in blob or word in name for word in MODELS), name
    by_name = {task.task: task for task in exported.tasks}
    for task in tasks:
        known = by_name[task["data"]["task"]]
        for side in "AB":
            shown = exported.folder / "media/videos" / Path(task["data"][f"video_{side}"]).name
            given = clips.videos / getattr(known, f"path_{side}")
            assert (read_frames(shown) == read_frames(given)).all()
            assert float(task["data"][f"fps_{side}"]) == probe(given).fps


def test_the_interface_asks_what_the_import_reads(exported):
    root = ElementTree.fromstring((exported.folder / "config.xml").read_text())
    asked = {one.get("name"): [choice.get("value") for choice in one] for one in root.iter("Choices")}
    assert asked == {question: ["A", "tie", "B"] for question in ("VQ", "MQ", "TA")}
    assert all(one.get("required") == "true" and one.get("choice") == "single" for one in root.iter("Choices"))
    assert {one.get("name") for one in root.iter("Rating")} == {f"rating_{s}_{q}" for s in "AB" for q in ("VQ", "MQ", "TA")}
    assert [one.get("value") for one in root.iter("Video")] == ["$video_A", "$video_B"]
    words = (exported.folder / "guidelines.md").read_text()
    assert all(f"## {name}:" in words for name in ("VQ", "MQ", "TA"))


def test_no_ratings_unless_asked_for(clips, tmp_path):
    export(clips.csv, clips.videos, tmp_path / "plain")
    assert "<Rating" not in (tmp_path / "plain/config.xml").read_text()


def test_growing_data_leaves_tasks_as_they_are(clips, exported):
    before = contents(exported.folder)
    assert export(clips.csv, clips.videos, exported.folder) == (0, 6)
    assert contents(exported.folder) == before
    (exported.folder / "guidelines.md").write_text("our own words")
    clips.add(PROMPTS[1], "delta", (1, 2, 3))
    clips.write(clips.rows[::-1])
    assert export(clips.csv, clips.videos, exported.folder) == (3, 9)
    assert read_key(exported.folder)[:6] == exported.tasks
    assert json.loads((exported.folder / "tasks.json").read_text())[:6] == json.loads(before["tasks.json"])
    assert (exported.folder / "guidelines.md").read_text() == "our own words"
    clips.write(clips.rows[:2])  # clips that are gone take no task with them
    assert export(clips.csv, clips.videos, exported.folder) == (0, 9)


def test_a_seed_draws_the_same_again_and_none_draws_a_secret_one(clips, exported, tmp_path):
    export(clips.csv, clips.videos, tmp_path / "again", seed=1, ratings=True)
    assert contents(tmp_path / "again") == contents(exported.folder)
    names = []
    for place in ("one", "other"):
        export(clips.csv, clips.videos, tmp_path / place)
        names.append({task.task for task in read_key(tmp_path / place)})
    assert not names[0] & names[1]


def test_chosen_pairs_only(clips, tmp_path):
    paths = [path for path, _, _ in clips.rows]
    pairs = write_csv(tmp_path / "pairs.csv", ["path_A", "path_B"], [(paths[1], paths[0]), (paths[4], paths[5])])
    assert export(clips.csv, clips.videos, tmp_path / "some", pairs) == (2, 2)
    assert len(list((tmp_path / "some/media/videos").iterdir())) == 4


def test_another_place_for_the_videos(clips, tmp_path):
    export(clips.csv, clips.videos, tmp_path / "web", base_url="https://videos.example.org/blind/")
    data = json.loads((tmp_path / "web/tasks.json").read_text())[0]["data"]
    name = data["video_A"].removeprefix("https://videos.example.org/blind/")
    assert (tmp_path / "web/media/videos" / name).is_file()


@given(
    models=st.lists(st.sampled_from(["", "m", "n", "o"]), min_size=2, max_size=12),
    seed=st.integers(0, 99),
    first=st.integers(0, 66),
)
def test_sides_are_balanced_in_any_number_of_exports(models, seed, first):
    clips = [Clip(2 + place, f"{place}.mp4", "a cat", model) for place, model in enumerate(models)]
    faces = {one.path: Face(f"v{one.path}", "8") for one in clips}
    settings = Settings(seed=seed, ratings=False, overall=False, base_url=None)
    pairs = list(all_pairs(clips))
    tasks = []
    for part in (pairs[:first], pairs[first:]):
        tasks += draw_sides(part, faces, tasks, settings, Path("clips.csv"))
    assert len({task.task for task in tasks}) == len({task.pair for task in tasks}) == len(pairs)
    lean = {}
    for task in tasks:
        a, b = (task.model_A, task.path_A), (task.model_B, task.path_B)
        who = min(a, b)[0], max(a, b)[0]
        lean[who] = lean.get(who, 0) + (1 if a < b else -1)
    assert all(abs(value) <= 1 for value in lean.values())


def test_sides_of_first_tasks_are_drawn():
    """A pair of generators with one task only has no fixed side either."""
    clips = [Clip(2, "a.mp4", "a cat", "m"), Clip(3, "b.mp4", "a cat", "n")]
    faces = {one.path: Face(one.path, "8") for one in clips}
    left = []
    for seed in range(200):
        settings = Settings(seed=seed, ratings=False, overall=False, base_url=None)
        left.append(draw_sides([tuple(clips)], faces, [], settings, Path("c"))[0].model_A)
    assert 70 < left.count("m") < 130


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("alpha/0.mp4", PROMPTS[0], "alpha"), "row 8, key 'path': alpha/0.mp4 is in row 2 already"),
        (("./alpha//0.mp4", PROMPTS[0], "x"), "row 8, key 'path': alpha/0.mp4 is in row 2 already"),
        (("../clips.csv", PROMPTS[0], "x"), "row 8, key 'path': '../clips.csv' is not a path inside the folder"),
        (("/etc/passwd", PROMPTS[0], "x"), "row 8, key 'path': '/etc/passwd' is not a path inside the folder"),
        (("out.mp4", PROMPTS[0], "x"), "out.mp4 is a link that leaves the folder"),
        (("none.mp4", PROMPTS[0], "x"), "none.mp4"),
        (("new.mp4", " ", "x"), "row 8, key 'prompt': empty prompt"),
        (("new.mp4", "A red circle  moving left", "x"), "row 8, key 'prompt': row 2 has this prompt with other white space"),
        (("new.mp4", "ein großer Ba\u0308r läuft, langsam", "x"), "row 8, key 'prompt': row 5 has this prompt with other"),
        (("text.mp4", PROMPTS[0], "x"), "row 8, key 'path': "),
        (("old.mp4", PROMPTS[0], "x"), "browsers play H.264, VP9 and AV1 in yuv420p, not mpeg4 in yuv420p"),
        (("copy.mp4", PROMPTS[0], "x"), "row 8, key 'path': the same video as alpha/0.mp4"),
    ],
)
def test_bad_clips_are_named_and_nothing_is_written(clips, tmp_path, row, said):
    clip(clips.videos / "new.mp4", (9, 9, 9))
    (clips.videos / "out.mp4").symlink_to(clip(tmp_path / "elsewhere.mp4", (8, 8, 8)))
    (clips.videos / "text.mp4").write_text("no video")
    (clips.videos / "copy.mp4").write_bytes((clips.videos / "alpha/0.mp4").read_bytes())
    old_codec(clips.videos / "old.mp4")
    clips.write([*clips.rows, row])
    found = refusal(export, clips.csv, clips.videos, tmp_path / "out")
    assert found.startswith(str(clips.csv)) and said in found
    assert not (tmp_path / "out").exists()


def old_codec(path: Path) -> None:
    """A clip in MPEG-4 part 2, which no browser plays."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 32
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("alpha/0.mp4", "no.mp4")], "row 2, key 'path_B': no.mp4 is not in the list of clips"),
        ([("alpha/0.mp4", "alpha/0.mp4")], "row 2, key 'path_B': a clip is compared with itself"),
        ([("alpha/0.mp4", "alpha/3.mp4")], "row 2, key 'path_B': prompts differ: 'a red circle moving left' and 'ein"),
        ([("alpha/0.mp4", "beta/1.mp4"), ("beta/1.mp4", "alpha/0.mp4")], "row 3, key 'path_A': this pair is in row 2"),
        ([], ": no pairs"),
    ],
)
def test_bad_pairs_are_named(clips, tmp_path, rows, said):
    pairs = write_csv(tmp_path / "pairs.csv", ["path_A", "path_B"], rows)
    assert said in refusal(export, clips.csv, clips.videos, tmp_path / "out", pairs)


def test_lonely_clips_make_no_task(clips, tmp_path):
    clips.write(clips.rows[::3])
    assert "no two clips have the same prompt" in refusal(export, clips.csv, clips.videos, tmp_path / "out")


def test_another_choice_for_the_same_folder(clips, exported):
    for key, value in (("seed", 2), ("ratings", False), ("base_url", "http://x"), ("overall", True)):
        said = refusal(export, clips.csv, clips.videos, exported.folder, **{key: value})
        assert f"settings.json, key '{key}': the first export chose" in said


def test_a_clip_that_changed_since_it_went_out(clips, exported):
    path, prompt, model = clips.rows[0]
    clips.write([(path, prompt, "other"), *clips.rows[1:]])
    said = refusal(export, clips.csv, clips.videos, exported.folder)
    assert "row 2, key 'model': alpha/0.mp4 changed since task" in said
    clips.write([(path, PROMPTS[1], model), *clips.rows[1:]])
    assert "row 2, key 'prompt': alpha/0.mp4 changed" in refusal(export, clips.csv, clips.videos, exported.folder)
    clips.write(clips.rows)
    clip(clips.videos / path, (77, 77, 77))
    assert "row 2, key 'path': alpha/0.mp4 changed" in refusal(export, clips.csv, clips.videos, exported.folder)


def test_a_damaged_key(exported):
    file = exported.folder / "key.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[1]]))
    assert f"row 8, key 'task': task {exported.tasks[0].task} is there twice" in refusal(read_key, exported.folder)
    file.write_text("\n".join([*lines, "x" + lines[1]]))
    assert f"row 8, key 'path_A': the same pair as task {exported.tasks[0].task}" in refusal(read_key, exported.folder)


def test_copies_keep_pictures_and_lose_all_else(clips, tmp_path):
    source = clips.videos / clips.rows[0][0]
    assert b"made by alpha" in source.read_bytes()
    copy_blind(source, tmp_path / "copy.mp4")
    blob = (tmp_path / "copy.mp4").read_bytes()
    assert b"alpha" not in blob and b"Lavf" not in blob
    assert blob.index(b"moov") < blob.index(b"mdat")
    assert (read_frames(tmp_path / "copy.mp4") == read_frames(source)).all()


def test_the_order_of_rows_does_not_count(clips):
    forwards = list(all_pairs(read_clips(clips.csv, clips.videos)))
    clips.write(clips.rows[::-1])
    backwards = list(all_pairs(read_clips(clips.csv, clips.videos)))
    assert [[one.path for one in pair] for pair in forwards] == [[one.path for one in pair] for pair in backwards]


def test_the_command_says_what_is_wrong_in_one_line(clips, tmp_path):
    clips.write([*clips.rows, clips.rows[0]])
    command = [
        sys.executable,
        "-m",
        "components.cli.main",
        "annotate",
        "export",
        "--clips",
        clips.csv,
        "--out",
        tmp_path / "out",
    ]
    outcome = subprocess.run([*command, "--videos", clips.videos], capture_output=True, text=True)
    assert outcome.returncode == 2
    assert outcome.stderr == f"error: {clips.csv}, row 8, key 'path': alpha/0.mp4 is in row 2 already\n"
