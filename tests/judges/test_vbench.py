"""`reelign vbench`: published rows, what is absent, and the package's files."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.judges.vbench import (
    FLICKERING,
    VBENCH,
    VBENCH_2,
    Result,
    flickering,
    list_videos,
    read_results,
    summarise,
)
from tests.evaluation.clips import clip

# Rows of VBench's leaderboard (huggingface.co/spaces/Vchitect/VBench_Leaderboard), in percent: Veo 3 of 2025-08-06 as it
# stands there, HunyuanVideo as FlashVideo (arXiv 2502.05179) prints it, the others as Show-o2 (2506.15564, table 8) does.
ORDER = [
    "subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness", "dynamic_degree",
    "aesthetic_quality", "imaging_quality", "object_class", "multiple_objects", "human_action", "color",
    "spatial_relationship", "scene", "appearance_style", "temporal_style", "overall_consistency",
]  # fmt: skip
ROWS = {
    "Veo 3": (
        "97.36 96.89 99.30 99.16 72.43 63.81 68.23 93.89 82.20 99.40 82.48 84.26 57.43 23.55 25.97 27.88",
        {"Quality": 85.70, "Semantic": 82.49, "Total": 85.06},
    ),
    "HunyuanVideo": (
        "97.37 97.76 99.44 98.99 70.83 60.36 67.56 86.10 68.55 94.40 91.60 68.68 53.88 19.80 23.89 26.44",
        {"Quality": 85.09, "Semantic": 75.82, "Total": 83.24},
    ),
    "LaVie": (
        "91.41 97.47 98.30 96.38 49.72 54.94 61.90 91.82 33.32 96.80 86.39 34.09 52.69 23.56 25.93 26.41",
        {"Quality": 78.78, "Semantic": 70.31, "Total": 77.08},
    ),
    "ModelScope": (
        "89.87 95.29 98.28 95.79 66.39 52.06 58.57 82.25 38.98 92.40 81.72 33.68 39.26 23.39 25.37 25.67",
        {"Quality": 78.05, "Semantic": 66.54, "Total": 75.75},
    ),
}
# VBench-2.0's leaderboard, row HunyuanVideo of 2025-03-28; its scores as LongCat-Video (arXiv 2510.22200) prints them.
HUNYUAN_2 = {
    "Composition": 43.96, "Diversity": 39.73, "Instance_Preservation": 92.40, "Motion_Rationality": 34.48,
    "Camera_Motion": 33.95, "Complex_Landscape": 18.89, "Complex_Plot": 9.78, "Dynamic_Attribute": 22.71,
    "Dynamic_Spatial_Relationship": 21.26, "Human_Interaction": 66.67, "Motion_Order_Understanding": 26.94,
    "Human_Anatomy": 88.58, "Human_Clothes": 82.97, "Human_Identity": 75.67,
    "Material": 64.37, "Mechanics": 76.09, "Multi-View_Consistency": 43.80, "Thermotics": 56.52,
}  # fmt: skip
HUNYUAN_2_SCORES = {
    "Creativity": 41.84, "Commonsense": 63.44, "Controllability": 28.60, "Human Fidelity": 82.41, "Physics": 60.20,
    "Total": 55.30,
}  # fmt: skip


def as_results(percent: dict[str, float]) -> dict[str, Result]:
    return {name: Result(value / 100, 5, Path("a_eval_results.json")) for name, value in percent.items()}


def write_results(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def entry(value: float, count: int = 2) -> list:
    return [value, [{"video_path": f"{i}.mp4", "video_results": value} for i in range(count)]]


def run(*arguments):
    return CliRunner().invoke(app, ["vbench", *map(str, arguments)])


@pytest.mark.parametrize("model", ROWS)
def test_published_rows(model):
    values, scores = ROWS[model]
    found = summarise(VBENCH, as_results(dict(zip(ORDER, map(float, values.split()), strict=True))))
    # Values and scores are printed to 0.01: what that leaves open is at most 0.005 of each, and less of their means.
    assert found["scores"] == pytest.approx({name: score / 100 for name, score in scores.items()}, abs=1e-4)
    assert not any(found["absent"].values())


def test_published_row_of_vbench_2():
    found = summarise(VBENCH_2, as_results(HUNYUAN_2))
    assert found["scores"] == pytest.approx({name: score / 100 for name, score in HUNYUAN_2_SCORES.items()}, abs=1e-4)


def test_extremes():
    low = {name: Result(rule.low, 1) for name, rule in VBENCH.dimensions.items()}
    high = {name: Result(rule.high, 1) for name, rule in VBENCH.dimensions.items()}
    assert set(summarise(VBENCH, low)["scores"].values()) == {0.0}
    assert summarise(VBENCH, high)["scores"] == pytest.approx({"Quality": 1, "Semantic": 1, "Total": 1})
    one = low | {"dynamic_degree": high["dynamic_degree"]}
    assert summarise(VBENCH, one)["scores"] == pytest.approx({"Quality": 0.5 / 6.5, "Semantic": 0, "Total": 0.4 / 6.5})


@given(st.sampled_from([VBENCH, VBENCH_2]), st.data())
def test_scores_are_there_exactly_when_their_dimensions_are(benchmark, data):
    names = list(benchmark.dimensions)
    known = data.draw(st.sets(st.sampled_from(names)))
    values = {name: Result(data.draw(st.floats(-1, 1)), 1) for name in names}
    whole = summarise(benchmark, values)
    found = summarise(benchmark, {name: values[name] for name in known})
    assert set(found["dimensions"]) == known
    assert {name for absent in found["absent"].values() for name in absent} == set(names) - known
    for name, group in benchmark.groups.items():
        assert found["scores"][name] == (whole["scores"][name] if group.dimensions.keys() <= known else None)
    assert found["scores"]["Total"] == (whole["scores"]["Total"] if len(known) == len(names) else None)
    json.dumps(found, allow_nan=False)


def test_files_of_the_package(tmp_path):
    first = write_results(tmp_path / "a_eval_results.json", {"subject_consistency": entry(0.9, 3), "scene": entry(0.5)})
    write_results(tmp_path / "a_full_info.json", [{"prompt_en": "x"}])
    (tmp_path / "more").mkdir()
    write_results(tmp_path / "more/b_eval_results.json", {"temporal style": entry(0.25)})
    found = read_results([tmp_path], VBENCH)
    assert found["subject_consistency"] == Result(0.9, 3, first)
    assert set(found) == {"subject_consistency", "scene", "temporal_style"}


def test_videos_that_vbench_2_could_not_judge_do_not_count(tmp_path):
    videos = [{"video_path": f"{i}.mp4", "video_results": value} for i, value in enumerate((1, 0, -1))]
    file = write_results(tmp_path / "a.json", {"Human_Clothes": [0.5, videos]})
    assert read_results([file], VBENCH_2)["Human_Clothes"].n == 2


def test_a_dimension_of_no_video_is_absent_and_said(tmp_path):
    """VBench writes [NaN, []] where no video has the name of one of the dimension's prompts."""
    none = {name: [float("nan"), []] for name in ("scene", FLICKERING)} | {"color": [None, []]}
    files = [write_results(tmp_path / f"{i}.json", part) for i, part in enumerate((none, {"color": entry(0.5, 4)}, none))]
    found = read_results(files, VBENCH)
    assert found["color"] == Result(0.5, 4, files[1]) and found["scene"].n == 0
    done = run(clip(tmp_path / "a.mp4"), "--results", files[0], "--out", tmp_path / "out.json")
    assert done.exit_code == 0 and "note: scene: the package found no video of it" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert list(written["dimensions"]) == [FLICKERING] and "scene" in written["absent"]["Semantic"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([], "no dimensions"),
        ({"beauty": entry(0.5)}, "key 'beauty': no dimension of VBench"),
        ({"Mechanics": entry(0.5)}, "but of VBench-2.0: --version 2"),
        ({"scene": 0.5}, "key 'scene': not [mean,"),
        ({"scene": [0.5, []]}, "key 'scene': not [mean,"),
        ({"scene": [None, [{"video_path": "a.mp4"}]]}, "key 'scene': not [mean,"),
        ({"scene": entry(float("nan"))}, "key 'scene': nan is no score"),
        ({"imaging_quality": entry(62.9)}, "key 'imaging_quality': 62.9 is no score"),
    ],
)
def test_what_is_no_result(tmp_path, content, why):
    file = write_results(tmp_path / "a.json", content)
    with pytest.raises(BadInput) as caught:
        read_results([file], VBENCH)
    assert str(file) in str(caught.value) and why in str(caught.value)


