"""People's answers to blind pairs are win rates of methods, whatever the sides were; what does not fit is named."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from components.annotation.clips import Clip
from components.annotation.human_study import (
    Study,
    StudyPair,
    as_lines,
    draw_pairs,
    estimate,
    export_study,
    judge_scores,
    read_answers,
    read_study,
    study_metrics,
)
from components.annotation.tasks import (
    Face,
    Settings,
    Task,
    draw_sides,
    read_key,
    shown_to_annotators,
    write_key,
)
from components.cli.main import app
from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.files.atomic import atomic_write
from components.pipeline.stage import folder_digest
from tests.annotation.conftest import clip, work
from tests.conftest import REPOSITORY

METHODS = ("dpo", "rwr")  # words that nothing public has in it
PROMPTS, SEEDS = 4, 2
SIDE = {1: "A", 0: "tie", -1: "B"}
NO_TIES = {"gold": 0.0, "reward": 0.0}

Opinion = Callable[[Task, int], dict[str, int] | None]  # by question: 1 where the first method's clip is better


def refusal(call, *arguments, **more) -> str:
    with pytest.raises(BadInput) as caught:
        call(*arguments, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def samples(tmp_path, monkeypatch) -> Path:
    """data/samples of two methods, and a params.yaml, where the test runs."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(REPOSITORY / "infra/profiles/shapes.yaml", "params.yaml")
    for place, method in enumerate(METHODS):
        rows = []
        for number in range(PROMPTS):
            for seed in range(SEEDS):
                path = f"videos/p{number}_{seed}.mp4"
                clip(Path("data/samples") / method / path, (40 * number, 90 * seed, 120 * place))
                rows.append({"prompt_id": f"p{number}", "prompt": f"prompt {number} 🐻", "seed": seed, "path": path})
        pd.DataFrame(rows).to_parquet(f"data/samples/{method}/samples.parquet")
    return Path("data/samples")


@pytest.fixture
def folder(samples) -> Path:
    export_study(METHODS, Path("study"))
    return Path("study")


def labels(folder: Path, opinion: Opinion, people: tuple[int, ...] = (11,), methods: tuple[str, str] = METHODS) -> Path:
    """Label Studio's export after `people` said what they think; nobody answers where the opinion is None."""
    data = {task["data"]["task"]: task["data"] for task in json.loads((folder / "tasks.json").read_text())}
    studio = []
    for number, task in enumerate(read_key(folder), start=100):
        straight = 1 if task.model_A == methods[0] else -1
        thoughts = [(person, opinion(task, person)) for person in people]
        works = [work(who, {q: SIDE[straight * v] for q, v in said.items()}) for who, said in thoughts if said is not None]
        studio.append({"id": number, "data": data[task.task], "annotations": works})
    file = folder / "export.json"
    file.write_text(json.dumps(studio))
    return file


def always(value: int) -> Opinion:
    return lambda task, person: dict.fromkeys(DIMENSIONS, value)


def read(folder: Path, file: Path, scores: dict | None = None) -> dict:
    study = read_study(folder)
    return study_metrics(study, read_answers(study, file, folder)[0], scores or {}, NO_TIES)


def test_a_study_is_blind_and_pairs_what_belongs_together(samples, folder):
    study = read_study(folder)
    assert [(pair.prompt_id, pair.seed) for pair in study.pairs] == [(f"p{n}", s) for n in range(4) for s in range(2)]
    for pair in study.pairs:
        assert pair.clips == tuple(f"{method}/videos/{pair.prompt_id}_{pair.seed}.mp4" for method in METHODS)
        assert pair.digests == tuple(folder_digest(samples / path) for path in pair.clips)
    tasks = read_key(folder)
    assert {task.pair for task in tasks} == {(pair.prompt, *pair.clips) for pair in study.pairs}
    assert [task.model_A for task in tasks].count("dpo") == 4
    secret = {"key.csv", "settings.json", "study.json"}
    public = [path for path in folder.rglob("*") if path.is_file() and path.name not in secret]
    for path in public:
        assert not any(word.encode() in path.read_bytes() or word in str(path) for word in (*METHODS, "p1_")), path
    videos = sorted((folder / "media/videos").iterdir())
    assert len(videos) == 16
    times = [path.stat().st_mtime_ns for path in videos]
    assert times == sorted(times)  # they were written by name, so their times do not tell the methods apart
    assert (folder / "config.xml").read_text().count('choice="single"') == 4


