"""The generator: real diffusers classes, saved and read back, and our velocity and sampler equal to WanPipeline's."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file

from components.errors import BadInput, NonFinite
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.integration import euler, timesteps
from components.generator.sampler import ClassifierFree, Job, Loaded, draw, noise_of, solve
from components.runtime.microbatches import in_microbatches
from tests.generator.small import tiny_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("wan")
    save_generator(tiny_generator(), path)
    return path


@pytest.fixture(scope="module")
def generator(folder):
    return load_generator(folder)


def test_text_is_embedded_as_the_pipeline_does(folder, generator):
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    ours = generator.encode_text(["a red circle moving up", ""]).tensors["text"]
    theirs, empty = pipeline.encode_prompt("a red circle moving up", max_sequence_length=16)
    torch.testing.assert_close(ours[:1], theirs.float())
    torch.testing.assert_close(ours[1:], empty.float())


def test_our_sampler_gives_the_pipelines_clip(folder, generator):
    pipeline = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    noise = noise_of(5, generator.latent_shape(5, 16, 16))[None]
    clip = pipeline(
        "a blue circle moving down", height=16, width=16, num_frames=5, num_inference_steps=4, guidance_scale=3.0,
        latents=noise, max_sequence_length=16, output_type="np",
    ).frames  # fmt: skip
    text, empty = generator.encode_text(["a blue circle moving down"]), generator.encode_text([""])
    flow = ClassifierFree(generator.model, text, empty, 3.0)
    with torch.no_grad():
        ours = generator.decode(euler(flow, noise, pipeline.scheduler.sigmas.tolist()))
    assert np.abs(ours / 255 - clip).max() < 1.5 / 255


def test_latents_and_pixels(generator):
    clips = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), dtype=np.uint8)
    latents = generator.encode_video(clips)
    assert latents.shape == (2, *generator.latent_shape(5, 16, 16)) == (2, 4, 3, 4, 4)
    decoded = generator.decode(latents)
    assert decoded.shape == clips.shape and decoded.dtype == np.uint8


@pytest.mark.parametrize("size", [(4, 16, 16), (5, 12, 16), (5, 16, 20)])
def test_a_size_that_does_not_divide_is_named(generator, size):
    with pytest.raises(BadInput, match="multiples of 8"):
        generator.latent_shape(*size)


def test_a_folder_that_is_no_pipeline(tmp_path):
    with pytest.raises(BadInput, match=r"model_index\.json"):
        load_generator(tmp_path)


PARTS = {
    "transformer": "blocks.0.attn1.to_q.weight",
    "vae": "decoder.conv_in.weight",
    "text_encoder": "encoder.block.0.layer.0.SelfAttention.q.weight",
}
CHANGES = {
    "missing": lambda tensors, name: tensors.pop(name),
    "no such tensor": lambda tensors, name: tensors.update({"extra.weight": torch.ones(2)}),
    r"is \(7,\), not": lambda tensors, name: tensors.update({name: torch.ones(7)}),
    "not finite": lambda tensors, name: tensors[name].view(-1)[3:4].fill_(float("nan")),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("said", CHANGES)
def test_a_tensor_that_is_wrong_is_named_with_its_part(folder, tmp_path, part, said):
    """transformers and diffusers put random weights in the place of some of these, and the clips would be judged."""
    copied = shutil.copytree(folder, tmp_path / "generator")
    (file,) = (copied / part).glob("*.safetensors")
    tensors = load_file(file)
    CHANGES[said](tensors, PARTS[part])
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(BadInput, match=rf"generator/{part}, key '[^']+'.*: .*{said}"):
        load_generator(copied)


@pytest.mark.parametrize("part", PARTS)
def test_weights_that_are_cut_off_or_not_there(folder, tmp_path, part):
    copied = shutil.copytree(folder, tmp_path / "generator")
    (file,) = (copied / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(BadInput, match=rf"generator/{part}: no \w+ here"):
        load_generator(copied)
    file.unlink()
    with pytest.raises(BadInput, match=rf"generator/{part}: no \w+ here"):
        load_generator(copied)


def test_a_clip_that_is_not_finite_is_no_clip(generator, bare_stage, tmp_path):
    def diverges(generator, jobs, sampling):
        x = solve(generator, jobs, sampling)
        x[1, 0, 0, 0, 0] = torch.inf
        return x

    jobs = [Job(name, "a red circle moving up", seed) for seed, name in enumerate("abc")]
    sampling = bare_stage.params.sampling.model_copy(update={"steps": 2, "height": 16, "width": 16, "frames": 5})
    with pytest.raises(NonFinite, match=r"clip 2 of 3 drawn together is not finite$"):
        draw(bare_stage, Loaded(generator, diverges), jobs, sampling, tmp_path / "videos")
    assert not list(tmp_path.rglob("*.mp4"))


def test_timesteps():
    assert timesteps(4, 1.0) == [1.0, 0.75, 0.5, 0.25, 0.0]
    shifted = timesteps(4, 3.0)
    assert shifted[0] == 1 and shifted[-1] == 0 and shifted[2] == pytest.approx(0.75)


def test_euler_is_exact_on_a_straight_flow():
    x0, x1 = torch.randn(2, 1, 1, 1, 1), torch.randn(2, 1, 1, 1, 1)
    torch.testing.assert_close(euler(lambda x, t: x1 - x0, x1, timesteps(3, 3.0)), x0)


def small_sampling(stage, **change):
    return stage.params.sampling.model_copy(update={"steps": 2, "height": 16, "width": 16, "frames": 5} | change)


JOBS = [Job(f"clip{i}", prompt, 10 + i) for i, prompt in enumerate(["a red circle", "a blue circle", "a circle moving"])]


def test_a_clip_depends_on_its_own_seed_not_on_the_batch(generator, bare_stage, tmp_path):
    together = draw(bare_stage, Loaded(generator), JOBS, small_sampling(bare_stage), tmp_path / "a")
    bare_stage.folder = tmp_path / "other"
    alone = draw(bare_stage, Loaded(generator), JOBS[1:2], small_sampling(bare_stage), tmp_path / "b")
    torch.testing.assert_close(torch.cat(together)[1:2], torch.cat(alone))
    assert (tmp_path / "a/clip1.mp4").exists() and (tmp_path / "b/clip1.mp4").exists()


def test_drawing_goes_on_after_a_kill(generator, bare_stage, tmp_path, monkeypatch):
    sampling = small_sampling(bare_stage, batch_size=1)
    whole = draw(bare_stage, Loaded(generator), JOBS, sampling, tmp_path / "whole")
    bare_stage.folder = tmp_path / "killed"
    calls = []

    def solver(*batch):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return solve(*batch)

    with pytest.raises(KeyboardInterrupt):
        draw(bare_stage, Loaded(generator, solver), JOBS, sampling, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    again = draw(bare_stage, Loaded(generator, solver), JOBS, sampling, tmp_path / "again")
    assert len(calls) == 4 and torch.equal(torch.cat(whole), torch.cat(again))
    for job in JOBS:
        assert (tmp_path / f"again/{job.clip}.mp4").read_bytes() == (tmp_path / f"whole/{job.clip}.mp4").read_bytes()


def test_guidance_scale_one_is_the_plain_model(generator, bare_stage):
    sampling = small_sampling(bare_stage, guidance_scale=1.0)
    text = generator.encode_text([job.prompt for job in JOBS])
    plain = ClassifierFree(generator.model, text, generator.encode_text([""]), 1.0)
    noise = torch.stack([noise_of(job.seed, generator.latent_shape(5, 16, 16)) for job in JOBS])
    with torch.no_grad():
        torch.testing.assert_close(solve(generator, JOBS, sampling), euler(plain, noise, timesteps(2, 3.0)))


@torch.no_grad()
def test_parts_of_a_batch_share_nothing(generator, four_threads):
    """Coded, decoded and moved side by side, clips are those of one at a time: what the VAE remembers is each call's own."""
    latents = torch.randn(40, *generator.latent_shape(5, 16, 16), generator=torch.Generator().manual_seed(1))
    text = generator.encode_text([f"a {colour} circle" for colour in ("red", "blue") * 20])
    batch = latents, torch.linspace(0.1, 0.9, 40), text
    clips = np.concatenate([generator.decode(one) for one in latents.split(1)])
    coded = torch.cat([generator.encode_video(one) for one in np.split(clips, 40)])
    flow = torch.cat([generator.model(*one) for one in zip(*(x.split(1) for x in batch), strict=True)])
    for _ in range(5):
        assert np.abs(generator.decode(latents).astype(int) - clips).max() <= 1  # a rounding
        torch.testing.assert_close(generator.encode_video(clips), coded)
        torch.testing.assert_close(in_microbatches(generator.model, *batch), flow)
