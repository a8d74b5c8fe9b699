"""Step caches and attention kernels: what they leave out, what they leave behind, and what is refused."""

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from components.config.params import StepCacheParams
from components.errors import BadInput
from components.generator.sampler import Job, solve
from components.generator.speedups import speedups
from components.guidance.best_of_n import best_of_early
from components.guidance.flow_nrg import flow_nrg
from tests.generator.small import tiny_generator
from tests.generator.test_integration import SMALL
from tests.guidance.test_flow_nrg import params, small_reward

JOBS = [Job("a", "a red circle moving up", 7), Job("b", "a blue circle", 8)]


def sampling(method: str = "none", **more):
    cache = StepCacheParams(method=method, **{"threshold": 0.5, "interval": 2, "warm_up": 2} | more)
    return SMALL.model_copy(update={"solver": "euler", "steps": 6, "step_cache": cache, "attention": None})


@pytest.fixture
def generator():
    return tiny_generator()


def passes(generator, settings, draw=solve):
    """Clips, and how often the last block was computed."""
    calls, last = [], generator.model.family.blocks(generator.model.transformer)[-1]
    original = last.attn1.forward  # a hook of a step cache leaves out the block itself
    last.attn1.forward = lambda *args, **named: calls.append(1) or original(*args, **named)
    try:
        return draw(generator, JOBS, settings), len(calls)
    finally:
        last.attn1.forward = original


def test_a_threshold_that_nothing_passes_changes_no_clip(generator):
    plain, computed = passes(generator, sampling())
    exact, with_cache = passes(generator, sampling("first_block", threshold=1e-9))
    assert computed == with_cache == 6
    torch.testing.assert_close(exact, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_blocks_are_left_out_and_nothing_is_left_behind(generator, scale):
    settings = sampling("first_block", threshold=10.0).model_copy(update={"guidance_scale": scale})
    first, computed = passes(generator, settings)
    assert computed == 1, "the first step alone"
    assert torch.equal(passes(generator, settings)[0], first)
    assert not generator.model.transformer.is_cache_enabled
    plain = sampling().model_copy(update={"guidance_scale": scale})
    assert not torch.allclose(solve(generator, JOBS, plain), first, atol=1e-3)


def test_taylorseer_computes_the_warm_up_and_then_every_other_step(generator):
    clips, computed = passes(generator, sampling("taylorseer", interval=2, warm_up=2))
    assert computed == 4, "steps 1 and 2, then 4 and 6 of 6"
    plain = solve(generator, JOBS, sampling())
    nearer = (clips - plain).abs().mean() / plain.abs().mean()
    assert 0 < nearer < 0.2


def test_best_of_n_goes_on_with_fewer_rows(generator):
    reward, settings = small_reward(generator.model, frozen=True), sampling("first_block", threshold=10.0)
    clips = best_of_early(generator, JOBS, settings, n=3, rank_step=2, reward=reward, weights={"TA": 1.0})
    assert clips.shape[0] == 2 and torch.isfinite(clips).all()


def test_flow_nrg_computes_each_step(generator):
    reward = small_reward(generator.model, frozen=True)

    def guided(settings):
        around = lambda flow, jobs: flow_nrg(flow, reward, flow.text, params(weights={"TA": 1.0}))  # noqa: E731
        return solve(generator, JOBS, settings, around)

    assert torch.equal(guided(sampling("first_block", threshold=10.0)), guided(sampling()))


def test_a_network_without_step_caches_is_refused():
    with (
        pytest.raises(BadInput, match=r"sampling\.step_cache\.method"),
        speedups(torch.nn.Identity(), sampling("first_block")),
    ):
        pass


def test_another_attention_kernel_draws_the_same_clips_and_stays_within_the_batch(generator):
    before = _AttentionBackendRegistry.get_active_backend()
    other = sampling().model_copy(update={"attention": "_native_math"})
    torch.testing.assert_close(solve(generator, JOBS, other), solve(generator, JOBS, sampling()), rtol=1e-4, atol=1e-4)
    assert _AttentionBackendRegistry.get_active_backend() == before


@pytest.mark.parametrize(("name", "why"), [("quick", "is none of"), ("flash", "Please install")])
def test_an_attention_kernel_that_is_not_there_is_refused(generator, name, why):
    with pytest.raises(BadInput, match=rf"sampling\.attention.*{why}"):
        solve(generator, JOBS, sampling().model_copy(update={"attention": name}))
