"""Simulated annotators: fair to both sides, better than chance, different from one another, and as human as asked."""

import hashlib
import json

import numpy as np
import pytest

from components.preferences.pairs import labelled_pair
from components.preferences.schema import read_annotations, write_annotations
from components.simulation.annotators import (
    QUESTIONS,
    REVIEWER,
    Annotator,
    annotate,
    decided_label,
    label_pair,
    panel,
    realism,
)
from components.simulation.zoo import view_of


def flat(value):
    return dict.fromkeys(QUESTIONS, value)


SHARP = Annotator("sharp", noise=flat(0.0), tie=flat(0.1), lapse=0.0)


def makeshift_zoo(pairs=1200, seed=0):
    """Gold scores with the spread of a real zoo: many good pictures, motion from still to perfect, TA in steps."""
    rng = np.random.default_rng(seed)

    def clip():
        steps = rng.choice([1, 0.85, 0.71, 0.5], p=[0.5, 0.15, 0.25, 0.1])
        scores = {"VQ": rng.beta(4, 1.5), "MQ": rng.beta(1.2, 0.9), "TA": steps}
        return {**scores, "Overall": sum(scores.values()) / 3}

    return [(clip(), clip()) for _ in range(pairs)]


def test_without_noise_the_tie_width_decides():
    rng = np.random.default_rng(0)
    for difference, label in ((0.5, "A"), (-0.5, "B"), (0.05, "same"), (-0.05, "same"), (0.0, "same")):
        assert annotate(flat(0.5 + difference), flat(0.5), SHARP, rng)[0] == flat(label)


def test_mix_ups_swap_the_sides_and_leave_ties():
    confused = Annotator("confused", noise=flat(0.0), tie=flat(0.1), lapse=1.0)
    rng = np.random.default_rng(0)
    assert annotate(flat(0.9), flat(0.1), confused, rng)[0] == flat("B")
    assert annotate(flat(0.5), flat(0.5), confused, rng)[0] == flat("same")


def test_no_side_is_favoured():
    people, rng = panel(), np.random.default_rng(0)
    given = [label_pair(flat(0.5), flat(0.5), people, rng)[0] for _ in range(1500)]
    labels = [answers[name][question] for answers in given for name in ("1", "2", "3") for question in QUESTIONS]
    first, second = labels.count("A"), labels.count("B")
    assert abs(first - second) < 4 * np.sqrt(first + second)


def test_the_reviewer_answers_disputes_and_only_those():
    people = panel(noise=flat(0.3), tie=flat(0.2))
    rng = np.random.default_rng(0)
    disputes = 0
    for _ in range(300):
        answers, _ = label_pair(flat(0.5), flat(0.5), people, rng)
        for question in QUESTIONS:
            votes = {answers[str(n)][question] for n in (1, 2, 3)}
            reviewed = question in answers.get(REVIEWER, {})
            assert reviewed == (len(votes) == 3)
            assert decided_label(answers, question) in ("A", "B", "same")
            disputes += reviewed
    assert disputes > 50


def test_same_seed_same_labels():
    zoo = makeshift_zoo(50)

    def labels():
        rng = np.random.default_rng(7)
        return [label_pair(a, b, panel(), rng) for a, b in zoo]

    assert labels() == labels()


def test_ratings_changed_no_label():
    """The digest is that of the answers from before there were ratings; recorded results hang on these draws."""
    rng = np.random.default_rng(7)
    answers = [label_pair(a, b, panel(), rng)[0] for a, b in makeshift_zoo(50)]
    digest = hashlib.sha256(json.dumps(answers).encode()).hexdigest()
    assert digest == "5873dd13f92769ef12b08a8dd2fbdb39b5c5880e77a89aef3be31360b1b27d6a"
    assert rng.random() == 0.5131865012899779


