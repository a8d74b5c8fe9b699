"""Flow-GRPO's step against the closed form of a Gaussian, its loss number by number, and the window that is drawn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from components.alignment.methods.flow_grpo import (
    WindowSpec,
    euler_times,
    grpo_loss,
    guided,
    log_probability,
    read_states,
    step_of,
    train_grpo,
    window_of,
)
from components.alignment.weights import copy_of
from components.config.params import load_params
from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.sampler import Job, Loaded, noise_of, solve
from components.pipeline.stage import seed_of
from tests.alignment.test_align import disturb, pairs, transformer  # noqa: F401
from tests.generator.small import conditioning, tiny_generator

PARAMS = load_params().online.grpo


def test_step_is_the_formula():
    draw = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 3, 1, 2, 2, 2, generator=draw, dtype=torch.float64)
    t, dt, noise = torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64), torch.tensor([-0.1, -0.3, -0.2]).double(), 0.7
    mean, deviation = step_of(x, v, t, dt, noise)
    for i in range(3):
        s = noise * math.sqrt(float(t[i]) / (1 - float(t[i])))
        for a, velocity, found in zip(x[i].flatten().tolist(), v[i].flatten().tolist(), mean[i].flatten(), strict=True):
            drift = velocity + s**2 / (2 * float(t[i])) * (a + (1 - float(t[i])) * velocity)
            assert float(found) == pytest.approx(a + drift * float(dt[i]), rel=1e-12)
        assert float(deviation[i]) == pytest.approx(s * math.sqrt(-float(dt[i])), rel=1e-12)


@pytest.mark.parametrize("t", [0.9, 0.5, 0.1])
def test_a_small_step_keeps_the_marginal_of_a_gaussian(t):
    """x0 ~ N(m, c^2): x_t ~ N((1 - t) m, var), and the velocity is linear. The step's own mean and variance follow it."""
    m, c, dt = 1.5, 0.6, -1e-4
    var = (1 - t) ** 2 * c**2 + t**2
    slope = (t - (1 - t) * c**2) / var  # cov(x1 - x0, x_t) / var
    points = torch.tensor([(1 - t) * m, (1 - t) * m + 1.0], dtype=torch.float64).view(2, 1, 1, 1, 1)
    velocity = -m + slope * (points - (1 - t) * m)
    rows = torch.ones(2, dtype=torch.float64)
    mean, deviation = step_of(points, velocity, rows * t, rows * dt, noise=0.8)
    after = t + dt
    gain = float(mean[1] - mean[0])  # of the linear step
    assert float(mean[0]) == pytest.approx((1 - after) * m, abs=1e-6)
    new = gain**2 * var + float(deviation[0]) ** 2
    expected = (1 - after) ** 2 * c**2 + after**2
    assert new - var == pytest.approx(expected - var, rel=2e-3)


def test_log_probability_is_that_of_a_normal_up_to_its_constant():
    draw = torch.Generator().manual_seed(1)
    after, one, other = torch.randn(3, 4, 2, 3, 2, 2, generator=draw, dtype=torch.float64)
    deviation = torch.tensor([0.3, 1.0, 2.0, 0.05], dtype=torch.float64).view(4, 1, 1, 1, 1)
    found = log_probability(after, one, deviation) - log_probability(after, other, deviation)
    exact = [Normal(mean, deviation).log_prob(after).flatten(1).mean(1) for mean in (one, other)]
    torch.testing.assert_close(found, exact[0] - exact[1], rtol=1e-9, atol=1e-9)


def test_loss_is_the_formula():
    new = torch.tensor([0.0, 0.3, -0.3, 0.3, -0.3, 0.05], dtype=torch.float64)
    advantage = torch.tensor([1.0, 1.0, 1.0, -0.5, -0.5, 2.0], dtype=torch.float64)
    loss, logs = grpo_loss(new, torch.zeros(6, dtype=torch.float64), advantage, 0.2)
    terms = []
    for log, a in zip(new.tolist(), advantage.tolist(), strict=True):
        ratio = math.exp(log)
        terms.append(max(-a * ratio, -a * min(max(ratio, 0.8), 1.2)))
    assert float(loss) == pytest.approx(sum(terms) / 6, rel=1e-12)
    assert float(logs["clipped"]) == pytest.approx(4 / 6)


def test_a_clipped_step_has_no_gradient_and_an_equal_policy_that_of_its_log_probability():
    new = torch.tensor([0.3, -0.3, 0.0], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 0.4], dtype=torch.float64)
    loss, _ = grpo_loss(new, torch.zeros(3, dtype=torch.float64), advantage, 0.2)
    torch.testing.assert_close(torch.autograd.grad(loss, new)[0], torch.tensor([0, 0, -0.4 / 3], dtype=torch.float64))


