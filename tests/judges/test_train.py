"""Stage judge_reward on a handful of real files: the judge learns from its own pairs, its card is measured on its own test
pairs, the reward model beside it does not refuse it, and the gate takes it by its card."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.config.operation import JudgeFloorParams
from components.errors import BadInput
from components.evaluation.judging import agreeing
from components.files.tables import read_table, write_table
from components.judges.judges import load_judge
from components.judges.protocol import Context, JudgedClip
from components.judges.train import judge_reward
from components.pipeline.stage import folder_digest
from components.registry.judge_cards import judge_reasons
from components.reward.learnt import read_learnt
from components.reward.train import reward
from components.schemas import PAIRS_SCHEMA
from tests.reward.test_train import PARAMS, PlainStage, data  # noqa: F401

NAME = "model:models/judge_reward"


class JudgeStage(PlainStage):
    name = "judge_reward@prompts"

    def seed(self, *key):
        return 8


@pytest.fixture
def halves(data):  # noqa: F811
    """People's pairs in two parts, as stage pairs leaves them."""
    Path("data/pairs/judge").mkdir()
    data("judge/train", 60)
    data("judge/validation", 20)
    data("judge/test", 60)
    return data


def test_a_judge_from_its_own_pairs_may_decide(halves):
    reward(PlainStage())
    stage = JudgeStage()
    judge_reward(stage)
    assert stage.registered == [], "it is no reward model to serve"
    card = json.loads(Path("models/judge_reward/judge_card.json").read_text())
    assert card["judge"] == NAME and card["protocol"] == "pointwise" and card["failures"] == 0
    assert card["pairs"] == "data/pairs/judge/test.parquet" and card["count"] == 60 and card["prompts"] == 9
    assert card["pairs_digest"] == folder_digest("data/pairs/judge/test.parquet")
    assert set(card["dimensions"]) == {"VQ", "MQ", "Overall"}, "nobody labelled TA"
    decided = sum(row["MQ"] != 0 for row in read_table("data/pairs/judge/test.parquet"))
    assert card["dimensions"]["MQ"]["accuracy_without_ties"]["n"] == decided
    assert all(card["dimensions"][name]["accuracy_without_ties"]["value"] > 0.9 for name in ("VQ", "MQ"))

    judge = load_judge(NAME, Context(reward=Path("models/video_reward")))
    assert judge.facts.identity == card["identity"] and judge.facts.key == "model-judge_reward"
    floor = JudgeFloorParams(min_accuracy=0.0, max_failures=0.0, max_position_bias=0.1, min_self_consistency=0.9)
    reasons, found = judge_reasons(judge.facts.as_json(), floor)
    assert reasons == [] and found["file"] == "models/judge_reward/judge_card.json"
    strict = floor.model_copy(update={"min_accuracy": 1.0})
    assert judge_reasons(judge.facts.as_json(), strict)[0][0].startswith(f"judge_accuracy: {NAME}")
    above = card["dimensions"]["Overall"]["accuracy_without_ties"]["ci95"][0] > 0.5
    assert agreeing({judge.facts.key: judge.facts}) == ({judge.facts.key} if above else set())
    clips = [JudgedClip(f"data/source/videos/{n}.mp4", "a prompt") for n in range(4)]
    assert judge.score(clips)["reason"].isna().all()


def test_the_reward_model_and_a_judge_of_its_pairs_do_not_decide(halves):
    still = PARAMS.training.model_copy(update={"steps": 1})
    reward(PlainStage(training=still))
    context = Context(reward=Path("models/video_reward"))
    with pytest.raises(BadInput, match="alignment was trained to please it"):
        load_judge("model:models/video_reward", context)
    judge_reward(JudgeStage(training=still))
    load_judge(NAME, context)
    shutil.rmtree("models/judge_reward")
    theirs = read_table("data/pairs/judge/train.parquet")
    some = read_table("data/pairs/train.parquet")[:7]
    write_table("data/pairs/judge/train.parquet", [*theirs, *some], PAIRS_SCHEMA)  # seven pairs are the reward model's
    judge_reward(JudgeStage(training=still))
    with pytest.raises(BadInput, match=r"learnt from 7 of its \d+ labels as models/video_reward did"):
        load_judge(NAME, context)
    write_table("data/pairs/judge/train.parquet", [*theirs, *by_another(some)], PAIRS_SCHEMA)
    shutil.rmtree("models/judge_reward")
    judge_reward(JudgeStage(training=still))
    load_judge(NAME, context)
    shutil.rmtree("data/pairs/judge")
    shutil.rmtree("models")
    reward(PlainStage(training=still))
    shutil.copytree("data/pairs", "data/pairs/judge")  # the pairs of the reward model
    judge_reward(JudgeStage(training=still))
    with pytest.raises(BadInput, match="models/judge_reward: learnt from the labels that models/video_reward learnt from"):
        load_judge(NAME, context)


def by_another(rows: list[dict]) -> list[dict]:
    """The same pairs with labels of another annotator."""
    return [row | {"annotators": ["somebody else"]} for row in rows]


def test_the_labels_of_a_base_are_learnt_too(halves):
    still = PARAMS.training.model_copy(update={"steps": 1})
    reward(PlainStage(training=still))
    first = read_learnt(Path("models/video_reward"))
    assert first is not None and len(first) == sum(
        len(read_table(f"data/pairs/{split}.parquet")) for split in ("train", "validation")
    )
    shutil.move("models/video_reward", "before")
    write_table("data/pairs/train.parquet", by_another(read_table("data/pairs/train.parquet")), PAIRS_SCHEMA)
    reward(PlainStage(training=still, base="before"))
    both = read_learnt(Path("models/video_reward"))
    assert both is not None and set(first) < set(both) and (np.diff(both.astype(float)) > 0).all()
    Path("models/video_reward/learnt.npy").write_bytes(b"no array")
    with pytest.raises(BadInput, match=r"learnt\.npy: is no record of labels"):
        read_learnt(Path("models/video_reward"))


def test_a_judge_does_not_start_from_a_reward_model(halves):
    reward(PlainStage(training=PARAMS.training.model_copy(update={"steps": 1})))
    shutil.move("models/video_reward", "before")
    with pytest.raises(BadInput, match=r"key 'reward.base': before is a VideoReward"):
        judge_reward(JudgeStage(base="before"))
    assert not Path("models").joinpath("judge_reward").exists()


def test_a_test_video_without_a_score_is_named(halves):
    rows = read_table("data/pairs/judge/test.parquet")
    Path("data/source/videos/spoilt.mp4").write_bytes(b"no video")
    write_table("data/pairs/judge/test.parquet", [*rows[:5], rows[5] | {"path_A": "spoilt.mp4"}], PAIRS_SCHEMA)
    with pytest.raises(BadInput, match=r"judge/test.parquet, row 7: the judge has no score"):
        judge_reward(JudgeStage(training=PARAMS.training.model_copy(update={"steps": 1})))
    assert not Path("models/judge_reward/judge_card.json").exists()
