"""Prompts are encoded before sampling, by an encoder that is gone when the transformer is read; clips are the same."""

import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import UMT5EncoderModel

from components.config.params import load_params
from components.config.types import Decoding
from components.errors import BadInput
from components.generator.families.wan import Wan
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.prompts import PROMPTS, TEXT, encode_ahead
from components.generator.sampler import Job, draw, solve
from components.generator.spec import SamplerSpec, generator_once
from components.guidance.best_of_n import several
from components.simulation.world import all_scenes, prompt_of
from tests.conftest import REPOSITORY
from tests.generator.small import tiny_generator

SHIPPED = str(REPOSITORY / "pretrained/generator")
JOBS = [Job(f"clip{n}", prompt_of(scene), n) for n, scene in enumerate(all_scenes()[:6])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("prompts")
    save_generator(tiny_generator(), path)
    return str(path)


@pytest.fixture(autouse=True)
def nothing_loaded():
    generator_once.cache_clear()


def sampling(**change):
    size = {"steps": 2, "height": 16, "width": 16, "frames": 5, "batch_size": 4}
    return load_params().sampling.model_copy(update=size | change)


def test_clips_of_the_defaults_are_those_of_a_generator_that_encodes_as_it_draws(bare_stage, tmp_path):
    """Bit for bit, for the demo's generator and settings; best of N reads each prompt's row N times."""
    own = load_params(REPOSITORY / "infra/profiles/shapes.yaml").sampling.model_copy(update={"batch_size": 4})
    whole = load_generator(SHIPPED)
    drawn = draw(bare_stage, SamplerSpec(SHIPPED), JOBS, own, tmp_path / "clips")
    for jobs, latents in zip((JOBS[:4], JOBS[4:]), drawn, strict=True):
        assert torch.equal(latents, solve(whole, jobs, own))
    many = [job.prompt for job in several(JOBS, 4)]
    encoded = encode_ahead(tmp_path / "text", SamplerSpec(SHIPPED), many)
    assert torch.equal(encoded(many).tensors["text"], whole.encode_text(many).tensors["text"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_text_encoder_is_in_memory_when_the_transformer_is_read(folder, dtype, bare_stage, tmp_path, monkeypatch):
    seen, load = [], Wan.load

    def watched(*arguments):
        seen.append([thing for thing in gc.get_objects() if isinstance(thing, UMT5EncoderModel)])
        return load(*arguments)

    before = [thing for thing in gc.get_objects() if isinstance(thing, UMT5EncoderModel)]
    monkeypatch.setattr(Wan, "load", watched)
    (latents,) = draw(bare_stage, SamplerSpec(folder, dtype=dtype), JOBS[:2], sampling(), tmp_path / "clips")
    assert latents.isfinite().all() and [len(found) for found in seen] == [len(before)]
    whole = load_generator(folder, dtype=dtype)
    assert torch.equal(latents, solve(whole, JOBS[:2], sampling()))


def test_a_killed_run_keeps_what_is_encoded(folder, tmp_path):
    class Once(SamplerSpec):
        def text_encoder(self):
            raise AssertionError("encoded again")

    spec, place = SamplerSpec(folder), tmp_path / TEXT
    prompts = ["a red circle", "a blue circle moving up", "", "a red circle"]
    encode_ahead(place, spec, prompts)
    assert json.loads((place / PROMPTS).read_text()) == ["a red circle", "a blue circle moving up", ""]
    encoded = encode_ahead(place, Once(folder), ["", "a red circle"])
    assert torch.equal(encoded([""]).tensors["text"], load_generator(folder).encode_text([""]).tensors["text"])
    with pytest.raises(AssertionError, match="encoded again"):
        encode_ahead(place, Once(folder), ["another"])


def test_a_broken_encoder_is_named_before_anything_is_drawn(folder, bare_stage, tmp_path, monkeypatch):
    def broken(*_):
        raise BadInput("text_encoder", "is all zero")

    monkeypatch.setattr(Wan, "load_text", broken)
    monkeypatch.setattr(Wan, "load", None)
    with pytest.raises(BadInput, match="all zero"):
        draw(bare_stage, SamplerSpec(folder), JOBS, sampling(), tmp_path / "clips")
    assert not list(tmp_path.rglob("*.mp4")) and not list(tmp_path.rglob(PROMPTS))


@torch.no_grad()
def test_ways_of_decoding(four_threads):
    """Clip by clip is the whole batch but for rounding. Tiles of 4 x 4 latents, half a clip's side, change clips of the
    demo's VAE by about its own error, 6 of 255 levels on average: measured in docs/how-to/generate-and-guide.md."""
    generator, own = load_generator(SHIPPED), load_params(REPOSITORY / "infra/profiles/shapes.yaml").sampling
    latents = solve(generator, JOBS, own)
    whole = generator.decode(latents).astype(int)
    assert np.array_equal(whole, generator.decode(latents, Decoding("whole", 16))), "the default"
    sliced, large, tiled = (
        generator.decode(latents, Decoding(*way)).astype(int) for way in (("sliced", 16), ("tiled", 256), ("tiled", 16))
    )
    assert np.abs(sliced - whole).max() <= 1 and np.array_equal(large, sliced), "one tile is the clip"
    assert sliced.shape == tiled.shape == (6, 9, 32, 32, 3)
    difference = np.abs(tiled - whole)
    assert 1 < difference.mean() < 10, "of 255 levels"
    assert difference[..., :8, :8, :].mean() < difference.mean(), "least far from the seams"


def test_params_choose_the_decoding(folder, bare_stage, tmp_path, monkeypatch):
    seen = []
    decode = type(tiny_generator()).decode
    monkeypatch.setattr(type(tiny_generator()), "decode", lambda self, x, way: seen.append(way) or decode(self, x, way))
    draw(bare_stage, SamplerSpec(folder), JOBS[:1], sampling(decode="tiled", tile=16), tmp_path / "clips")
    assert seen == [Decoding("tiled", 16)] and Path(tmp_path / "clips/clip0.mp4").exists()