def test_gradient_of_the_whole_step_is_that_of_differences():
    draw = torch.Generator().manual_seed(2)
    x, after, velocity, old = torch.randn(4, 2, 1, 2, 2, 2, generator=draw, dtype=torch.float64)
    t, dt = torch.tensor([0.7, 0.4], dtype=torch.float64), torch.tensor([-0.2, -0.1], dtype=torch.float64)
    advantage = torch.tensor([0.8, -0.3], dtype=torch.float64)

    def loss(v):
        mean, deviation = step_of(x, v, t, dt, 0.7)
        previous, _ = step_of(x, old, t, dt, 0.7)
        logs = [log_probability(after, each, deviation) for each in (mean, previous)]
        return grpo_loss(*logs, advantage, 50.0)[0]

    assert torch.autograd.gradcheck(loss, velocity.requires_grad_(True), atol=1e-7, rtol=1e-5)


def test_window_is_of_steps_that_there_are():
    times = [1.0, 0.75, 0.5, 0.25, 0.0]
    assert window_of(times, PARAMS.model_copy(update={"first": 1, "window": 3})) == [0.75, 0.5, 0.25, 0.0]
    with pytest.raises(BadInput, match="of 4 steps"):
        window_of(times, PARAMS.model_copy(update={"first": 2, "window": 3}))
    with pytest.raises(BadInput, match="pure noise"):
        window_of(times, PARAMS.model_copy(update={"first": 0}))
    sampling = load_params().sampling
    with pytest.raises(BadInput, match="needs euler"):
        euler_times(sampling.model_copy(update={"solver": "unipc"}), {})
    own = sampling.model_copy(update={"timesteps": [1.0, 0.5], "steps": 2})
    assert euler_times(own, {}) == [1.0, 0.5, 0.0]


@pytest.fixture
def drawn(tmp_path):
    """Three clips of a tiny generator with noise in steps 1 and 2 of four, and what drew them."""
    generator = tiny_generator()
    sampling = load_params().sampling.model_copy(update={"steps": 4, "guidance_scale": 2.0, "frames": 5, "batch_size": 3})
    jobs = [Job(f"c{n}", "a red circle", seed) for n, seed in enumerate((5, 6, 7))]
    params = PARAMS.model_copy(update={"first": 1, "window": 2})
    return SimpleNamespace(generator=generator, sampling=sampling, jobs=jobs, params=params, folder=tmp_path)


def test_without_noise_the_window_is_plain_sampling(drawn):
    silent = WindowSpec(Loaded(drawn.generator), drawn.params.model_copy(update={"noise": 1e-9}), drawn.folder)
    clips = silent.solve(drawn.generator, drawn.jobs, drawn.sampling)
    torch.testing.assert_close(clips, solve(drawn.generator, drawn.jobs, drawn.sampling), rtol=1e-5, atol=1e-5)


def test_states_are_the_steps_that_were_taken(drawn):
    WindowSpec(Loaded(drawn.generator), drawn.params, drawn.folder).solve(drawn.generator, drawn.jobs, drawn.sampling)
    states, times = read_states(drawn.folder, [job.clip for job in drawn.jobs], 3)
    assert states.shape[:2] == (3, 3) and times.tolist() == pytest.approx(euler_times(drawn.sampling, {})[1:4])
    text, empty = (drawn.generator.encode_text(words) for words in (["a red circle"] * 3, [""]))
    for number in range(2):
        t, dt = (torch.full((3,), float(value)) for value in (times[number], times[number + 1] - times[number]))
        with torch.no_grad():
            velocity = guided(drawn.generator.model, states[:, number], t, text, empty, 2.0)
        mean, deviation = step_of(states[:, number], velocity, t, dt, drawn.params.noise)
        noise = torch.stack([noise_of(seed_of(job.seed, "step", number), states.shape[2:]) for job in drawn.jobs])
        found = log_probability(states[:, number + 1], mean, deviation)
        torch.testing.assert_close(found, -(noise**2).flatten(1).mean(1) / 2, rtol=1e-3, atol=1e-4)


def test_training_begins_at_ratio_one_and_goes_towards_good_steps(transformer, pairs, bare_stage):  # noqa: F811
    draw = torch.Generator().manual_seed(3)
    states = torch.randn(12, 3, 4, 3, 4, 4, generator=draw)
    settings = {"steps": 4, "batch_size": 8, "log_every": 1, "accumulation": 1, "learning_rate": 1e-3}
    update = {"training": PARAMS.training.model_copy(update=settings), "clip": 0.2, "kl": 0.1}
    pairs.candidates.table["prompt_id"] = [f"p{n // 3}" for n in range(12)]
    disturb(transformer)
    rows = train_grpo(
        bare_stage, transformer, pairs.candidates, np.arange(12) % 3 * 1.0, copy_of(transformer), states,
        torch.tensor([0.8, 0.5, 0.3]), conditioning(1, 16, 16, draw=draw), PARAMS.model_copy(update=update), "round-1", 0,
    )  # fmt: skip
    assert rows[0]["ratio_off"] == pytest.approx(0, abs=1e-5) and rows[-1]["ratio_off"] > 1e-4
    assert all(row["kl"] > 0 for row in rows)
    assert isinstance(pairs.text([0]), Conditioning)
