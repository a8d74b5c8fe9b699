"""The training loop: it learns, resumes bit for bit after any kill, and stops at the first non-finite number."""

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st

from components.config.params import TrainingParams
from components.errors import NonFinite
from components.runtime.batches import WINDOW, batch_indices
from components.runtime.training import EarlyStopping, fit, rate_factor

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
Y = X @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])


def settings(**change) -> TrainingParams:
    values = {
        "steps": 40, "batch_size": 8, "accumulation": 1, "learning_rate": 0.05, "warmup_steps": 4, "schedule": "cosine",
        "weight_decay": 0.01, "max_grad_norm": 1.0, "ema_decay": 0.9, "precision": "fp32", "log_every": 5,
        "validate_every": 20, "checkpoint_seconds": 0,
    }  # fmt: skip
    return TrainingParams(**values | change)


def loss_fn(model, indices, draw):
    noise = 0.01 * torch.randn(len(indices), 4, generator=draw)
    loss = (model(X[indices] + noise) - Y[indices]).pow(2).mean()
    return loss, {"half": loss.detach() / 2}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it."""


def mortal(batches: int):
    """loss_fn, killed in the batch after so many."""
    calls = []

    def loss(net, indices, draw):
        calls.append(indices)
        if len(calls) > batches:
            raise Killed
        return loss_fn(net, indices, draw)

    return loss


def test_it_learns_and_logs(bare_stage):
    rows = fit(bare_stage, model(), loss_fn, 64, settings(steps=200))
    assert rows[-1]["loss"] < 0.1 * rows[0]["loss"]
    assert [row["step"] for row in rows] == list(range(5, 201, 5))
    assert rows[0]["half"] == pytest.approx(rows[0]["loss"] / 2)
    assert bare_stage.logged[-1][1] == 200


@pytest.mark.parametrize("killed_at", [1, 5, 12, 38])
def test_a_killed_run_ends_with_the_same_weights(bare_stage, tmp_path, killed_at):
    whole = model()
    rows = fit(bare_stage, whole, loss_fn, 64, settings())
    bare_stage.folder = tmp_path / "killed"
    with pytest.raises(Killed):
        fit(bare_stage, model(), mortal(killed_at), 64, settings())
    again = model()
    assert fit(bare_stage, again, loss_fn, 64, settings()) == rows
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_several_losses_take_turns_and_go_on_in_turn_after_a_kill(bare_stage, tmp_path):
    def other(net, indices, draw):
        loss, _ = loss_fn(net, indices, draw)
        return 3 * loss, {"other": loss.detach()}

    change = settings(steps=10, log_every=1)
    whole, again = model(), model()
    rows = fit(type(bare_stage)(tmp_path / "whole"), whole, [loss_fn, other], 64, change)
    assert ["other" in row for row in rows] == [False, True] * 5
    with pytest.raises(Killed):
        fit(bare_stage, model(), [mortal(3), other], 64, change)
    assert fit(bare_stage, again, [loss_fn, other], 64, change) == rows
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_steps_of_a_later_round_count_on(bare_stage):
    rows = fit(bare_stage, model(), loss_fn, 64, settings(steps=10, log_every=5), before=30)
    assert [row["step"] for row in rows] == [35, 40] and [step for _, step in bare_stage.logged] == [35, 40]


def test_accumulation_is_a_larger_batch(bare_stage, tmp_path):
    plain = {"ema_decay": None, "steps": 6}

    def exact(net, indices, draw):
        return (net(X[indices]) - Y[indices]).pow(2).mean(), {}

    one, two = model(), model()
    fit(bare_stage, one, exact, 64, settings(batch_size=8, **plain))
    bare_stage.folder = tmp_path / "two"
    fit(bare_stage, two, exact, 64, settings(batch_size=4, accumulation=2, **plain))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_offload_changes_no_bit_and_keeps_what_is_saved_in_host_memory(bare_stage, tmp_path, monkeypatch, precision):
    whole, again, calls = model(), model(), []
    AcceleratorState._reset_state()  # a process has one precision
    rows = fit(bare_stage, whole, loss_fn, 64, settings(precision=precision))
    saver = torch.autograd.graph.save_on_cpu
    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", lambda **how: calls.append(how) or saver(**how))
    bare_stage.folder = tmp_path / "offload"
    assert fit(bare_stage, again, loss_fn, 64, settings(precision=precision), offload=True) == rows
    AcceleratorState._reset_state()
    assert calls == [{"pin_memory": torch.cuda.is_available()}] * 40
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def judged_by(figures: list[float]):
    """A validation that gives these figures in turn."""
    left = iter(figures)
    return lambda net: {"right": next(left)}


def test_training_ends_early_with_the_best_weights(bare_stage, tmp_path):
    figures = [0.5, 0.8, 0.7, 0.8, 0.6, 0.9]
    change = {"validate_every": 5, "steps": 200, "schedule": "constant"}
    early = model()
    rows = fit(
        bare_stage,
        early,
        loss_fn,
        64,
        settings(**change),
        validate=judged_by(figures),
        early_stopping=EarlyStopping("right", patience=3),
    )
    assert [row["validation/right"] for row in rows] == figures[:5], "0.8 again is no better"
    assert bare_stage.said[0] == "train: no better right for 3 validations, ends at step 25"
    bare_stage.folder = tmp_path / "short"
    short = model()
    fit(bare_stage, short, loss_fn, 64, settings(**change | {"steps": 10}))
    for a, b in zip(early.parameters(), short.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_killed_run_remembers_the_best(bare_stage, tmp_path):
    figures = [0.5, 0.8, 0.7, 0.6, 0.6, 0.9]
    whole, again = model(), model()
    change = settings(validate_every=5, steps=200)
    early_stopping = EarlyStopping("right", patience=3)
    rows = fit(bare_stage, whole, loss_fn, 64, change, validate=judged_by(figures), early_stopping=early_stopping)
    bare_stage.folder = tmp_path / "killed"
    with pytest.raises(Killed):
        fit(bare_stage, model(), mortal(17), 64, change, validate=judged_by(figures), early_stopping=early_stopping)
    assert (
        fit(bare_stage, again, loss_fn, 64, change, validate=judged_by(figures[3:]), early_stopping=early_stopping) == rows
    )
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_exploding_loss_is_said(bare_stage):
    calls = []

    def exploding(net, indices, draw):
        calls.append(indices)
        loss, logs = loss_fn(net, indices, draw)
        return loss * 0 + (100.0 if len(calls) > 20 else 1.0), logs

    rows = fit(bare_stage, model(), exploding, 64, settings())
    assert [row["step"] for row in rows if row.get("exploded")] == [25, 30, 35, 40]
    assert bare_stage.said[0] == "train: ALARM at step 25: loss 100, at first 1"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_training(bare_stage, bad):
    def broken(net, indices, draw):
        loss, logs = loss_fn(net, indices, draw)
        return loss * bad, logs

    with pytest.raises(NonFinite, match="train loss"):
        fit(bare_stage, model(), broken, 64, settings())


def test_a_log_without_a_value_in_a_batch_is_left_out(bare_stage):
    def sometimes(net, indices, draw):
        loss, _ = loss_fn(net, indices, draw)
        return loss, {"rare": 2.0 if 0 in indices else float("nan"), "never": float("nan")}

    rows = fit(bare_stage, model(), sometimes, 64, settings(log_every=20))
    assert all(row.get("rare", 2.0) == 2.0 and "never" not in row for row in rows)


@given(st.integers(1, 50), st.integers(1, 70), st.integers(0, 5))
def test_batches_go_through_epochs_without_repeats(batch_size, count, seed):
    steps = -(-3 * count // batch_size)
    seen = [i for step in range(steps) for i in batch_indices(step, batch_size, count, seed)]
    assert len(seen) == steps * batch_size
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def padding(batches: list[list[int]], lengths: np.ndarray) -> int:
    return sum(len(batch) * lengths[batch].max() - lengths[batch].sum() for batch in batches)


def batches_of(steps: int, batch_size: int, lengths: np.ndarray, seed: int, bucketed: bool) -> list[list[int]]:
    return [batch_indices(step, batch_size, len(lengths), seed, lengths if bucketed else None) for step in range(steps)]


@given(st.integers(1, 20), st.lists(st.integers(1, 9), min_size=1, max_size=90), st.integers(0, 5), st.integers(1, 4))
def test_batches_of_like_lengths_go_through_epochs_and_pad_no_more(batch_size, lengths, seed, window):
    count, lengths = len(lengths), np.array(lengths)
    steps = -(-3 * count // batch_size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.runtime.batches.WINDOW", window)
        batches = batches_of(steps, batch_size, lengths, seed, bucketed=True)
    seen = [i for batch in batches for i in batch]
    assert len(seen) == steps * batch_size
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert padding(batches, lengths) <= padding(batches_of(steps, batch_size, lengths, seed, bucketed=False), lengths)


@given(st.integers(1, 50), st.integers(1, 400), st.integers(0, 5), st.integers(1, 9))
def test_equal_lengths_leave_batches_as_they_are(batch_size, count, seed, length):
    lengths = np.full(count, length)
    assert batches_of(20, batch_size, lengths, seed, True) == batches_of(20, batch_size, lengths, seed, False)


def test_mixed_lengths_pad_much_less_and_come_in_no_order():
    lengths = np.random.default_rng(0).integers(100, 1000, 960)
    batches = batches_of(40, 24, lengths, 1, bucketed=True)
    assert padding(batches, lengths) < 0.1 * padding(batches_of(40, 24, lengths, 1, bucketed=False), lengths)
    longest = [lengths[batch].max() for batch in batches[:WINDOW]]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5
    # Not the same companions in each epoch: the windows are drawn anew.
    assert {frozenset(batch) for batch in batches}.isdisjoint(map(frozenset, batches_of(80, 24, lengths, 1, True)[40:]))


def test_a_killed_run_with_lengths_ends_with_the_same_weights(bare_stage, tmp_path):
    lengths = np.random.default_rng(0).integers(1, 9, 64).tolist()
    whole, again = model(), model()
    rows = fit(bare_stage, whole, loss_fn, 64, settings(), lengths=lengths)
    bare_stage.folder = tmp_path / "killed"
    with pytest.raises(Killed):
        fit(bare_stage, model(), mortal(17), 64, settings(), lengths=lengths)
    assert fit(bare_stage, again, loss_fn, 64, settings(), lengths=lengths) == rows
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rates():
    constant = settings(schedule="constant", warmup_steps=4)
    assert [rate_factor(s, constant) for s in (0, 3, 4, 39)] == [0.25, 1.0, 1.0, 1.0]
    cosine = [rate_factor(s, settings()) for s in range(4, 41)]
    assert cosine[0] == 1.0 and np.all(np.diff(cosine) < 0) and cosine[-1] == pytest.approx(0.1)