def test_prompts_are_drawn_by_the_seed_alone_and_a_larger_draw_holds_the_smaller(samples):
    def drawn(count: int | None, seed: int) -> list[str]:
        return sorted({pair.prompt_id for pair in draw_pairs(METHODS, count, seed)})

    for seed in range(5):
        assert drawn(2, seed) == drawn(2, seed)
        assert set(drawn(2, seed)) < set(drawn(3, seed)) < set(drawn(None, seed))
    assert len({tuple(drawn(2, seed)) for seed in range(20)}) > 3
    assert refusal(draw_pairs, METHODS, 5, 0) == "--prompts: 5 is more than the 4 that were sampled"


def test_pairs_of_the_same_file_are_shown_to_nobody_and_counted(samples):
    shutil.copyfile(samples / "dpo/videos/p2_1.mp4", samples / "rwr/videos/p2_1.mp4")
    study = export_study(METHODS, Path("study"))
    assert (study.identical, len(study.pairs), study.prompts) == (1, 7, 4)
    assert len(read_key(Path("study"))) == 7
    for number in range(PROMPTS):
        for seed in range(SEEDS):
            name = f"videos/p{number}_{seed}.mp4"
            shutil.copyfile(samples / "dpo" / name, samples / "rwr" / name)
    assert "the clips of dpo and rwr do not differ for the prompts drawn" in refusal(export_study, METHODS, Path("other"))
    assert not Path("other").exists()


def drop(samples: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    file = samples / "rwr/samples.parquet"
    change(pd.read_parquet(file)).to_parquet(file)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: drop(s, lambda t: t.iloc[1:]), "rwr/samples.parquet, key 'p0, seed 0': no sample of a prompt and seed"),
        (
            lambda s: drop(s, lambda t: t.assign(prompt="x")),
            "rwr/samples.parquet, key 'p0, seed 0': the prompt is not that of dpo",
        ),
        (lambda s: (s / "rwr/samples.parquet").unlink(), "rwr/samples.parquet: missing"),
        (
            lambda s: (s / "rwr/videos/p1_1.mp4").unlink(),
            "rwr/samples.parquet, key 'p1, seed 1': no such video: data/samples/rwr/videos/p1_1.mp4",
        ),
        (
            lambda s: (s / "rwr/videos/p1_1.mp4").write_text("x"),
            "data/samples, key 'path': data/samples/rwr/videos/p1_1.mp4",
        ),
    ],
)
def test_bad_samples_are_named_and_nothing_is_written(samples, spoil, said):
    spoil(samples)
    assert said in refusal(export_study, METHODS, Path("study"))
    assert not list(Path().glob("study*"))


def test_a_study_is_drawn_once_and_of_two_methods(samples, folder):
    before = (folder / "key.csv").read_bytes()
    assert refusal(export_study, METHODS, folder).startswith("study: exists already")
    assert (folder / "key.csv").read_bytes() == before
    assert "a study compares two methods" in refusal(export_study, ("dpo", "dpo"), Path("other"))


def in_memory(folder: Path, secret: int, prompts: int, seeds: int) -> Study:
    """A study's private files and tasks, as the export makes them, of clips that are names only."""
    pairs = [
        StudyPair(
            prompt_id=f"p{number}",
            prompt=f"prompt {number}",
            seed=seed,
            clips=tuple(f"{method}/{number}_{seed}.mp4" for method in METHODS),
            digests=(f"a{number}{seed}", f"b{number}{seed}"),
        )
        for number in range(prompts)
        for seed in range(seeds)
    ]
    study = Study(methods=METHODS, samples={}, seed=0, prompts=prompts, identical=0, pairs=pairs)
    clips = [
        tuple(Clip(None, path, pair.prompt, method) for path, method in zip(pair.clips, METHODS, strict=True))
        for pair in pairs
    ]
    chosen = Settings(seed=secret, ratings=False, overall=True, base_url=None)
    faces = {one.path: Face(chosen.digest("video", one.path), "8") for pair in clips for one in pair}
    tasks = draw_sides(clips, faces, [], chosen, folder)
    write_key(folder, tasks)
    atomic_write(folder / "settings.json", chosen.model_dump_json())
    atomic_write(folder / "study.json", study.model_dump_json())
    atomic_write(folder / "tasks.json", json.dumps([{"data": shown_to_annotators(task, chosen)} for task in tasks]))
    return study


