"""A generator is promoted by a judge of one's own where the judge's card is above the floor, and refused elsewhere."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from components.config.operation import JudgeFloorParams
from components.errors import BadInput
from components.evaluation.judging import Panel, judged_with
from components.judges.card import card_file, write_card
from components.judges.protocol import JudgeFacts
from components.pipeline.stage import Stage, write_json
from components.registry.judge_cards import floor_reasons
from components.registry.promote import as_lines
from tests.judges.test_judges import card, figure
from tests.registry.test_generators import MODEL, call, champion, draw, here, reasons, world  # noqa: F401

FLOOR = JudgeFloorParams(min_accuracy=0.6, max_failures=0.05, max_position_bias=0.1, min_self_consistency=0.9)
FACTS = JudgeFacts("command:x", "command-x", "the program x", "ident", ("Overall",), "its own", 1e-9)
KEY = "command-x"


def names(found) -> list[str]:
    return [reason.split(":")[0] for reason in found]


def test_a_judge_of_pairs_is_held_to_its_order_too():
    good = {"protocol": "pairwise", "position_bias": figure(0.02, 0, 0.04), "self_consistency": figure(0.95, 0.9, 1)}
    assert floor_reasons(card(low=0.61).model_copy(update=good), FLOOR) == []
    biased = good | {"position_bias": figure(-0.3, -0.35, -0.25)}
    (reason,) = floor_reasons(card(low=0.61).model_copy(update=biased), FLOOR)
    assert reason.startswith("judge_position_bias: model:m -0.300 [-0.350, -0.250] towards the clip shown first")
    unmeasured = card(low=0.61).model_copy(update={"protocol": "pairwise"})
    assert names(floor_reasons(unmeasured, FLOOR)) == ["judge_position_bias", "judge_consistency"]
    assert names(floor_reasons(card(low=0.6), FLOOR)) == ["judge_accuracy"] and floor_reasons(card(low=0.61), FLOOR) == []


def test_a_judge_that_leaves_many_pairs_unanswered_does_not_pass():
    few = card(low=0.61).model_copy(update={"count": 100, "failures": 5})
    assert floor_reasons(few, FLOOR) == []
    many = few.model_copy(update={"failures": 6})
    (reason,) = floor_reasons(many, FLOOR)
    assert reason == "judge_failures: model:m has no verdict on 6 of 100 pairs, more than 5%"


def judge_by(panel: Panel) -> None:
    """Evaluate again: the judge's scores are those of gold."""
    metrics = json.loads(Path("metrics/alignment.json").read_text())
    table = pd.read_parquet("data/sample_scores.parquet")

    def evaluate(stage: Stage) -> None:
        found = metrics | panel.as_json() | {"judged_with": judged_with(panel)}
        write_json(stage.output("metrics/alignment.json"), found)
        out = stage.output("data/sample_scores.parquet")
        table.assign(**{f"{KEY}_Overall": table["gold_Overall"]}).to_parquet(out, index=False)

    Stage("evaluate").run(evaluate)


def test_the_card_of_the_judge_that_decides_is_demanded(here):  # noqa: F811
    draw("better", gain=0.3)
    judge_by(Panel({KEY: FACTS}, frozenset({KEY})))
    outcome = call()
    assert reasons(outcome) == {"no_card"} and champion() is None and outcome.evidence["judge_card"] is None
    assert "`reelign judge check command:x PAIRS.csv` measures it" in outcome.evidence["verdict"]["reasons"][0]

    file = card_file(KEY)
    file.parent.mkdir(exist_ok=True)
    write_card(file, card("another version", low=0.7))
    assert reasons(call()) == {"no_card"}
    write_card(file, card("ident", low=0.55))
    outcome = call()
    assert reasons(outcome) == {"judge_accuracy"} and champion() is None
    assert outcome.evidence["judge_card"]["file"] == str(file)

    write_card(file, card("ident", low=0.65))
    outcome = call()
    assert outcome.evidence["verdict"]["promote"], outcome.evidence["verdict"]
    assert outcome.evidence["decides"] == KEY and list(outcome.evidence["differences"]) == ["Overall"]
    assert champion() == "1"


def test_a_champion_by_another_judge_is_judged_anew(here):  # noqa: F811
    draw("better still", gain=0.5)
    with pytest.raises(BadInput, match=r'evaluate.decides is "gold", and "command:x" for the clips .*--remeasure'):
        call(dry_run=True)


def test_the_reward_model_that_aligned_it_cannot_decide(here):  # noqa: F811
    shutil.rmtree("judges", ignore_errors=True)
    draw("aligned by its judge", gain=0.5)
    kin = JudgeFacts(**{**vars(FACTS), "identity": "r" * 16})
    judge_by(Panel({KEY: kin}, frozenset({KEY})))
    with pytest.raises(BadInput, match="is the reward model whose labels aligned it"):
        call(dry_run=True)


def drawn_anew(monkeypatch, gain: float = 0.0, points: float | None = None) -> list[str]:
    """In place of sampling: the champion's clips are the challenger's, with scores less `gain`, or a judge of pairs gives
    `points`. Returns the versions that are measured."""
    measured: list[str] = []

    def remeasure(champion, clips, samples, settings, params, progress):
        measured.append(str(champion))
        scores = clips[f"{KEY}_Overall"]
        return clips.assign(**{f"{KEY}_Overall": scores - gain}), clips.assign(**{f"{KEY}_Overall": points or scores})

    monkeypatch.setattr("components.registry.remeasure.remeasure", remeasure)
    return measured


def test_a_judge_that_was_trained_again_judges_the_champion_anew(here, monkeypatch):  # noqa: F811
    again = JudgeFacts(**{**vars(FACTS), "identity": "trained again"})
    write_card(card_file(KEY), card("trained again", low=0.65))
    draw("better again", gain=0.6)
    judge_by(Panel({KEY: again}, frozenset({KEY})))
    measured = drawn_anew(monkeypatch)
    outcome = call(dry_run=True)
    assert measured == [f"{MODEL}/1"] and outcome.evidence["champion_measured_anew"] is True
    assert reasons(outcome) == {"no_gain"}, "it was compared with the new scores, not with those that were kept"
    assert f"  clips of {MODEL}/1 were drawn and judged anew" in as_lines(outcome.evidence, dry_run=True)
    drawn_anew(monkeypatch, gain=0.3)
    assert call(dry_run=True).evidence["verdict"]["promote"]

    on_record = JudgeFacts(**{**vars(again), "on_record": True})
    judge_by(Panel({KEY: on_record}, frozenset({KEY})))
    with pytest.raises(BadInput, match=r'judge is "trained again", and "ident" for the clips .*; set it back, or'):
        call(dry_run=True)


def test_a_judge_of_pairs_judges_the_champion_anew(here, monkeypatch):  # noqa: F811
    judge_by(Panel({KEY: FACTS}, frozenset()))
    measured = drawn_anew(monkeypatch, points=1.0)
    outcome = call(dry_run=True)
    assert outcome.evidence["champion_measured_anew"] is True and len(measured) == 1
    assert outcome.evidence["differences"]["Overall"]["win rate"]["value"] == 1.0
    judge_by(Panel({KEY: FACTS}, frozenset({KEY})))
    assert call(dry_run=True).evidence["champion_measured_anew"] is False, "its scores of the champion are kept"
    assert len(measured) == 1
