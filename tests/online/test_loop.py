"""Rounds: fresh prompts, the current policy draws, killed anywhere they end with the same weights, and their records."""

import json
import shutil
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from components.alignment.lora import add_lora
from components.alignment.weights import copy_of
from components.config.params import RelabelParams, load_params
from components.errors import BadInput
from components.generator.folder import load_transformer
from components.online import loop
from components.online.learners import LEARNERS
from components.online.loop import FIGURES, POLICY, finished, prompts_of_round, run_rounds
from components.runtime.weights import load_tensors


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it."""


def policy(stage):
    transformer = load_transformer("models/base_generator")
    add_lora(transformer, stage.params.align.lora, seed=3)
    return transformer


def run(stage, method: str = "nft", rounds: int = 3):
    transformer = policy(stage)
    rows, figures, scores = run_rounds(stage, transformer, LEARNERS[method](stage), rounds)
    return copy_of(transformer), rows, figures, scores


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_rounds_have_other_prompts_until_all_were_drawn(checkout):
    stage = checkout("state")
    rounds = [dict(prompts_of_round(stage, number)) for number in range(8)]
    everything = len(loop.sampled_prompts(stage, "train", None))
    a_pass = everything // 3
    assert a_pass >= 3 and all(len(prompts) == 3 for prompts in rounds)
    assert len(set().union(*rounds[:a_pass])) == 3 * a_pass, "no prompt is drawn twice"
    assert rounds[0] != rounds[a_pass]
    assert rounds == [dict(prompts_of_round(checkout("other"), number)) for number in range(8)]
    with pytest.raises(BadInput, match="1000 prompts a round"):
        prompts_of_round(checkout("other", prompts=1000), 0)


@pytest.mark.parametrize("method", ["nft", "grpo", "dpo"])
def test_rounds_are_logged_and_the_policy_moves(checkout, method):
    stage = checkout("state", method)
    weights, rows, figures, scores = run(stage, method, rounds=2)
    assert not same(weights, copy_of(policy(stage)))
    assert [row["round"] for row in figures] == [1, 2] and all(row["clips"] == 6 for row in figures)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    logged = {step: metrics for metrics, step in stage.logged if "round/reward" in metrics}
    assert [logged[number]["round/reward"] for number in (1, 2)] == [row["reward"] for row in figures]
    assert figures[1]["reward"] == pytest.approx(scores[scores["round"] == 2].reward.mean())
    assert list(scores["round"]) == [1] * 6 + [2] * 6
    left = {path.name for path in stage.state().iterdir()}
    assert left == {"rounds"}, "draws and checkpoints of finished rounds are gone"


def test_a_drift_from_round_1_is_an_alarm(checkout, monkeypatch):
    stage, signals = checkout("state"), loop.measured

    def brighter(stage, table, root):
        found = signals(stage, table, root)
        return found.assign(brightness=found.brightness / 1e3 + (0.9 if stage.logged else 0.1))

    monkeypatch.setattr(loop, "measured", brighter)
    lines: list[str] = []
    monkeypatch.setattr(stage, "say", lines.append)
    _, _, figures, scores = run(stage, rounds=2)
    assert [row["alarm"] for row in figures] == [0, 1]
    assert [line for line in lines if "HACKING ALARM: brightness" in line and line.startswith("round 2")]
    assert figures[1]["brightness"] == pytest.approx(scores[scores["round"] == 2].brightness.mean())


def test_rounds_by_another_scorer_compare(checkout, monkeypatch):
    """Its scores are normalised over a round's own clips, and the second round's are 4 higher than the first's."""
    source = {"kind": "command", "place": "echo", "reward": None, "dimensions": ["level"], "batch": 8, "attempts": 1}
    source |= {"seconds": 1.0, "key_variable": None}
    stage = checkout("state")
    relabel = load_params().relabel.model_dump() | {"sources": {"mine": source}, "weights": {"VQ": 1.0, "mine.level": 3.0}}
    stage.params = stage.params.model_copy(update={"relabel": RelabelParams.model_validate(relabel)})
    plain, versions = loop.score_candidates, ["1", "1"]

    def with_source(stage, folder):
        rows, names = plain(stage, folder)
        raw = np.arange(len(rows)) + 4.0 * bool(stage.logged)
        stamp = json.dumps({"mine": {"by": versions[bool(stage.logged)], "level": {"mean": raw.mean(), "std": raw.std()}}})
        levels = (raw - raw.mean()) / raw.std()
        added = [{"mine.level": level, "sources": stamp, "reward": 0.0} for level in levels]
        return [row | more for row, more in zip(rows, added, strict=True)], names

    monkeypatch.setattr(loop, "score_candidates", with_source)
    _, _, figures, scores = run(stage, rounds=2)
    deviation = np.arange(6).std()
    assert [row["mine.level"] for row in figures] == pytest.approx([0, 4 / deviation])
    second = scores[scores["round"] == 2]
    assert second.reward.tolist() == pytest.approx(((second.VQ + 3 * second["mine.level"]) / 4).tolist())
    assert second.sources.iloc[0] == scores.sources.iloc[0]
    other, versions[1] = checkout("other"), "2"
    other.params = stage.params
    with pytest.raises(BadInput, match=r"relabel\.sources\.mine: version 2 scores now, 1 scored round 1"):
        run(other, rounds=2)


