"""Judges by name, their tables, and their cards."""

import numpy as np
import pytest

from components.errors import BadInput
from components.judges.card import Agreement, Figure, JudgeCard, card_file, cards_below, read_card, write_card
from components.judges.judges import JUDGES, Spec, load_judge, parse
from components.judges.protocol import Context, JudgedClip, PointwiseJudge
from components.simulation.judge import judge
from components.simulation.render import concrete, render
from components.simulation.world import all_scenes, prompt_of
from components.video.encode import write_video


def figure(value: float, low: float, high: float) -> Figure:
    return Figure(value=value, ci95=[low, high], n=100)


def card(identity: str = "abc", low: float = 0.6) -> JudgeCard:
    right = Agreement(accuracy_without_ties=figure(0.7, low, 0.8), accuracy_with_ties=figure(0.5, 0.4, 0.6))
    return JudgeCard(
        judge="model:m", identity=identity, protocol="pointwise", unit="points", pairs="pairs.csv", pairs_digest="d",
        count=120, prompts=40, failures=0, dimensions={"Overall": right},
    )  # fmt: skip


def test_a_name_has_a_kind_and_its_argument():
    assert parse("gold") == Spec("gold", "") and str(parse("gold")) == "gold" and parse("gold").key == "gold"
    assert Spec("model", "models/judge_reward").key == "model-judge_reward"
    assert Spec("human", "judges/people one.json").key == "human-people-one"
    with pytest.raises(
        ValueError, match="'golden' is no judge; there are gold, model:FOLDER, human:FILE, vbench:FOLDER, command:PROGRAM"
    ):
        parse("golden")
    with pytest.raises(ValueError, match="gold has no argument"):
        parse("gold:x")
    with pytest.raises(BadInput, match=r"params.yaml, key 'evaluate\.judges': 'golden' is no judge"):
        load_judge("golden", Context())
    assert all(kind == kind.strip(":") for kind in JUDGES)


def test_gold_scores_files_and_clips_in_memory_and_names_what_it_cannot_judge(tmp_path):
    scene = all_scenes()[0]
    frames = render(concrete(scene, np.random.default_rng(0)))
    write_video(tmp_path / "a.mp4", frames, 8)
    gold = load_judge("gold", Context())
    assert isinstance(gold, PointwiseJudge)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    clips = [
        JudgedClip("-", prompt_of(scene), frames=frames),
        JudgedClip(str(tmp_path / "a.mp4"), "A cat bakes a cake."),
        JudgedClip(str(tmp_path / "b.mp4"), prompt_of(scene)),
    ]
    table = gold.score(clips)
    assert table["VQ"][0] == judge(frames, prompt_of(scene)).VQ and table["reason"].isna().tolist() == [True, False, False]
    assert "world" in table["reason"][1] and table["Overall"].isna().tolist() == [False, True, True]


def test_a_card_is_found_by_the_judge_it_is_of(tmp_path):
    file = card_file("model-m", tmp_path)
    write_card(file, card())
    assert read_card(file) == card() and cards_below(tmp_path) == {"abc": (file, card())}
    assert card(low=0.51).agrees() and not card(low=0.5).agrees() and not card(low=0.6).agrees(0.6)
    other = tmp_path / "made" / "judge_card.json"
    assert cards_below(tmp_path, [other]).keys() == {"abc"}  # a judge that no stage made
    write_card(card_file("again", tmp_path), card())
    with pytest.raises(BadInput, match="a card of this very judge too"):
        cards_below(tmp_path)


def test_a_damaged_card_is_refused_with_its_key(tmp_path):
    file = card_file("m", tmp_path)
    write_card(file, card())
    file.write_text(file.read_text().replace('"failures": 0', '"failures": -1'))
    with pytest.raises(BadInput, match="key 'failures'"):
        read_card(file)
