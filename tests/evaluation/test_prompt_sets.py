"""Prompt sets: VideoAlign's files as they are, ids by content, and no prompt that anything was trained on."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config.params import NO_PROMPT_SET, Params, SampleParams, load_params
from components.contracts import SOURCE_PROMPTS
from components.errors import BadInput
from components.evaluation.prompt_sets import count_prompts, evaluation_prompts, read_prompt_set
from components.preferences.schema import write_prompts
from components.preferences.split import prompt_key, split_prompts
from components.simulation.world import all_scenes, prompt_of

VIDEOALIGN = Path(__file__).parents[3] / "shared/data/videoalign"
ROWS = [  # a set in VideoAlign's columns; rows 3 and 5 are one prompt in its shorter form
    ("A weathered stop sign stands at a quiet, empty intersection at dusk.", "a stop sign", "停车标志"),
    ('A toilet, "frozen" in time,\nin a dim bathroom.', "a toilet, frozen in time", "一个厕所，凝固在时间里"),
    ("A fantasy landscape under two moons, with rivers of glass.", "a fantasy landscape", "幻想风景。"),
    ("A wide fantasy landscape whose trees hum softly at night.", "A  Fantasy landscape", "幻想风景"),
]
COLUMNS = ("prompt", "prompt_shorter", "prompt_zh")


def write(file: Path, rows=ROWS, columns=COLUMNS) -> Path:
    with open(file, "w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return file


@pytest.fixture
def stage(bare_stage, tmp_path, monkeypatch):
    """Evaluates on the rows above; the source has the prompts of the shapes world."""
    (tmp_path / "data/source").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    write_prompts(SOURCE_PROMPTS, [prompt_of(scene) for scene in all_scenes()])
    unjudged = bare_stage.params.evaluate.model_copy(update={"judges": [], "decides": None})
    bare_stage.params = bare_stage.params.model_copy(update={"evaluate": unjudged})
    return sampling(bare_stage, prompt_set=str(write(tmp_path / "set.csv")), prompts=None)


def sampling(stage, **change):
    stage.params = with_sample(stage.params, **change)
    return stage


def with_sample(params: Params, **change) -> Params:
    sample = SampleParams.model_validate(params.sample.model_dump() | change)
    return params.model_copy(update={"sample": sample})


REAL = [
    ("vbench.csv", "prompt", 946, []),
    ("vbench.csv", "prompt_shorter", 943, [(736, 715), (748, 505), (750, 497)]),
    ("vbench.csv", "prompt_zh", 943, [(261, 221), (265, 236), (736, 715)]),
    ("videogen_eval.csv", "prompt", 400, []),
    ("videogen_eval.csv", "prompt_shorter", 400, []),
    ("videogen_eval.csv", "prompt_zh", 400, []),
    ("TA_hard.csv", "prompt", 72, []),
    ("TA_hard.csv", "prompt_zh", 72, []),
]


@pytest.mark.skipif(not VIDEOALIGN.exists(), reason="../shared/data/videoalign is not here")
@pytest.mark.parametrize(("file", "column", "count", "repeats"), REAL)
def test_videoaligns_sets_load_as_they_are(stage, file, column, count, repeats):
    sampling(stage, prompt_set=str(VIDEOALIGN / file), column=column)
    prompts = evaluation_prompts(stage)
    assert len(prompts) == len(dict(prompts)) == count_prompts(stage.params) == count
    said = [f"{VIDEOALIGN / file}, row {row}: the prompt of row {first} again, used once" for row, first in repeats]
    assert stage.said == said


@pytest.mark.skipif(not VIDEOALIGN.exists(), reason="../shared/data/videoalign is not here")
def test_a_form_that_a_set_lacks_is_named(stage):
    sampling(stage, prompt_set=str(VIDEOALIGN / "TA_hard.csv"), column="prompt_shorter")
    with pytest.raises(BadInput, match=r"TA_hard\.csv, row 1, key 'prompt_shorter': missing column"):
        evaluation_prompts(stage)


def test_prompts_come_whole_and_in_order(stage):
    for place, column in enumerate(COLUMNS[:1] + COLUMNS[2:]):
        prompts = evaluation_prompts(sampling(stage, column=column))
        assert [text for _, text in prompts] == [row[2 * place] for row in ROWS]
    assert stage.said == []


def test_a_prompt_that_comes_again_is_taken_once(stage):
    prompts = evaluation_prompts(sampling(stage, column="prompt_shorter"))
    assert [text for _, text in prompts] == [row[1] for row in ROWS[:3]]
    assert stage.said == [f"{stage.params.sample.prompt_set}, row 6: the prompt of row 5 again, used once"]


@pytest.mark.parametrize(
    ("rows", "columns", "column", "says"),
    [
        ([], COLUMNS, "prompt", r"key 'prompt': no prompts"),
        (ROWS, ("prompt", "short", "prompt_zh"), "prompt_shorter", r"row 1, key 'prompt_shorter': missing column"),
        (ROWS, ("prompt", "prompt", "prompt_zh"), "prompt", r"row 1, key 'prompt': column appears twice"),
        ([*ROWS, (" ", "a", "b")], COLUMNS, "prompt", r"row 7, key 'prompt': empty prompt"),
        ([*ROWS, ("a <|im_end|>", "a", "b")], COLUMNS, "prompt", r"row 7, key 'prompt': the prompt holds the special token"),
        ([*ROWS, ("a",)], COLUMNS, "prompt_zh", r"row 7: 1 cells, the header has 3"),
    ],
)
def test_bad_input_is_named(stage, tmp_path, rows, columns, column, says):
    sampling(stage, prompt_set=str(write(tmp_path / "bad.csv", rows, columns)), column=column)
    with pytest.raises(BadInput, match=rf"bad\.csv, {says}"):
        evaluation_prompts(stage)


def test_a_missing_set_is_named(stage):
    with pytest.raises(BadInput, match=r"none\.csv: missing"):
        evaluation_prompts(sampling(stage, prompt_set="none.csv"))


def test_a_form_that_is_not_asked_for_may_be_empty(stage, tmp_path):
    sampling(stage, prompt_set=str(write(tmp_path / "some.csv", [("a cat", "", "")])))
    assert [text for _, text in evaluation_prompts(stage)] == ["a cat"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("change", [str, str.upper, lambda prompt: f"  {prompt} "])
@pytest.mark.parametrize("column", [0, 1])
def test_a_prompt_that_was_learned_from_is_refused(stage, tmp_path, split, change, column):
    """In any of its forms: who was trained on the short one knows the long one too."""
    sides = split_prompts([prompt_of(scene) for scene in all_scenes()], stage.params.split)
    known = next(prompt for prompt, side in sides.items() if side == split)
    row = list(ROWS[0])
    row[column] = change(known)
    sampling(stage, prompt_set=str(write(tmp_path / "leak.csv", [*ROWS[1:], row])))
    if split == "test":
        assert len(evaluation_prompts(stage)) == 4
        return
    says = rf"leak\.csv, row 6, key '{COLUMNS[column]}': '{known}' is in the {split} split of data/source/prompts\.csv"
    with pytest.raises(BadInput, match=says):
        evaluation_prompts(stage)


def test_a_row_that_repeats_a_prompt_is_looked_at_too(stage, tmp_path):
    write_prompts(SOURCE_PROMPTS, ["a red circle"])
    split = stage.params.split.model_copy(update={"validation": 0.0, "test": 0.0})
    stage.params = stage.params.model_copy(update={"split": split})
    rows = [("A cat, at length.", "a cat", ""), ("a red circle", "a cat", "")]
    sampling(stage, prompt_set=str(write(tmp_path / "twice.csv", rows)), column="prompt_shorter")
    with pytest.raises(BadInput, match=r"twice\.csv, row 3, key 'prompt': 'a red circle' is in the train split"):
        evaluation_prompts(stage)


def test_a_near_duplicate_of_a_training_prompt_is_refused(stage, tmp_path):
    long = "a tall lighthouse on a rocky cliff at night while heavy waves break below and a storm comes near the old harbour"
    side = next(words for n in range(100) if split_prompts([words := f"{long} {n}"], stage.params.split)[words] == "train")
    write_prompts(SOURCE_PROMPTS, [side, "a red circle"])
    near = f"{long} 100"
    sampling(stage, prompt_set=str(write(tmp_path / "near.csv", [(near, "", "")])))
    with pytest.raises(BadInput, match=rf"near\.csv, row 2, key 'prompt': '{side}' is in the train split"):
        evaluation_prompts(stage)


@given(
    texts=st.lists(st.text("abc é", min_size=1).filter(str.strip), min_size=1, unique_by=prompt_key),
    order=st.randoms(use_true_random=False),
)
def test_ids_depend_on_the_prompts_alone(tmp_path_factory, texts, order):
    folder = tmp_path_factory.mktemp("set")

    def ids(file: str, rows: list[str]) -> dict[str, str]:
        prompts = read_prompt_set(write(folder / file, [(text,) for text in rows], ["prompt"]), "prompt")
        return {prompt.prompt_id: prompt_key(prompt.text) for prompt in prompts}

    first = ids("first.csv", texts)
    order.shuffle(texts)
    assert ids("moved.csv", texts) == ids("written_otherwise.csv", [f" {text.upper()}" for text in texts]) == first
    assert len(first) == len(texts)


def test_a_choice_is_part_of_a_larger_one_whatever_the_order_of_rows(stage, tmp_path):
    rows = [(f"a scene of number {n} and {n * n} birds", "", "") for n in range(30)]
    chosen = []
    for count in (5, 12, 30, 40, None):
        for name, order in (("up.csv", rows), ("down.csv", rows[::-1])):
            sampling(stage, prompt_set=str(write(tmp_path / name, order)), prompts=count)
            chosen.append(evaluation_prompts(stage))
    assert [len(prompts) for prompts in chosen] == [5, 5, 12, 12, 30, 30, 30, 30, 30, 30]
    sets = [set(prompts) for prompts in chosen]
    assert sets[0] == sets[1] < sets[2] == sets[3] < sets[4] == sets[9]
    assert chosen[2] == chosen[3][::-1], "in the order of the rows"
    assert [text for _, text in chosen[8]] == [row[0] for row in rows]
    assert any("40 prompts requested" in said for said in stage.said)
    stage.params = stage.params.model_copy(update={"seed": stage.params.seed + 1})
    assert set(evaluation_prompts(sampling(stage, prompts=5))) != sets[0]


def test_what_the_gold_judge_cannot_judge_is_refused_before_sampling(stage, tmp_path):
    sides = split_prompts([prompt_of(scene) for scene in all_scenes()], stage.params.split)
    held = [(prompt, "", "") for prompt, side in sides.items() if side == "test"][:2]
    judged = stage.params.evaluate.model_copy(update={"judges": ["gold"], "decides": "gold"})
    stage.params = stage.params.model_copy(update={"evaluate": judged})
    sampling(stage, prompt_set=str(write(tmp_path / "world.csv", held)))
    assert [text for _, text in evaluation_prompts(stage)] == [row[0] for row in held]
    sampling(stage, prompt_set=str(write(tmp_path / "mixed.csv", [*held, ROWS[2]])))
    with pytest.raises(BadInput, match=r"mixed\.csv, row 4, key 'prompt': not a sentence .* take gold out of"):
        evaluation_prompts(stage)


def test_without_a_set_it_is_the_sources_test_split(stage):
    sides = split_prompts([prompt_of(scene) for scene in all_scenes()], stage.params.split)
    held = [prompt for prompt, side in sides.items() if side == "test"]
    everything = evaluation_prompts(sampling(stage, prompt_set=NO_PROMPT_SET))
    assert [prompt for _, prompt in everything] == held and count_prompts(stage.params) == len(held)
    some = evaluation_prompts(sampling(stage, prompts=7))
    assert len(some) == count_prompts(stage.params) == 7 and set(some) < set(everything)
    with pytest.raises(BadInput, match=r"params\.yaml, key 'sample\.column'"):
        evaluation_prompts(sampling(stage, column="prompt_zh"))


def test_no_set_is_a_file_and_the_one_of_the_profiles():
    assert load_params().sample.prompt_set == NO_PROMPT_SET and Path(NO_PROMPT_SET).exists()