def test_ratings_agree_with_labels():
    """By annotator and question: the preferred clip is never rated lower, and often higher; mix-ups mix both up."""
    rng, higher, decided = np.random.default_rng(3), 0, 0
    for a, b in makeshift_zoo(200):
        answers, ratings = label_pair(a, b, panel(), rng)
        assert set(ratings) == {"1", "2", "3"}
        for name, given in ratings.items():
            for question, (rated_a, rated_b) in given.items():
                assert rated_a in range(1, 6) and rated_b in range(1, 6)
                sign = {"A": 1, "B": -1, "same": 0}[answers[name][question]]
                assert sign * (rated_a - rated_b) >= 0
                higher += sign * (rated_a - rated_b) > 0
                decided += sign != 0
    assert higher > 0.7 * decided


def test_rows_of_a_pair_carry_ratings_to_the_file(tmp_path):
    """Sides as shown; the reviewer's row has none."""
    a, b = ({"path": f"{name}.mp4", "model": name} for name in ("good", "bad"))
    answers, ratings = label_pair(flat(1.0), flat(0.0), panel(), np.random.default_rng(0))
    rows = [view_of("a cat", a, b, name, answers[name], ratings[name]) for name in answers]
    rows.append(view_of("a cat", a, b, REVIEWER, {"VQ": "A"}, {}))
    write_annotations(tmp_path / "annotations.csv", rows)
    read = read_annotations(tmp_path / "annotations.csv")
    assert [view.ratings_A["VQ"] for view in read[:3]] == [ratings[name]["VQ"][0] for name in answers]
    assert set(read[3].ratings.values()) == {None}
    row = labelled_pair(read)
    assert row["MOS_A_TA"] == np.mean([given["TA"][0] for given in ratings.values()])


def test_without_noise_ratings_are_the_gold_score():
    rng = np.random.default_rng(0)
    _, ratings = annotate(flat(1.0), flat(0.26), SHARP, rng)
    assert ratings == flat((5, 2))
    confused = Annotator("confused", noise=flat(0.0), tie=flat(0.1), lapse=1.0)
    assert annotate(flat(1.0), flat(0.26), confused, rng)[1] == flat((2, 5))


def test_defaults_look_human():
    zoo, rng = makeshift_zoo(), np.random.default_rng(1)
    report = realism([label_pair(a, b, panel(), rng)[0] for a, b in zoo], zoo)
    for question, figures in report.items():
        assert 0.2 <= figures["tie_share"] <= 0.45, question
        assert 0.5 <= figures["alpha"] <= 0.8, question
        assert 0.8 <= figures["agreement"] <= 0.92, question


def test_more_noise_less_agreement_wider_ties_more_same():
    zoo = makeshift_zoo(500)

    def report(noise, tie):
        rng = np.random.default_rng(2)
        return realism([label_pair(a, b, panel(flat(noise), flat(tie)), rng)[0] for a, b in zoo], zoo)["VQ"]

    base = report(0.05, 0.08)
    assert report(0.3, 0.08)["alpha"] < base["alpha"] - 0.1
    assert report(0.3, 0.08)["agreement"] < base["agreement"] - 0.05
    assert report(0.05, 0.25)["tie_share"] > base["tie_share"] + 0.1


def test_perfect_annotators_agree_perfectly():
    zoo = makeshift_zoo(200)
    answers = [{str(n): annotate(a, b, SHARP, np.random.default_rng(0))[0] for n in (1, 2, 3)} for a, b in zoo]
    for figures in realism(answers, zoo).values():
        assert figures["alpha"] == pytest.approx(1.0) and figures["agreement"] == 1.0


def test_agreement_of_nobody_is_an_error():
    blind = Annotator("blind", noise=flat(0.0), tie=flat(2.0), lapse=0.0)
    answers = [{str(n): annotate(flat(0.1), flat(0.9), blind, np.random.default_rng(0))[0] for n in (1, 2, 3)}]
    with pytest.raises(ValueError, match="no annotator decided"):
        realism(answers, [(flat(0.1), flat(0.9))])