@settings(max_examples=15)
@given(data=st.data(), secret=st.integers(0, 2**63 - 1), seeds=st.integers(1, 2))
def test_blinding_and_unblinding_is_the_identity_on_win_rates(data, secret, seeds):
    people = (11, 12, 13)[: data.draw(st.integers(1, 3))]
    think: dict[tuple, dict[str, int]] = {}

    def opinion(task: Task, person: int) -> dict[str, int]:
        said = {question: data.draw(st.sampled_from([1, 0, -1])) for question in DIMENSIONS}
        return think.setdefault((task.prompt, min(task.path_A, task.path_B), person), said)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        study = in_memory(folder, secret, 3, seeds)
        answered, _ = read_answers(study, labels(folder, opinion, people), folder)
        found = study_metrics(study, answered, {}, NO_TIES)
    for dimension in DIMENSIONS:
        points = []
        for pair in study.pairs:
            own = [think[pair.prompt, pair.clips[0], person][dimension] for person in people]
            points.append((1 + sum(own) / len(people)) / 2)
        prompts = np.array([pair.prompt_id for pair in study.pairs])
        assert found["win_rate"]["people"][dimension] == estimate(np.array(points), prompts)


def test_intervals_cover_a_planted_preference(tmp_path):
    """100 studies of 40 prompts x 2 seeds: a fifth of the answers are ties, else the first method wins with 0.65."""
    rng = np.random.default_rng(2)
    study = in_memory(tmp_path, 5, 40, 2)

    def opinion(task: Task, person: int) -> dict[str, int]:
        return {q: 0 if rng.random() < 0.2 else 1 if rng.random() < 0.65 else -1 for q in DIMENSIONS}

    covered, values = 0, []
    for _ in range(100):
        answered, _ = read_answers(study, labels(tmp_path, opinion), tmp_path)
        found = study_metrics(study, answered, {}, NO_TIES)["win_rate"]["people"]["VQ"]
        covered += found["ci95"][0] <= 0.2 * 0.5 + 0.8 * 0.65 <= found["ci95"][1]
        values.append(found["value"])
    assert 0.89 <= covered / 100 <= 1
    assert np.mean(values) == pytest.approx(0.62, abs=0.02)


def test_several_answers_to_a_pair_are_averaged(tmp_path):
    in_memory(tmp_path, 1, 2, 1)
    votes = {("prompt 0", 11): 1, ("prompt 0", 12): 0, ("prompt 0", 13): -1, ("prompt 1", 11): 1, ("prompt 1", 12): 0}

    def opinion(task: Task, person: int) -> dict[str, int] | None:
        vote = votes.get((task.prompt, person))
        return None if vote is None else {"VQ": 1, "MQ": -1, "TA": 0, "Overall": vote}

    found = read(tmp_path, labels(tmp_path, opinion, (11, 12, 13)))
    rates = {name: rate["value"] for name, rate in found["win_rate"]["people"].items()}
    assert rates == {"VQ": 1, "MQ": 0, "TA": 0.5, "Overall": (0.5 + 0.75) / 2}
    assert found["decided"] == {"VQ": 2, "MQ": 2, "TA": 0, "Overall": 1}
    assert (found["annotators"], found["answers"], found["prompts"]) == (3, 5, 2)
    assert found["krippendorff_alpha"]["TA"] is None  # where all say one thing, it is not defined
    assert found["krippendorff_alpha"]["Overall"]["n"] == 2
    assert found["agreement"] == {}
    alone = read(tmp_path, labels(tmp_path, opinion, (11,)))
    assert alone["krippendorff_alpha"] == dict.fromkeys(DIMENSIONS)


def score_table(study: Study, **columns: tuple[float, float]) -> pd.DataFrame:
    """A table of stage evaluate; by judge, what it says of each clip of the first method and of the second."""
    rows = []
    for pair in study.pairs:
        for at, method in enumerate(study.methods):
            row = {"method": method, "prompt_id": pair.prompt_id, "seed": pair.seed, "clip_digest": pair.digests[at]}
            rows.append(row | {f"{judge}_{d}": said[at] for judge, said in columns.items() for d in DIMENSIONS})
    return pd.DataFrame(rows).sample(frac=1, random_state=0)


