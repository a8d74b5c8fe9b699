"""What to label next: unsure pairs first, spread over generators and prompts, whatever order clips come in."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from components.annotation.choosing import choose_next, read_scores, taken_pairs, uncertainty
from components.annotation.clips import Clip, generators, name_of
from components.cli.main import app
from components.errors import BadInput
from components.preferences.schema import write_annotations
from components.reward.losses import bradley_terry_ties
from components.reward.score import as_table
from components.reward.scores import Score, Unscored
from components.simulation.annotators import QUESTIONS, label_pair, panel
from tests.annotation.conftest import PROMPTS
from tests.preferences.test_agreement import view


def make(count: int, models: list[str], prompts: int) -> list[Clip]:
    return [Clip(2 + i, f"{i:05d}.mp4", f"prompt {i % prompts}", models[i // prompts % len(models)]) for i in range(count)]


@given(difference=st.floats(-20, 20), theta=st.floats(1.01, 20))
def test_uncertainty_is_the_entropy_of_the_losss_probabilities(difference, theta):
    a, b = torch.tensor([[difference]], dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    chances = [math.exp(-bradley_terry_ties(a, b, torch.tensor([[label]]), theta).item()) for label in (1, 0, -1)]
    assert sum(chances) == pytest.approx(1)
    entropy = -sum(chance * math.log(chance) for chance in chances if chance > 0)
    assert uncertainty(np.array([difference]), theta) == pytest.approx(entropy, abs=1e-6)


def test_without_ties_a_coin_is_the_most_uncertain():
    assert uncertainty(np.array([0.0]), 1.0) == pytest.approx(math.log(2))
    values = uncertainty(np.linspace(0, 9, 50)[:, None], 1.0)
    assert (np.diff(values) < 0).all()


@given(data=st.data())
def test_the_rule(data):
    models = data.draw(st.lists(st.sampled_from(["", "m", "n"]), min_size=2, max_size=10))
    clips = [Clip(2, f"{i}.mp4", f"p{data.draw(st.integers(0, 2))}", model) for i, model in enumerate(models)]
    scored = [clip for clip in clips if data.draw(st.booleans()) or clip is clips[0]]
    scores = {clip.path: np.array([data.draw(st.sampled_from([0.0, 1.0, 2.5, 7.0]))]) for clip in scored}
    every = choose_next(clips, scores, {}, 1000, 5.0)
    taken = {name_of(pair): generators(pair) for pair, _ in every if data.draw(st.booleans())}
    count = data.draw(st.integers(1, 8))
    chosen = choose_next(clips, scores, taken, count, 5.0)
    shuffled = data.draw(st.permutations(clips))
    assert choose_next(shuffled, scores, taken, count, 5.0) == chosen
    free = {name_of(pair): (pair, value) for pair, value in every if name_of(pair) not in taken}
    assert len({name_of(pair) for pair, _ in chosen}) == len(chosen) == min(count, len(free))
    of_who, of_prompt = Counter(taken.values()), Counter(prompt for prompt, _, _ in taken)

    def worth(pair, value):
        return value / ((1 + of_who[generators(pair)]) * (1 + of_prompt[pair[0].key]))

    for pair, value in chosen:  # each was the best of what was left, by the rule worked out anew
        assert pair[0].key == pair[1].key and pair[0].path in scores and pair[1].path in scores
        assert value == pytest.approx(float(uncertainty(scores[pair[0].path] - scores[pair[1].path], 5.0)))
        assert worth(pair, value) >= max(worth(*entry) for entry in free.values()) * (1 - 1e-12)
        del free[name_of(pair)]
        of_who[generators(pair)] += 1
        of_prompt[pair[0].key] += 1


def test_simulated_labels_unsure_pairs_come_first_and_coverage_is_spread(tmp_path):
    """Pairs that annotators quarrel about are those whose clips are equally good: so says a model that knows the truth."""
    rng = np.random.default_rng(0)
    clips = make(240, ["a", "b", "c", "d"], prompts=20)
    gold = {clip.path: float(rng.uniform()) for clip in clips}
    scores = {path: np.full(3, 12 * value) for path, value in gold.items()}
    people = panel()
    chosen = choose_next(clips, scores, {}, 120, 5.0)
    drawn = [(clips[i], clips[j]) for i in range(240) for j in range(i + 1, 240) if clips[i].key == clips[j].key]
    random = [drawn[i] for i in rng.choice(len(drawn), 120, replace=False)]

    def quarrels(pairs) -> float:
        differing = []
        for one, other in pairs:
            views, _ = label_pair(
                dict.fromkeys(QUESTIONS, gold[one.path]), dict.fromkeys(QUESTIONS, gold[other.path]), people, rng
            )
            differing.append(len({views[person.name]["TA"] for person in people.annotators}) > 1)
        return float(np.mean(differing))

    pairs = [pair for pair, _ in chosen]
    assert quarrels(pairs) > 1.5 * quarrels(random)
    entropy = {name_of(pair): float(uncertainty(scores[pair[0].path] - scores[pair[1].path], 5.0)) for pair in drawn}
    assert np.mean([entropy[name_of(pair)] for pair in pairs]) > np.quantile(list(entropy.values()), 0.8)
    prompts, whos = Counter(pair[0].key for pair in pairs), Counter(generators(pair) for pair in pairs)
    assert len(prompts) == 20 and max(prompts.values()) - min(prompts.values()) <= 1
    assert len(whos) == 10 and max(whos.values()) <= 2 * min(whos.values())


def test_labelled_pairs_push_their_generators_and_prompts_back(tmp_path):
    clips = make(8, ["a", "b"], prompts=2)
    scores = {clip.path: np.zeros(3) for clip in clips}
    (first, _), *_ = choose_next(clips, scores, {}, 1, 5.0)
    file = tmp_path / "labels.csv"
    one, other = first
    shown = {"path_A": other.path, "path_B": one.path, "model_A": other.model, "model_B": one.model, "prompt": one.prompt}
    write_annotations(file, [replace(view("1", 1, 1, 1, None), **shown)])
    taken = taken_pairs(file, None)
    assert taken == {name_of(first): generators(first)}
    (second, _), *_ = choose_next(clips, scores, taken, 1, 5.0)
    assert generators(second) != generators(first) and second[0].key != first[0].key
    assert name_of(first) not in {name_of(pair) for pair, _ in choose_next(clips, scores, taken, 99, 5.0)}


def test_ten_thousand_clips():
    rng = np.random.default_rng(1)
    clips = make(10_000, list("abcdefghijkl"), prompts=500)
    scores = {clip.path: rng.normal(0, 2, 3) for clip in clips}
    chosen = choose_next(clips, scores, {}, 2000, 5.0)
    prompts = Counter(pair[0].key for pair, _ in chosen)
    assert len(chosen) == 2000 and set(prompts.values()) <= {3, 4, 5}


def table(clips, *, failed=(), absent=(), prompt=None) -> pd.DataFrame:
    """As `reelign score --csv clips.csv --out` writes it."""
    kept = [row for row in clips.rows if row[0] not in absent]
    scores = [
        Unscored("no frames")
        if path in failed
        else Score({"VQ": float(place), "MQ": 0.5}, {"VQ": 0.0, "MQ": 0.0}, 0.0, "v", "plan")
        for place, (path, _, _) in enumerate(kept)
    ]
    prompts = [prompt or text for _, text, _ in kept]
    return as_table([clips.videos / path for path, _, _ in kept], prompts, scores, ["VQ", "MQ"])


def clips_of(clips) -> list[Clip]:
    return [Clip(2 + place, *row) for place, row in enumerate(clips.rows)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_scores_are_read_as_score_writes_them(clips, tmp_path, suffix):
    scores = table(clips, failed=["beta/1.mp4"], absent=["gamma/5.mp4"])
    file = tmp_path / f"scores.{suffix}"
    scores.to_csv(file, index=False) if suffix == "csv" else scores.to_parquet(file, index=False)
    found = read_scores(file, clips_of(clips), clips.videos)
    assert (found.failed, found.absent) == (1, 1)
    assert set(found.raw) == {row[0] for row in clips.rows} - {"beta/1.mp4", "gamma/5.mp4"}
    assert found.raw["gamma/2.mp4"].tolist() == [0.5, 2.0]  # MQ, VQ


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda t: pd.concat([t, t[:1]]), "alpha/0.mp4 is in row"),
        (lambda t: t.drop(columns="status"), "key 'status': missing column"),
        (lambda t: t.drop(columns=["raw_VQ", "raw_MQ"]), "no raw scores"),
        (lambda t: t.assign(raw_MQ=math.inf), "key 'raw_MQ': status ok, but 'inf' is not a finite number"),
        (lambda t: t.assign(raw_MQ=None), "key 'raw_MQ': status ok, but"),
    ],
)
def test_bad_scores_are_named(clips, tmp_path, suffix, spoil, said):
    file = tmp_path / f"scores.{suffix}"
    scores = spoil(table(clips))
    scores.to_csv(file, index=False) if suffix == "csv" else scores.to_parquet(file, index=False)
    with pytest.raises(BadInput) as caught:
        read_scores(file, clips_of(clips), clips.videos)
    assert str(caught.value).startswith(str(file)) and said in str(caught.value)


def run(*arguments: object):
    return CliRunner().invoke(app, ["annotate", *map(str, arguments)])


def test_the_command_and_what_export_makes_of_it(clips, tmp_path):
    scores, pairs = tmp_path / "scores.csv", tmp_path / "pairs.csv"
    table(clips, failed=["beta/1.mp4"]).to_csv(scores, index=False)
    common = ("--clips", clips.csv, "--videos", clips.videos)
    outcome = run("next", *common, "--scores", scores, "--count", 3, "--out", pairs)
    assert outcome.exit_code == 0, outcome.exception
    assert "left out: 1 clips that could not be scored, 0 that are not in" in outcome.output
    assert f"{pairs}: 3 pairs" in outcome.output and "beta/1.mp4" not in pairs.read_text()
    folder = tmp_path / "out"
    assert "3 tasks, 3 of them new" in run("export", *common, "--pairs", pairs, "--out", folder).output
    outcome = run("next", *common, "--scores", scores, "--count", 9, "--out", pairs, "--folder", folder)
    assert "1 pairs (of 9 wanted)" in outcome.output
    assert "4 tasks, 1 of them new" in run("export", *common, "--pairs", pairs, "--out", folder).output
    before = pairs.read_bytes()
    outcome = run("next", *common, "--scores", scores, "--count", 9, "--out", pairs, "--folder", folder)
    assert isinstance(outcome.exception, BadInput) and pairs.read_bytes() == before
    table(clips, prompt=PROMPTS[0] + "?").to_csv(scores, index=False)  # scores for other prompts are no scores of these
    outcome = run("next", *common, "--scores", scores, "--count", 9, "--out", pairs)
    assert "6 that are not in" in outcome.output and isinstance(outcome.exception, BadInput)


def test_missing_scores(tmp_path):
    with pytest.raises(BadInput, match="missing"):
        read_scores(tmp_path / "none.parquet", [], Path())
