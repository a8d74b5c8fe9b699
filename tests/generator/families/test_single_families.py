"""What single families have beside the contract: refused folders and settings, positions, a VAE with a noise level."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from components.alignment.lora import add_lora
from components.alignment.methods.flow_grpo import guided
from components.config.params import LoraParams
from components.config.types import Decoding
from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.families.hunyuan import Hunyuan
from components.generator.families.ltx import LTX, coder, positions
from components.generator.families.ltx2 import LTX2, sound_tokens
from components.generator.families.mochi import Mochi
from components.generator.folder import check_folder, load_generator, load_transformer
from components.generator.sampler import Job, beginning
from tests.generator.families.small_folders import SMALL, build_ltx2, ltx_vae

LATENTS = (8, 3, 4, 4)


@pytest.fixture(scope="module", params=["LTXPipeline", "MochiPipeline"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("folders") / request.param
    SMALL[request.param].build(path)
    return path


def changed(folder, to, part: str, **values):
    copied = shutil.copytree(folder, to / "copy")
    file = copied / part
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return copied


def test_a_scheduler_of_the_other_direction(folder, tmp_path):
    """The pipeline would draw noise without an error."""
    wrong = folder.name != "MochiPipeline"
    copied = changed(folder, tmp_path, "scheduler/scheduler_config.json", invert_sigmas=wrong)
    with pytest.raises(BadInput, match=rf"key 'invert_sigmas': must be {str(not wrong).lower()} for this pipeline"):
        check_folder(copied)


def test_parts_of_two_models(folder, tmp_path):
    copied = changed(folder, tmp_path, "transformer/config.json", in_channels=99)
    with pytest.raises(BadInput, match=r"key 'in_channels': is 99, and vae's latent_channels is \d+: parts of two models"):
        check_folder(copied)


def test_a_number_of_steps_that_the_pipeline_cannot_take():
    ending = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    reversed_one = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    for family, scheduler in ((LTX(), ending), (Mochi(), reversed_one)):
        with pytest.raises(BadInput, match=r"key 'sampling\.steps'"):
            family.set_timesteps(scheduler, 1, LATENTS)
        family.set_timesteps(scheduler, 2, LATENTS)
        assert scheduler.sigmas.isfinite().all()


def test_a_shift_of_params_replaces_the_dynamic_one():
    from components.generator.integration import flow_scheduler

    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "shift_terminal": None}
    scheduler = flow_scheduler(config, 5.0)
    LTX().set_timesteps(scheduler, 4, LATENTS)
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 0.9375, 0.8333, 0.625, 0.0], abs=1e-4)


def test_positions_are_seconds_and_pixels_by_row():
    told = Conditioning({"scale": torch.tensor([[8.0, 32.0], [4.0, 16.0]]), "fps": torch.tensor([25.0, 8.0])})
    seconds, height, width = (value.flatten().tolist() for value in positions(told))
    assert seconds == pytest.approx([0.32, 0.5]) and height == width == [32.0, 16.0]


def test_a_negative_prompt_of_an_embedded_guidance_is_refused(bare_stage):
    text = Conditioning({"text": torch.zeros(1, 2, 3)})
    model = SimpleNamespace(family=Hunyuan(), device="cpu")
    generator = SimpleNamespace(model=model, latent_shape=lambda *_: LATENTS, encode_text=lambda prompts: text)
    sampling = bare_stage.params.sampling.model_copy(update={"negative_prompt": "", "guidance_scale": 6.0})
    flow, _ = beginning(generator, [Job("a", "a red circle", 1)], sampling)
    assert flow.scale == 1 and flow.text.tensors["guidance_scale"].tolist() == [6.0]
    with pytest.raises(BadInput, match=re.escape("key 'sampling.negative_prompt': has no effect")):
        beginning(generator, [Job("a", "a red circle", 1)], sampling.model_copy(update={"negative_prompt": "blurry"}))


def test_numbers_of_sampling_reach_the_pass_without_a_prompt_in_online_methods():
    told = Conditioning({"text": torch.ones(2, 1), "fps": torch.tensor([8.0, 25.0])})

    def model(x: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return conditioning.tensors["fps"][:, None] * (1 + conditioning.tensors["text"])

    empty = Conditioning({"text": torch.zeros(1, 1)})
    velocity = guided(model, torch.zeros(2, 1), torch.tensor([0.3, 0.8]), told, empty, 3.0)
    assert velocity.flatten().tolist() == [4 * 8.0, 4 * 25.0]


@torch.no_grad()
def test_a_vae_with_a_noise_level_decodes_at_level_zero():
    vae = ltx_vae(timestep_conditioning=True).eval()
    latents = torch.randn(2, 8, 2, 2, 2, generator=torch.Generator().manual_seed(1))
    mean, std = (value.view(1, -1, 1, 1, 1) for value in (vae.latents_mean, vae.latents_std / vae.config.scaling_factor))
    theirs = vae.decode(latents * std + mean, torch.zeros(2)).sample
    torch.testing.assert_close(coder(vae).decode(latents), theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(vae.decode(latents * std + mean, torch.ones(2)).sample, theirs, atol=1e-4)


@pytest.fixture(scope="module")
def ltx2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ltx2") / "generator"
    build_ltx2(folder, padding="reflect")
    return folder


def test_sound_is_drawn_and_gets_no_gradient(ltx2):
    model = LTX2().load_transformer(ltx2, "float32").requires_grad_(True)
    channels, fps = model.config.in_channels, torch.tensor([8.0])
    assert sound_tokens(model.config, 5, 8.0) == 28  # 9 frames are 1.125 s of 25 tokens
    text = torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(0))
    told = Conditioning({"text": text, "text_sound": text, "mask": torch.ones(1, 32, dtype=torch.bool), "fps": fps})
    x = torch.randn(1, channels + 1, 5, 4, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    velocity = LTX2().velocity(model, x, torch.tensor([0.5]), told)
    assert velocity.shape == x.shape and velocity[:, channels:].flatten()[: 28 * 4].abs().min() > 0
    assert not velocity[:, channels:].flatten()[28 * 4 :].any(), "nothing moves where no sound is"
    assert not torch.autograd.grad(velocity[:, channels:].sum(), x, retain_graph=True)[0].any()
    assert not torch.autograd.grad(velocity[:, :channels].sum(), x)[0][:, channels:].any()
    louder = torch.cat([x[:, :channels], 2 * x[:, channels:]], dim=1)
    with torch.no_grad():
        assert not torch.equal(
            LTX2().velocity(model, louder, torch.tensor([0.5]), told)[:, :channels], velocity[:, :channels]
        )
    with pytest.raises(BadInput, match=r"key 'sampling\.fps': this family draws 8 frames a second or more"):
        LTX2().velocity(model, x, torch.tensor([0.5]), Conditioning({**told.tensors, "fps": fps / 2}))


def test_a_lora_of_the_usual_layers_has_the_video_alone(ltx2):
    model = load_transformer(ltx2)
    add_lora(model, LoraParams(rank=2, alpha=4, targets=list(LTX2.lora_targets)), seed=1)
    adapted = {name.split(".lora_")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(adapted) == 2 * 8 and not any("audio" in name for name in adapted)


def test_a_last_tile_of_one_latent_is_refused(ltx2):
    generator = load_generator(ltx2)
    latents = torch.zeros(1, 9, 5, 4, 8)
    with pytest.raises(BadInput, match=r"key 'sampling\.tile': tiles of 32 pixels leave a last one of 8"):
        generator.decode(latents, Decoding(decode="tiled", tile=32))
    assert generator.decode(latents, Decoding(decode="tiled", tile=64)).shape == (1, 9, 32, 64, 3)