def test_which_judge_agrees_with_people(folder):
    study = read_study(folder)
    apart = {"p0", "p1"}  # where people prefer the second method

    def opinion(task: Task, person: int) -> dict[str, int]:
        return dict.fromkeys(DIMENSIONS, -1 if task.path_A.split("/")[2][:2] in apart else 1) | {"MQ": 0}

    file = labels(folder, opinion)
    table = score_table(study, gold=(0.0, 0.0), reward=(2.0, 1.0))
    of_first = (table["method"] == METHODS[0]) & ~table["prompt_id"].isin(apart)
    of_second = (table["method"] == METHODS[1]) & table["prompt_id"].isin(apart)
    table.loc[of_first | of_second, [f"gold_{d}" for d in DIMENSIONS]] = 1.0
    Path("data").mkdir(exist_ok=True)
    table.to_parquet("data/sample_scores.parquet")
    answered, _ = read_answers(study, file, folder)
    scores, why = judge_scores(study, answered)
    found = study_metrics(study, answered, scores, NO_TIES)
    assert why is None
    assert found["agreement"]["gold"]["TA"] == {"value": 1.0, "ci95": None, "n": 8, "prompts": 4}
    assert found["agreement"]["reward"]["TA"]["value"] == 0.5
    assert found["agreement"]["gold_minus_reward"]["Overall"]["value"] == 0.5
    assert found["agreement"]["gold"]["MQ"] == {"value": None, "ci95": None, "n": 0}  # people decided nothing
    assert [found["win_rate"][by]["VQ"]["value"] for by in ("people", "gold", "reward")] == [0.5, 0.5, 1.0]
    tied = study_metrics(study, answered, scores, {"gold": 0.0, "reward": 1.0})
    assert tied["win_rate"]["reward"]["VQ"]["value"] == 0.5
    text = "\n".join(as_lines(found))
    assert "dpo over rwr: 8 of 8 pairs answered; prompts 4, annotators 1, answers 8" in text
    assert "100.0% (n=4 prompts)" in text and "(n=...): prompts too few for an interval, which takes 5" in text
    for line in ("gold judge agrees with people", "VideoReward agrees with people", "gold judge less VideoReward, points"):
        assert line in text

    table.drop(columns=[f"gold_{d}" for d in DIMENSIONS]).to_parquet("data/sample_scores.parquet")
    assert list(study_metrics(study, answered, judge_scores(study, answered)[0], NO_TIES)["agreement"]) == ["reward"]


def test_scores_of_other_clips_are_not_used(folder):
    study = read_study(folder)
    answered, _ = read_answers(study, labels(folder, always(1)), folder)
    assert judge_scores(study, answered) == ({}, "data/sample_scores.parquet does not exist; stage evaluate makes it")
    table = score_table(study, reward=(1.0, 0.0)).sort_values(["method", "prompt_id", "seed"], ignore_index=True)
    file = Path("data/sample_scores.parquet")
    for spoiled, why in (
        (table.drop(columns="clip_digest"), "has no column clip_digest"),
        (table[table["method"] != "rwr"], "scores other clips than those shown: rwr, p0, seed 0"),
        (table.iloc[:-1], "scores other clips than those shown: rwr, p3, seed 1"),
        (table.assign(clip_digest=table["clip_digest"].where(table.index != 3, "other")), "shown: dpo, p1, seed 1"),
    ):
        spoiled.to_parquet(file)
        scores, said = judge_scores(study, answered)
        assert scores == {} and why in said


def test_bad_labels_are_named(folder, tmp_path):
    study = read_study(folder)
    good = json.loads(labels(folder, always(1)).read_text())

    def said(change: Callable[[list[dict]], object]) -> str:
        studio = json.loads(json.dumps(good))
        change(studio)
        (folder / "export.json").write_text(json.dumps(studio))
        return refusal(read_answers, study, folder / "export.json", folder)

    def answer(studio: list[dict], question: int, **value: object) -> None:
        studio[0]["annotations"][0]["result"][question]["value"] = value

    def twice(studio: list[dict]) -> None:
        studio[0]["annotations"].append(work(11, dict.fromkeys(DIMENSIONS, "tie"), number=5))

    assert "task 100, key 'data.task': 'x' is no task of this folder's key.csv" in said(
        lambda s: s[0]["data"].update(task="x")
    )
    assert "task 100, key 'Overall': annotation 7011 has ['C']" in said(lambda s: answer(s, 3, choices=["C"]))
    assert "key 'Overall': annotation 7011 of '11' has no answer" in said(lambda s: s[0]["annotations"][0]["result"].pop())
    assert "key 'annotations': annotations 7011 and 5 of '11' differ" in said(twice)
    assert "no pair of the study has an answer" in said(lambda s: s.clear())
    export_study(METHODS, Path("other"))
    file = labels(Path("other"), always(1))
    assert "is no task of this folder's key.csv" in refusal(read_answers, study, file, folder)


