"""What we publish draws in diffusers the clips that our sampler draws, from the same noise."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMapEulerDiscreteScheduler, WanPipeline

from components.alignment.lora import add_lora, save_lora
from components.config.params import LoraParams, load_params
from components.config.pretrain import load_pretrain_params
from components.generator.families.wan_card import write_card
from components.generator.families.wan_small import save_generator
from components.generator.family import Generator
from components.generator.folder import load_generator, load_transformer
from components.generator.integration import timesteps
from components.generator.sampler import Job, noise_of, solve
from tests.generator.small import SHAPE, tiny_generator

PUBLISHED = Path("pretrained/generator")
PROMPTS = ["a blue circle moving down", "a red circle"]
SAMPLING = load_params(Path("infra/profiles/shapes.yaml")).sampling
SMALL = SAMPLING.model_copy(update={"steps": 4, "height": 16, "width": 16, "frames": 5})
SETTINGS = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 4, "guidance_scale": SMALL.guidance_scale}
ROUNDING = 0.51 / 255  # of our pixels; the pipeline gives floats


def ours(generator: Generator, prompts: list[str], sampling=SMALL) -> np.ndarray:
    jobs = [Job(str(n), prompt, n) for n, prompt in enumerate(prompts)]
    return generator.decode(solve(generator, jobs, sampling)) / 255


def noise(generator: Generator, count: int, frames: int = 5, size: int = 16) -> torch.Tensor:
    return torch.stack([noise_of(n, generator.latent_shape(frames, size, size)) for n in range(count)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "generator"
    save_generator(tiny_generator(), path, SMALL.shift)
    write_card(path, SHAPE.text_tokens, SMALL)
    return path


def own_pipeline(folder: Path) -> WanPipeline:
    return DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=str(folder), trust_remote_code=True, dtype=torch.float32
    )


@pytest.mark.parametrize(("steps", "shift"), [(1, 3.0), (8, 3.0), (50, 5.0), (30, 1.0)])
def test_the_scheduler_takes_our_steps(steps, shift):
    scheduler = FlowMapEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    assert scheduler.sigmas.tolist() == pytest.approx(timesteps(steps, shift), abs=1e-12)


def test_the_folders_pipeline_draws_our_clips_by_default(folder):
    generator, pipeline = load_generator(folder), own_pipeline(folder)
    drawn = ours(generator, PROMPTS)
    latents = noise(generator, 2)
    assert np.abs(pipeline(PROMPTS, latents=latents, **SETTINGS).frames - drawn).max() < ROUNDING
    plain = WanPipeline(**pipeline.components)
    assert np.abs(plain(PROMPTS, latents=latents, max_sequence_length=16, **SETTINGS).frames - drawn).max() < ROUNDING
    assert np.abs(plain(PROMPTS, latents=latents, **SETTINGS).frames - drawn).max() > 3 * ROUNDING, "512 tokens of text"


def test_a_lora_on_top_of_it(folder, tmp_path):
    transformer = load_transformer(folder)
    add_lora(transformer, LoraParams(rank=4, alpha=8, targets=["to_q", "to_v"]), seed=3)
    for name, weight in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(1))
    save_lora(transformer, tmp_path)
    generator, pipeline = load_generator(folder, tmp_path), own_pipeline(folder)
    drawn, latents = ours(generator, PROMPTS), noise(generator, 2)
    base = pipeline(PROMPTS, latents=latents, **SETTINGS).frames
    pipeline.load_lora_weights(tmp_path)
    assert np.abs(pipeline(PROMPTS, latents=latents, **SETTINGS).frames - drawn).max() < ROUNDING
    assert np.abs(base - drawn).max() > 10 * ROUNDING


def test_a_generator_of_512_tokens_needs_nothing(monkeypatch, tmp_path):
    """Wan's own folders: a scheduler of ours in the pipeline is all that it takes, whatever theirs is."""
    monkeypatch.setattr("tests.generator.small.SHAPE", SHAPE.model_copy(update={"text_tokens": 512}))
    save_generator(tiny_generator(), tmp_path, SMALL.shift)
    generator = load_generator(tmp_path)
    pipeline = WanPipeline.from_pretrained(tmp_path, dtype=torch.float32)
    clips = pipeline(PROMPTS, latents=noise(generator, 2), **SETTINGS).frames
    assert np.abs(clips - ours(generator, PROMPTS)).max() < ROUNDING


@pytest.mark.parametrize("prompt", ["a  red\tcircle ", "a red &amp; blue circle", "a circle’s “red”", "a &lt;red circle\n"])
def test_prompts_are_cleaned_as_the_pipeline_cleans_them(folder, prompt):
    generator, pipeline = load_generator(folder), own_pipeline(folder)
    text, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    torch.testing.assert_close(generator.encode_text([prompt]).tensors["text"], text)


def test_the_published_generator_is_what_its_stage_writes(tmp_path):
    shape = load_pretrain_params().generator.shape
    write_card(tmp_path, shape.text_tokens, SAMPLING)
    for name in ("README.md", "pipeline.py"):
        assert (tmp_path / name).read_text() == (PUBLISHED / name).read_text()
    scheduler = json.loads((PUBLISHED / "scheduler/scheduler_config.json").read_text())
    assert (scheduler["_class_name"], scheduler["shift"]) == ("FlowMapEulerDiscreteScheduler", SAMPLING.shift)
    assert json.loads((PUBLISHED / "model_index.json").read_text())["scheduler"] == ["diffusers", scheduler["_class_name"]]


def test_the_cards_lines_draw_our_clip():
    """As they stand, on the demo's own generator; the noise alone is given, to compare."""
    card = (PUBLISHED / "README.md").read_text()
    codes = re.findall(r"```python\n(.*?)```", card, re.S)
    generator = load_generator(PUBLISHED)
    sampling = SAMPLING.model_copy(update={"batch_size": 1})
    drawn = ours(generator, ["a red circle moving up"], sampling)[0]
    assert len(codes) == 2
    for code in codes:
        names = {"noise": noise(generator, 1, sampling.frames, sampling.height)}
        code = code.replace("models/base_generator", str(PUBLISHED)).replace("**size", "latents=noise, **size")
        exec(code, names)
        assert np.abs(names["clip"] - drawn).max() < 3 * ROUNDING  # the text encoder is loaded in half precision
