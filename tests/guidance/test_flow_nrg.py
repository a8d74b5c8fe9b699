"""Flow-NRG against flows and rewards whose answer is known, and the latent reward model's contract."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import FlowMapEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from components.config.params import NrgParams
from components.errors import BadInput, NonFinite
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.integration import euler, timesteps
from components.generator.sampler import ClassifierFree
from components.guidance.flow_nrg import flow_nrg
from components.guidance.latent_reward import (
    LatentReward,
    first_blocks,
    load_latent_reward,
    save_latent_reward,
)
from components.guidance.pipeline import FlowNRGPipeline
from tests.generator.small import conditioning, tiny_generator

S0 = 0.5  # standard deviation of the toy data


def params(**change) -> NrgParams:
    return NrgParams(
        **{
            "weights": {"up": 1.0},
            "scale": 2.0,
            "start": 0.0,
            "stop": 1.0,
            "max_norm": None,
            "gradient_checkpointing": False,
        }
        | change
    )


def toy_flow(x: torch.Tensor, t: float) -> torch.Tensor:
    """The exact velocity of x_t = (1 - t) x0 + t x1 with x0 ~ N(0, S0^2), x1 ~ N(0, 1)."""
    variance = (1 - t) ** 2 * S0**2 + t**2
    return x * (t - (1 - t) * S0**2) / variance


class ToyReward(nn.Module):
    """r(x0) = x0, seen through noise: log E[exp(w x0) | x_t] / w, up to a constant, is E[x0 | x_t]."""

    dimensions = ("up", "down")
    frozen = False

    def forward(self, x, t, text):
        t = t.view(-1, 1, 1, 1, 1)
        mean = x * (1 - t) * S0**2 / ((1 - t) ** 2 * S0**2 + t**2)
        return torch.stack([mean.flatten(1).sum(1), -mean.flatten(1).sum(1)], dim=1)


NOISE = torch.randn(20000, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0))


def test_samples_follow_the_tilted_distribution():
    """p(x) exp(w x) for p = N(0, S0^2) is N(w S0^2, S0^2)."""
    w = 2.0
    guided = flow_nrg(toy_flow, ToyReward(), NOISE, params(scale=w))
    x = euler(guided, NOISE, timesteps(400, 1.0))
    assert float(x.mean()) == pytest.approx(w * S0**2, abs=0.02)
    assert float(x.std()) == pytest.approx(S0, abs=0.02)


def test_zero_weights_change_no_bit():
    guided = flow_nrg(toy_flow, ToyReward(), NOISE, params(weights={"up": 0.0}))
    assert torch.equal(euler(guided, NOISE, timesteps(10, 3.0)), euler(toy_flow, NOISE, timesteps(10, 3.0)))


def test_weights_choose_the_dimension_and_the_interval_is_kept():
    x = NOISE[:4]
    down = flow_nrg(toy_flow, ToyReward(), x, params(weights={"down": 1.0}))
    assert (down(x, 0.5) > toy_flow(x, 0.5)).all(), "velocity points to noise: more of it moves the clip down"
    early = flow_nrg(toy_flow, ToyReward(), x, params(start=0.6))
    assert torch.equal(early(x, 0.5), toy_flow(x, 0.5)) and not torch.equal(early(x, 0.7), toy_flow(x, 0.7))
    assert torch.equal(early(x, 1.0), toy_flow(x, 1.0)), "t = 1 is skipped"


def test_the_push_is_bounded_by_the_velocity():
    x = NOISE[:4]
    bounded = flow_nrg(toy_flow, ToyReward(), x, params(scale=1e6, max_norm=0.5))
    push = (bounded(x, 0.9) - toy_flow(x, 0.9)).abs()
    torch.testing.assert_close(push, 0.5 * toy_flow(x, 0.9).abs())


def test_an_unknown_dimension_and_a_bad_gradient_are_named():
    with pytest.raises(BadInput, match=r"weights\.XY"):
        flow_nrg(toy_flow, ToyReward(), NOISE, params(weights={"XY": 1.0}))

    class Broken(ToyReward):
        def forward(self, x, t, text):
            return super().forward(x, t, text) * float("nan")

    with pytest.raises(NonFinite, match="reward gradient"):
        flow_nrg(toy_flow, Broken(), NOISE[:2], params())(NOISE[:2], 0.5)


def test_the_trunk_computes_what_the_generator_computes():
    transformer = tiny_generator().model
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.8]), conditioning(2, 16, 16)
    seen = []
    transformer.transformer.blocks[0].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        transformer(x, t, text)
        torch.testing.assert_close(transformer.family.tokens(first_blocks(transformer, 1), x, t, text), seen[0])
    with pytest.raises(BadInput, match="2 blocks"):
        first_blocks(transformer, 3)


def test_saved_and_loaded_for_its_own_generator_only(tmp_path):
    transformer = tiny_generator().model
    model = LatentReward(transformer.family, first_blocks(transformer, 1), ["VQ", "TA"])
    nn.init.normal_(model.head)
    save_latent_reward(model, tmp_path, {"generator": "abc", "reward_model": "r"})
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.8]), conditioning(2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(load_latent_reward(tmp_path, transformer, "abc")(x, t, text), model(x, t, text))
    with pytest.raises(BadInput, match="trained for generator abc"):
        load_latent_reward(tmp_path, transformer, "xyz")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"frozen": None}, "key 'frozen'"),
        ({"blocks": "one"}, "key 'blocks'"),
        ({"dimensions": [["VQ"], "TA"]}, "key 'dimensions.0'"),
        ({"dimensions": ["VQ"]}, "model.safetensors, key 'head': "),
        ({"blocks": 2}, "model.safetensors, key 'trunk.blocks.1"),
    ],
)
def test_facts_that_are_not_those_of_the_weights_are_named(tmp_path, change, why):
    transformer = tiny_generator().model
    save_latent_reward(small_reward(transformer, False), tmp_path, {"generator": "abc"})
    facts = json.loads((tmp_path / "latent_reward.json").read_text())
    (tmp_path / "latent_reward.json").write_text(json.dumps(facts | change))
    with pytest.raises(BadInput, match=why):
        load_latent_reward(tmp_path, transformer, "abc")


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    transformer = tiny_generator().model
    model = small_reward(transformer, True)
    model.query[1, 3] = float("nan")  # best of N would keep the first clip of each prompt
    save_latent_reward(model, tmp_path, {"generator": "abc"})
    with pytest.raises(BadInput, match=r"model\.safetensors, key 'query': a weight is not finite"):
        load_latent_reward(tmp_path, transformer, "abc")


def small_reward(transformer, frozen: bool) -> LatentReward:
    torch.manual_seed(5)
    model = LatentReward(transformer.family, first_blocks(transformer, 1, shared=frozen), ["VQ", "TA"], frozen)
    nn.init.normal_(model.head)
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_shared_trunk_guides_as_one_of_its_own_would(scale):
    transformer = tiny_generator().model
    text, empty = conditioning(2, 16, 16), conditioning(1, 16, 16)
    x, flow = torch.randn(2, 4, 3, 4, 4), ClassifierFree(transformer, text, empty, scale)
    settings = params(weights={"TA": 1.0, "VQ": 0.3})
    with torch.no_grad():
        own, shared = (flow_nrg(flow, small_reward(transformer, frozen), text, settings)(x, 0.6) for frozen in (False, True))
        torch.testing.assert_close(shared, own, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(own, flow(x, 0.6)), "the guidance does something"
    assert not transformer.transformer.blocks[0]._forward_hooks, "nothing stays on the generator"


@pytest.mark.parametrize("frozen", [False, True])
@torch.no_grad()
def test_parts_of_a_batch_are_guided_as_clips_alone(frozen, four_threads):
    transformer = tiny_generator().model
    text, empty = conditioning(28, 16, 16), conditioning(1, 16, 16)
    x, flow = torch.randn(28, 4, 3, 4, 4), ClassifierFree(transformer, text, empty, 3.0)
    reward = small_reward(transformer, frozen)
    weights = [{"TA": n / 28, "VQ": 0.3} for n in range(28)]
    alone = []
    for n in range(28):
        one = replace(flow, text=text[[n]])
        alone.append(flow_nrg(one, reward, one.text, params(weights=weights[n]))(x[[n]], 0.6))
    for _ in range(5):
        together = flow_nrg(flow, reward, text, params(weights={"VQ": 1.0}), weights=weights)(x, 0.6)
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert not transformer.transformer.blocks[0]._forward_hooks


def test_a_shared_trunk_holds_no_weights_of_its_own(tmp_path):
    transformer = tiny_generator().model
    model = small_reward(transformer, frozen=True)
    assert model.trunk.blocks[0].attn1.to_q.weight is transformer.transformer.blocks[0].attn1.to_q.weight
    save_latent_reward(model, tmp_path, {"generator": "abc"})
    loaded = load_latent_reward(tmp_path, transformer, "abc")
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.8]), conditioning(2, 16, 16)
    assert loaded.frozen and torch.equal(loaded(x, t, text), model(x, t, text))
    assert transformer.transformer.proj_out is not None, "the generator is whole"
    weights = load_file(tmp_path / "model.safetensors")
    save_file({key: value for key, value in weights.items() if key != "head"}, tmp_path / "model.safetensors")
    with pytest.raises(BadInput, match="key 'head'"):
        load_latent_reward(tmp_path, transformer, "abc")


def test_each_clip_of_a_batch_has_its_own_weights():
    x = NOISE[:3]
    mixed = flow_nrg(toy_flow, ToyReward(), x, params(), weights=[{"up": 2.0}, None, {"up": 0.0}])(x, 0.5)
    for at, weights in enumerate(({"up": 2.0}, {"up": 1.0}, {"up": 0.0})):
        alone = flow_nrg(toy_flow, ToyReward(), x[:1], params(weights=weights))(x[at : at + 1], 0.5)
        torch.testing.assert_close(mixed[at : at + 1], alone)
    assert torch.equal(mixed[2], toy_flow(x, 0.5)[2]), "weights of 0 change no bit, also among others"


@pytest.mark.parametrize("scheduler", [FlowMapEulerDiscreteScheduler, UniPCMultistepScheduler])
def test_the_pipeline_guides_as_the_sampler_does(tmp_path, scheduler):
    generator = tiny_generator()
    save_generator(generator, tmp_path)
    pipeline = FlowNRGPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    pipeline.pipeline.set_progress_bar_config(disable=True)
    if scheduler is UniPCMultistepScheduler:
        pipeline.pipeline.scheduler = scheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    reward = small_reward(pipeline.model, frozen=False)
    noise = torch.randn(1, *generator.latent_shape(5, 16, 16))
    settings = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 4, "guidance_scale": 3.0}
    settings |= {"latents": noise, "output_type": "latent", "return_dict": False}
    plain = WanPipeline(**pipeline.pipeline.components)("a red circle", max_sequence_length=16, **settings)[0]
    drawn = {
        weight: pipeline("a red circle", reward=reward, nrg=params(weights={"TA": weight}), **settings)[0]
        for weight in (0.0, 1.0)
    }
    assert torch.equal(drawn[0.0], plain) and not torch.allclose(drawn[1.0], plain)
    if scheduler is FlowMapEulerDiscreteScheduler:
        text, empty = (load_generator(tmp_path).encode_text([prompt]) for prompt in ("a red circle", ""))
        with torch.no_grad():
            flow = flow_nrg(ClassifierFree(pipeline.model, text, empty, 3.0), reward, text, params(weights={"TA": 1.0}))
            ours = euler(flow, noise, pipeline.pipeline.scheduler.sigmas.tolist())
        torch.testing.assert_close(drawn[1.0], ours, rtol=1e-3, atol=1e-4)


def test_the_pipeline_as_its_docstring_calls_it(tmp_path):
    """No dtype, no length of text: transformers then loads the text encoder in the half precision of its file."""
    generator = tiny_generator()
    save_generator(generator, tmp_path, shift=3.0)
    pipeline = FlowNRGPipeline.from_pretrained(tmp_path)
    reward, nrg = small_reward(pipeline.model, frozen=False), params(weights={"TA": 1.0})
    noise = torch.randn(1, *generator.latent_shape(5, 16, 16), generator=torch.Generator().manual_seed(1))
    settings = {"num_inference_steps": 4, "guidance_scale": 3.0, "latents": noise, "output_type": "latent"}
    drawn = pipeline("a red circle", reward=reward, nrg=nrg, height=16, width=16, num_frames=5, **settings).frames
    text, empty = (load_generator(tmp_path).encode_text([prompt]) for prompt in ("a red circle", ""))
    with torch.no_grad():
        flow = flow_nrg(ClassifierFree(pipeline.model, text, empty, 3.0), reward, text, nrg)
        torch.testing.assert_close(drawn, euler(flow, noise, timesteps(4, 3.0)), rtol=1e-2, atol=1e-2)
