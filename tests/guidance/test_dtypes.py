"""Guidance and best of N on a generator in float32 and in bfloat16, by a trunk of its own or the generator's."""

from typing import get_args

import pytest
import torch
from torch import nn

from components.alignment.lora import add_lora, save_lora
from components.cli.main import app
from components.config.params import BestOfNParams, NrgParams, load_params
from components.config.types import Dtype
from components.errors import BadInput
from components.generator.families.wan import Wan
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator, load_transformer
from components.generator.sampler import Job
from components.generator.spec import SamplerSpec, generator_once
from components.guidance.best_of_n import BestOfNSpec
from components.guidance.flow_nrg import NrgSpec
from components.guidance.latent_reward import (
    dimension_weights,
    first_blocks,
    latent_reward_once,
    load_latent_reward,
    save_latent_reward,
)
from components.guidance.pipeline import FlowNRGPipeline
from components.guidance.train import build
from components.pipeline.stage import folder_digest
from components.reward.losses import bradley_terry
from tests.alignment.test_align import LORA, disturb
from tests.generator.small import conditioning, tiny_generator
from tests.guidance.test_flow_nrg import small_reward

DTYPES = get_args(Dtype)
JOBS = [Job("a", "a red circle", 3), Job("b", "a blue circle", 4, {"VQ": 1.0})]
GUIDANCE = {
    "nrg": NrgParams(weights={"TA": 0.1}, scale=3.0, start=0.0, stop=1.0, max_norm=0.3, gradient_checkpointing=False),
    "best_of_n": BestOfNParams(n=2, judge="latent_reward", rank_step=1, weights={"TA": 0.1}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A generator, a LoRA of it, and latent reward models on a trunk of their own and on the generator's."""
    folder = tmp_path_factory.mktemp("dtypes")
    save_generator(tiny_generator(), folder / "base")
    for name, frozen in (("own", False), ("frozen", True)):
        reward = small_reward(load_transformer(folder / "base"), frozen)
        save_latent_reward(reward, folder / name, {"generator": folder_digest(folder / "base")})
    transformer = load_transformer(folder / "base")
    add_lora(transformer, LORA, seed=1)
    disturb(transformer)
    save_lora(transformer, folder / "lora")
    return folder


@pytest.fixture
def sampling(bare_stage):
    return bare_stage.params.sampling.model_copy(update={"steps": 2, "height": 16, "width": 16, "frames": 5})


def parts_in_float32(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.dtype == torch.float32}


@pytest.mark.parametrize("guidance", ["plain", *GUIDANCE])
@pytest.mark.parametrize(("lora", "trunk"), [(None, "own"), (None, "frozen"), ("lora", "own")])
@torch.no_grad()
def test_clips_of_both_dtypes_are_near(folder, sampling, lora, trunk, guidance):
    drawn = {}
    for dtype in DTYPES:
        spec = SamplerSpec(str(folder / "base"), lora and str(folder / lora), dtype)
        if guidance != "plain":
            guide = NrgSpec if guidance == "nrg" else BestOfNSpec
            spec = guide(spec, GUIDANCE[guidance], str(folder / trunk))
        generator, solver = spec()
        assert generator.model.transformer.patch_embedding.weight.dtype == getattr(torch, dtype)
        drawn[dtype] = solver(generator.with_text(spec.text_encoder()), JOBS, sampling)
        assert drawn[dtype].dtype == torch.float32 and generator.decode(drawn[dtype]).shape == (2, 5, 16, 16, 3)
    torch.testing.assert_close(drawn["bfloat16"], drawn["float32"], rtol=0, atol=0.15)


def test_what_reads_a_trunks_tokens_is_in_float32(folder):
    digest = folder_digest(folder / "base")
    transformer = load_transformer(folder / "base", "bfloat16")
    for name in ("own", "frozen"):
        reward = load_latent_reward(folder / name, transformer, digest)
        kept = parts_in_float32(reward)
        assert {"norm.weight", "query", "pool.in_proj_weight", "mlp.1.weight", "head"} <= kept
        assert "trunk.blocks.0.attn1.to_q.weight" not in kept
        assert "trunk.condition_embedder.time_embedder.linear_1.weight" in kept, "as diffusers leaves it"
    weights = dimension_weights(reward, {"TA": 0.1}, torch.device("cpu"))
    assert torch.equal(weights, torch.tensor([0.0, 0.1])), "text in half precision rounds no weight"


class Uncopied:
    def __deepcopy__(self, memo):
        raise AssertionError("this block is not kept")


def test_only_the_blocks_that_are_kept_are_copied_and_without_a_lora(folder):
    model = load_transformer(folder / "base")
    transformer = model.transformer
    transformer.blocks[1].mark = Uncopied()
    plain = first_blocks(model, 1)
    del transformer.blocks[1].mark
    add_lora(model, LORA, seed=1)
    assert first_blocks(model, 1).state_dict().keys() == plain.state_dict().keys()
    assert len(transformer.blocks) == 2 and hasattr(transformer, "proj_out") and transformer.peft_config


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trunk_is_read_without_the_other_blocks(folder, dtype):
    trunk, whole = Wan().load_trunk(folder / "base", 1, dtype), first_blocks(load_transformer(folder / "base", dtype), 1)
    read, expected = trunk.state_dict(), whole.state_dict()
    assert read.keys() == expected.keys() and all(torch.equal(read[key], expected[key]) for key in read)
    with pytest.raises(BadInput, match="the generator has 2 blocks"):
        Wan().load_trunk(folder / "base", 3, dtype)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trunk", ["full", "lora", "frozen"])
def test_what_trains_is_in_float32_and_what_is_frozen_in_the_profiles_dtype(folder, trunk, dtype, precision):
    params = load_params().latent_reward.model_copy(update={"trunk": trunk, "blocks": 1, "lora": LORA})
    model = build(str(folder / "base"), params, dtype, len)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    frozen = torch.float32 if trunk == "full" else getattr(torch, dtype)
    assert model.trunk.patch_embedding.weight.dtype == frozen
    nn.init.normal_(model.head)
    text = conditioning(4, 16, 16, dtype=getattr(torch, dtype))  # as the text encoder gives it
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        scores = model(torch.randn(4, 4, 3, 4, 4), torch.rand(4), text)
        loss = bradley_terry(scores[:2], scores[2:], torch.ones(2, 3))
    assert scores.dtype == loss.dtype == torch.float32
    loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    assert trained and all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trunk", ["full", "lora"])
def test_a_trunk_whose_layers_are_worked_out_again_has_the_same_gradients(folder, trunk, dtype):
    found, entered = [], []
    for again in (False, True):
        update = {"trunk": trunk, "blocks": 2, "lora": LORA, "gradient_checkpointing": again}
        model = build(str(folder / "base"), load_params().latent_reward.model_copy(update=update), dtype, len)
        disturb(model.trunk)
        nn.init.normal_(model.head, generator=torch.Generator().manual_seed(0))
        for block in model.trunk.blocks:
            block.register_forward_pre_hook(lambda *_, again=again: entered.append(again))
        torch.manual_seed(2)
        model(torch.randn(2, 4, 3, 4, 4), torch.rand(2), conditioning(2, 16, 16)).sum().backward()
        found.append([p.grad for p in model.parameters() if p.grad is not None])
    assert (entered.count(False), entered.count(True)) == (2, 4), "once more in the backward pass"
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trunk", ["full", "lora", "frozen"])
def test_clips_read_one_by_one_have_the_gradients_of_all_together(folder, trunk, dtype):
    found, sizes = [], []
    for clips_at_once in (None, 1):
        update = {"trunk": trunk, "blocks": 2, "lora": LORA, "gradient_checkpointing": True, "clips_at_once": clips_at_once}
        model = build(str(folder / "base"), load_params().latent_reward.model_copy(update=update), dtype, len)
        nn.init.normal_(model.head, generator=torch.Generator().manual_seed(0))
        model.trunk.blocks[0].register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        torch.manual_seed(2)
        scores = model(torch.randn(3, 4, 3, 4, 4), torch.rand(3), conditioning(3, 16, 16))
        scores.pow(2).sum().backward()
        found.append([scores, *(p.grad for p in model.parameters() if p.grad is not None)])
        with torch.no_grad():
            before = len(sizes)
            model(torch.randn(3, 4, 3, 4, 4), torch.rand(3), conditioning(3, 16, 16))
            assert sizes[before:] == [3], "scoring reads a batch as it is"
    assert 1 in sizes
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == "float32" else {"rtol": 0.1, "atol": 0.1}
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trunk", ["own", "frozen"])
def test_guidance_whose_blocks_are_worked_out_again_draws_the_same(folder, sampling, trunk, dtype):
    drawn, passes = [], []
    for again in (False, True):
        for once in (generator_once, latent_reward_once):
            once.cache_clear()
        guidance = GUIDANCE["nrg"].model_copy(update={"gradient_checkpointing": again})
        spec = NrgSpec(SamplerSpec(str(folder / "base"), None, dtype), guidance, str(folder / trunk))
        generator, solver = spec()
        reward = latent_reward_once(spec.sampler, spec.reward)
        network = generator.model.transformer if trunk == "frozen" else reward.trunk
        network.blocks[0].register_forward_pre_hook(lambda *_, again=again: passes.append(again))
        drawn.append(solver(generator.with_text(spec.text_encoder()), JOBS, sampling))
    assert torch.equal(*drawn)
    assert passes.count(True) == passes.count(False) + 1, "once more in the step with guidance"
    for once in (generator_once, latent_reward_once):
        once.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pipelines_latents_stay_in_float32_under_guidance(folder, dtype):
    pipeline = FlowNRGPipeline.from_pretrained(folder / "base", dtype=getattr(torch, dtype))
    pipeline.pipeline.set_progress_bar_config(disable=True)
    reward = load_latent_reward(folder / "own", pipeline.model, folder_digest(folder / "base"))
    noise = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    settings = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 3.0}
    settings |= {"latents": noise, "max_sequence_length": 16, "output_type": "latent", "return_dict": False}
    guided = pipeline("a red circle", reward=reward, nrg=GUIDANCE["nrg"], **settings)[0]
    assert guided.dtype == torch.float32 and guided.isfinite().all()


def test_generate_takes_the_dtype_of_params(folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    params = load_params()
    sampling = params.sampling.model_copy(update={"steps": 1, "height": 16, "width": 16, "frames": 5})
    generator = params.base_generator.model_copy(update={"dtype": "bfloat16"})
    changed = params.model_copy(update={"sampling": sampling, "base_generator": generator})
    (tmp_path / "params.yaml").write_text(changed.model_dump_json())
    monkeypatch.chdir(tmp_path)
    generator_once.cache_clear()
    words = ["--generator", str(folder / "base"), "--latent-reward", str(folder / "own"), "--guide", "TA=1"]
    said = CliRunner().invoke(app, ["generate", "--prompt", "a red circle", *words], catch_exceptions=False)
    assert said.exit_code == 0 and list(tmp_path.glob("generated/*.mp4"))
    before = generator_once.cache_info().misses
    assert generator_once(SamplerSpec(str(folder / "base"), None, "bfloat16")).model is not None
    assert generator_once.cache_info().misses == before, "it was loaded in bfloat16"


def test_the_vae_is_in_float32_whatever_the_dtype(folder):
    assert {p.dtype for p in load_generator(folder / "base", dtype="bfloat16").vae.parameters()} == {torch.float32}