def test_a_folder_that_is_not_as_it_was_is_named(samples, folder):
    export_study(METHODS, Path("fewer"), prompts=2)
    shutil.copyfile("fewer/study.json", folder / "study.json")
    assert refusal(read_study, folder) == "study/key.csv: its tasks are not the pairs of study/study.json"
    (folder / "study.json").write_text('{"methods": ["a", "b"]}')
    assert refusal(read_study, folder) == "study/study.json, key 'samples': Field required"
    (folder / "study.json").unlink()
    assert refusal(read_study, folder) == "study/study.json: missing; `reelign study export` makes it"


def test_samples_that_changed_since_the_export_are_named(samples, folder):
    clip(samples / "rwr/videos/p1_0.mp4", (1, 2, 3))
    said = refusal(read_study, folder)
    assert said.startswith("data/samples/rwr: not the samples that study/study.json was made of")
    shutil.rmtree(samples)  # where there are none, there is nothing to be mistaken for the clips that were shown
    assert read_study(folder).methods == METHODS


def run(*arguments: object):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def test_the_commands(samples):
    outcome = run("export", *METHODS, "--out", "study", "--prompts", 3, "--seed", 4)
    assert outcome.output == "study/tasks.json: 6 pairs of 3 prompts, dpo and rwr\n"
    folder = Path("study")
    whole = labels(folder, always(1), (11, 12))
    score_table(read_study(folder), gold=(1.0, 0.0), reward=(0.0, 1.0)).to_parquet("data/sample_scores.parquet")
    outcome = run("read", whole, "--folder", folder, "--strict", "--out", "out/figures.json")
    assert outcome.exit_code == 0 and "6 of 6 pairs answered; prompts 3, annotators 2, answers 12" in outcome.output
    found = json.loads(Path("out/figures.json").read_text())
    assert found["win_rate"]["people"]["TA"] == {"value": 1.0, "ci95": None, "n": 6, "prompts": 3}
    assert found["agreement"]["gold_minus_reward"]["VQ"]["value"] == 1
    assert (found["judges_absent"], found["left_out"]) == (None, {})
    assert found["samples"] == {method: folder_digest(samples / method) for method in METHODS}

    studio = json.loads(whole.read_text())
    studio[0]["annotations"] = [work(11, {}, was_cancelled=True)]
    whole.write_text(json.dumps(studio))
    Path("data/sample_scores.parquet").unlink()
    outcome = run("read", whole, "--folder", folder)
    assert "1 pairs have no answer: the figures are of the other 5" in outcome.output
    assert "no judge beside people: data/sample_scores.parquet does not exist" in outcome.output
    assert "left out: 1 skipped" in outcome.output
    outcome = run("read", whole, "--folder", folder, "--strict", "--out", "strict.json")
    assert str(outcome.exception) == f"{whole}: 1 of 6 pairs have no answer" and not Path("strict.json").exists()


def test_who_reviews_does_not_count(folder):
    mixed = labels(folder, lambda task, person: dict.fromkeys(DIMENSIONS, 1 if person == 11 else -1), (11, 14))
    found = run("read", mixed, "--folder", folder, "--reviewer", 14)
    assert "annotators 1, answers 8" in found.output and "left out: 8 answers of the reviewer" in found.output


def test_bad_input_is_one_line_and_exit_code_2(samples, folder):
    command = [sys.executable, "-m", "components.cli.main", "study"]
    drop(samples, lambda table: table.iloc[1:])
    for arguments, said in (
        (["export", *METHODS, "--out", "other"], "data/samples/rwr/samples.parquet, key 'p0, seed 0': no sample of"),
        (["read", "none.json", "--folder", "study"], "data/samples/rwr: not the samples that study/study.json was made of"),
    ):
        outcome = subprocess.run([*command, *arguments], capture_output=True, text=True, env={"PYTHONPATH": str(REPOSITORY)})
        assert outcome.returncode == 2
        assert outcome.stderr.startswith(f"error: {said}") and outcome.stderr.count("\n") == 1