def test_missing_broken_and_double(tmp_path):
    one = write_results(tmp_path / "1_eval_results.json", {"scene": entry(0.5)})
    two = write_results(tmp_path / "2_eval_results.json", {"scene": entry(0.6)})
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "empty").mkdir()
    for paths, why in [
        ([tmp_path / "no.json"], "missing"),
        ([tmp_path / "text.json"], "not JSON"),
        ([tmp_path / "empty"], "no *_eval_results.json in it"),
        ([one, two], f"{two}, key 'scene': {one} has it too"),
    ]:
        with pytest.raises(BadInput) as caught:
            read_results(paths, VBENCH)
        assert why in str(caught.value)


def test_videos_of_a_folder(tmp_path):
    for name in ("b.mp4", "a.GIF", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    assert list_videos([tmp_path, tmp_path / "b.mp4"]) == [tmp_path / "a.GIF", tmp_path / "b.mp4"]
    with pytest.raises(BadInput, match=r"no \.mp4 or \.gif in it"):
        list_videos([tmp_path / "empty"])


def test_command_puts_both_sources_together(tmp_path):
    videos = [clip(tmp_path / f"clips/{seed}.mp4", seed) for seed in range(2)]
    rest = {name: entry(0.5, 4) for name in VBENCH.dimensions if name != FLICKERING}
    scene = {"scene": rest.pop("scene")}
    files = [write_results(tmp_path / f"{i}_eval_results.json", part) for i, part in enumerate((rest, scene))]
    out = tmp_path / "out/vbench.json"
    done = run(tmp_path / "clips", "--results", files[0], "--results", files[1], "--out", out)
    assert done.exit_code == 0
    found = json.loads(out.read_text())
    mean = np.mean([flickering(video) for video in videos])
    expected = {"value": mean, "source": "ours", "file": None, "n": 2, "normalised": (mean - 0.6293) / (1 - 0.6293)}
    assert found["dimensions"][FLICKERING] == pytest.approx(expected)
    assert found["dimensions"]["scene"] == {
        "value": 0.5, "normalised": 0.5 / 0.8222, "source": "vbench package", "file": str(files[1]), "n": 4,
    }  # fmt: skip
    assert f"Total{' ' * 19}{found['scores']['Total']:6.4f}" in done.stdout
    assert "static_filter" in done.stdout and "absent" not in done.stdout


def test_command_names_what_is_absent(tmp_path):
    file = write_results(tmp_path / "a.json", {name: entry(0.5) for name in list(VBENCH_2.dimensions)[1:]})
    done = run("--version", "2", "--results", file, "--out", tmp_path / "out.json")
    assert done.exit_code == 0
    assert "absent of Creativity: Composition\n" in done.stdout and "absent of Physics" not in done.stdout
    scores = json.loads((tmp_path / "out.json").read_text())["scores"]
    assert scores == {name: 0.5 for name in VBENCH_2.groups} | {"Creativity": None, "Total": None}


def test_command_gives_no_score_where_a_video_is_broken(tmp_path):
    clip(tmp_path / "clips/good.mp4")
    for name in ("bad1.mp4", "bad2.mp4"):
        (tmp_path / "clips" / name).write_text("no video")
    done = run(tmp_path / "clips", "--out", tmp_path / "out.json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "bad1.mp4" in done.stderr and "bad2.mp4" in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_command_refuses_what_contradicts_itself(tmp_path):
    video, file = clip(tmp_path / "a.mp4"), write_results(tmp_path / "a.json", {FLICKERING: entry(0.5)})
    for arguments, why in [
        ([], "give videos, --results, or both"),
        ([video, "--results", file], f"key '{FLICKERING}': has this dimension already"),
        ([video, "--version", "2"], "no dimension without weights"),
    ]:
        outcome = run(*arguments).exception
        assert isinstance(outcome, BadInput) and why in str(outcome)