def test_nft_learns_from_clips_of_any_solver(checkout):
    stage = checkout("state")
    sampling = stage.params.sampling.model_copy(update={"solver": "unipc"})
    stage.params = stage.params.model_copy(update={"sampling": sampling})
    weights, _, figures, _ = run(stage, rounds=1)
    assert figures[0]["clips"] == 6 and not same(weights, copy_of(policy(stage)))
    grpo = checkout("grpo", "grpo")
    grpo.params = stage.params
    with pytest.raises(BadInput, match="needs euler"):
        run(grpo, "grpo", rounds=1)


def test_the_current_policy_draws(checkout, monkeypatch):
    drawn = []

    def keep(stage, load, *args, real=loop.draw_candidates):
        drawn.append(load_tensors(f"{load.lora}/pytorch_lora_weights.safetensors"))
        return real(stage, load, *args)

    monkeypatch.setattr(loop, "draw_candidates", keep)
    run(checkout("state"))
    ups = [
        torch.cat([weight.flatten() for name, weight in own.items() if "lora_B" in name or "up" in name]) for own in drawn
    ]
    assert len(ups) == 3 and ups[0].abs().max() == 0, "round 1 is base's"
    assert ups[1].abs().max() > 0 and not torch.equal(ups[1], ups[2])


def killer(monkeypatch, place: str, calls: int) -> None:
    """The call of a function of the loop after so many raises, after or before it did its work."""
    name, _, when = place.partition(" ")
    real: Callable = getattr(loop, name)
    made = []

    def mortal(*args, **kwargs):
        made.append(1)
        if len(made) > calls and when == "before":
            raise Killed
        result = real(*args, **kwargs)
        if len(made) > calls:
            raise Killed
        return result

    monkeypatch.setattr(loop, name, mortal)


PLACES = [
    "draw_candidates before",
    "draw_candidates after",
    "score_candidates after",
    "figures_of before",
    "save_weights after",
]
CASES = [*(("nft", place) for place in PLACES), ("grpo", "draw_candidates after"), ("dpo", "figures_of before")]


@pytest.mark.parametrize(("method", "place"), CASES)
def test_killed_anywhere_it_ends_with_the_same_weights(checkout, monkeypatch, place, method):
    whole = run(checkout("whole", method), method, rounds=2)
    with monkeypatch.context() as patch:
        killer(patch, place, 2 if place.startswith("save") else 1)
        with pytest.raises(Killed):
            run(checkout("killed", method), method, rounds=2)
    stage = checkout("killed", method)
    again = run(stage, method, rounds=2)
    assert any("resumes after round 1 of 2" in line for line in stage.said)
    assert same(again[0], whole[0]) and again[1:3] == whole[1:3]
    pd.testing.assert_frame_equal(again[3], whole[3])


def test_killed_in_training_it_goes_on_from_the_checkpoint(checkout, monkeypatch):
    from components.alignment.methods import diffusion_nft

    whole = run(checkout("whole"), rounds=2)
    calls = []

    def mortal(*args, real=diffusion_nft.nft_loss, **kwargs):
        calls.append(1)
        if len(calls) == 4:  # in the second step of round 2
            raise Killed
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(diffusion_nft, "nft_loss", mortal)
        with pytest.raises(Killed):
            run(checkout("killed"), rounds=2)
    stage = checkout("killed")
    again = run(stage, rounds=2)
    assert any("resumes at step 1" in line for line in stage.said)
    assert same(again[0], whole[0]) and again[1:3] == whole[1:3]


@pytest.mark.parametrize("damage", ["policy", "figures", "gone"])
def test_a_damaged_round_is_made_anew_with_those_after_it(checkout, damage, capsys):
    whole = run(checkout("state"))
    folder = checkout("state").state() / "rounds/0001"
    if damage == "gone":
        shutil.rmtree(folder)
    else:
        (folder / {"policy": POLICY, "figures": FIGURES}[damage]).write_bytes(b"x")
    again = run(checkout("state"))
    assert same(again[0], whole[0]) and again[1:3] == whole[1:3]
    assert ("damaged" in capsys.readouterr().err) == (damage != "gone")


def test_the_old_policy_is_an_average(checkout):
    stage = checkout("state")
    decayed = stage.params.online.nft.model_copy(update={"old_decay": 0.75})
    stage = checkout("state", nft=decayed)
    run(stage, rounds=1)
    folder = stage.state() / "rounds" / finished(stage.state() / "rounds")[0]
    new, old, first = load_tensors(folder / POLICY), load_tensors(folder / "old.safetensors"), copy_of(policy(stage))
    for name, weight in old.items():
        torch.testing.assert_close(weight, 0.75 * first[name] + 0.25 * new[name])
    assert json.loads((folder / FIGURES).read_text())["figures"]["clips"] == 6


def test_grpo_refuses_candidates_without_noisy_steps(checkout, monkeypatch):
    stage = checkout("state", "grpo", first_on_candidates=True)
    with pytest.raises(BadInput, match="no noisy steps"):
        run(stage, "grpo")
