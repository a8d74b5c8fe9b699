"""Wan 2.2 TI2V-5B, text to video: the pipeline's timestep of each token is one number here."""

import math
from functools import partial

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

from components.alignment.lora import adapters_off, add_lora, save_lora
from components.alignment.methods.flow_dpo import flow_dpo_loss
from components.alignment.reference import make_grid, pair_errors, reference_errors
from components.config.params import LoraParams, TimestepParams
from components.generator.conditioning import Conditioning
from components.generator.folder import load_generator, load_transformer
from components.generator.sampler import Job, noise_of, solve
from tests.alignment.test_align import disturb, pairs_of
from tests.generator.experts import pipeline_latents
from tests.generator.small import conditioning, tiny_generator

PROMPTS = ["a blue circle moving down", "a red circle"]
LORA = LoraParams(rank=2, alpha=4, targets=["to_q", "to_v"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, parts = tmp_path_factory.mktemp("ti2v") / "generator", tiny_generator()
    parts.text.tokenizer.model_max_length = 512
    WanPipeline(
        tokenizer=parts.text.tokenizer,
        text_encoder=parts.text.model,
        vae=parts.vae,
        transformer=parts.model.transformer,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
        expand_timesteps=True,
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipeline(folder):
    return WanPipeline.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def drawn(bare_stage):
    """Latents that we draw with a LoRA."""
    small = {"solver": "folder", "steps": 4, "shift": None, "height": 16, "width": 16, "frames": 5, "batch_size": 2}
    sampling = bare_stage.params.sampling.model_copy(update=small | {"guidance_scale": 5.0})
    jobs = [Job(str(n), prompt, n) for n, prompt in enumerate(PROMPTS)]
    return lambda folder, lora=None: solve(load_generator(folder, lora), jobs, sampling)


def noise() -> torch.Tensor:
    return torch.stack([noise_of(n, (4, 3, 4, 4)) for n in range(2)])


def test_velocities_and_clips_are_the_pipelines(folder, pipeline, drawn):
    told = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda _, given, named: told.append(named), with_kwargs=True)
    wanted = pipeline_latents(pipeline, PROMPTS, noise(), 5.0)
    hook.remove()
    assert told[0]["timestep"].shape == (2, 3 * 2 * 2), "a timestep for each token"
    torch.testing.assert_close(drawn(folder), wanted, rtol=0, atol=1e-5)
    model, first = load_transformer(folder), told[0]
    with torch.no_grad():
        theirs = pipeline.transformer(**first)[0]
        ours = model(
            first["hidden_states"], first["timestep"][:, 0] / 1000, Conditioning({"text": first["encoder_hidden_states"]})
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_trained_lora_draws_the_same_clip_in_the_pipeline(folder, pipeline, drawn, tmp_path):
    model = load_transformer(folder)
    add_lora(model, LORA, seed=1)
    disturb(model)
    save_lora(model, tmp_path)
    pipeline.load_lora_weights(tmp_path)
    try:
        wanted = pipeline_latents(pipeline, PROMPTS, noise(), 5.0)
    finally:
        pipeline.unload_lora_weights()
    torch.testing.assert_close(drawn(folder, tmp_path), wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(wanted, drawn(folder), atol=1e-2)


def test_flow_dpo_starts_at_log_two_and_its_cached_reference_is_the_live_one(folder, bare_stage, tmp_path):
    pairs = pairs_of(tmp_path, torch.randn(12, 4, 3, 4, 4), conditioning(5, 16, 16))
    grid = make_grid(6, 2, TimestepParams(distribution="uniform", shift=1.0), seed=2)
    model, params = load_transformer(folder), bare_stage.params.align.dpo
    add_lora(model, LORA, seed=1)
    errors = partial(pair_errors, model, pairs, list(range(6)), [0, 1] * 3, grid, params.reduction)
    cells = list(range(6)), [0, 1] * 3
    table = reference_errors(bare_stage, model, pairs, grid, params.reduction, {"base": "x"}, tmp_path / "cache")
    with torch.no_grad(), adapters_off(model):
        live = errors()
    for side in range(2):
        torch.testing.assert_close(table[(side, *cells)], live[side], rtol=1e-5, atol=0)
    assert flow_dpo_loss(*errors(), *live, grid.t[cells], params)[0].item() == pytest.approx(math.log(2), abs=1e-6)
