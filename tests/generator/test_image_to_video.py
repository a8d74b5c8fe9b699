"""Clips from a first frame: Wan 2.1 with CLIP, Wan 2.2 A14B and TI2V-5B draw what diffusers' pipelines draw."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from components.alignment.data import Pairs, load_candidates
from components.alignment.flow import flow_errors
from components.alignment.lora import add_lora, save_lora
from components.alignment.methods.flow_dpo import pair_loss
from components.alignment.regression import regression
from components.config.params import LoraParams
from components.errors import BadInput
from components.files.digests import file_digest
from components.files.tables import read_table
from components.generator.folder import check_folder, load_generator, load_transformer
from components.generator.images import image_conditioning
from components.generator.sampler import Job, noise_of, solve
from components.generator.spec import generator_once
from components.guidance.latent_reward import LatentReward
from components.pipeline.stage import folder_digest
from components.preferences.first_frames import FirstFrame, write_prompts_with_images
from tests.alignment.drawn import draw_base_candidates
from tests.generator.small import tiny_generator

PROMPTS = ["a blue circle moving down", "a red circle"]
KINDS = ("wan2.1", "a14b", "ti2v-5b")
LORA = LoraParams(rank=2, alpha=4, targets=["to_q", "to_k", "to_v"])


def transformer(seed: int, channels: int, **more) -> WanTransformer3DModel:
    torch.manual_seed(seed)
    made = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=4,
        text_dim=16,
        freq_dim=64,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
        **more,
    )
    torch.nn.init.normal_(made.proj_out.weight, std=0.1)
    return made


def save(folder, kind: str) -> None:
    text = tiny_generator()
    text.text.tokenizer.model_max_length = 512
    parts: dict = {"transformer": transformer(1, 4 if kind == "ti2v-5b" else 2 + 4 + 4), "transformer_2": None}
    settings: dict = {"expand_timesteps": kind == "ti2v-5b"}
    if kind == "a14b":
        parts["transformer_2"] = transformer(2, 10)
        settings["boundary_ratio"] = 0.8
    if kind == "wan2.1":
        parts["transformer"] = transformer(1, 10, image_dim=16, added_kv_proj_dim=24)
        config = CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=14, patch_size=7
        )
        parts["image_encoder"] = CLIPVisionModel(config)
        parts["image_processor"] = CLIPImageProcessor(size={"shortest_edge": 14}, crop_size={"height": 14, "width": 14})
    WanImageToVideoPipeline(
        tokenizer=text.text.tokenizer,
        text_encoder=text.text.model,
        vae=text.vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        **parts,
        **settings,
    ).save_pretrained(folder)


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "generator"
    save(path, request.param)
    return path


@pytest.fixture(scope="module")
def pipeline(folder):
    return WanImageToVideoPipeline.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two pictures of another size than the clip's."""
    path = tmp_path_factory.mktemp("images")
    for n in range(2):
        pixels = np.random.default_rng(n).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{n}.png")
    return [str(path / f"{n}.png") for n in range(2)]


@pytest.fixture
def sampling(bare_stage):
    small = {"solver": "folder", "steps": 4, "shift": None, "height": 16, "width": 16, "frames": 5, "batch_size": 2}
    return bare_stage.params.sampling.model_copy(update=small | {"guidance_scale": 4.0})


def jobs(files) -> list[Job]:
    return [Job(str(n), prompt, n, image=file) for n, (prompt, file) in enumerate(zip(PROMPTS, files, strict=True))]


def theirs(pipeline, files) -> torch.Tensor:
    """One clip at a time: the pipeline takes one image a call."""
    size = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 4, "guidance_scale": 4.0}
    found = []
    for n, (file, prompt) in enumerate(zip(files, PROMPTS, strict=True)):
        image, noise = Image.open(file).convert("RGB"), noise_of(n, (4, 3, 4, 4))[None]
        found.append(pipeline(image, prompt, latents=noise, output_type="latent", **size).frames)
    return torch.cat(found)


def test_clips_are_the_pipelines(folder, pipeline, files, sampling):
    generator = load_generator(folder)
    wanted = theirs(pipeline, files)
    torch.testing.assert_close(solve(generator, jobs(files), sampling), wanted, rtol=0, atol=1e-5)
    other = theirs(pipeline, files[::-1])
    assert not torch.allclose(other, wanted, atol=1e-2)


def test_an_image_is_encoded_once(folder, files, sampling, tmp_path, monkeypatch):
    generator, calls = load_generator(folder).keeping(tmp_path / "images"), []
    encode = AutoencoderKLWan.encode
    monkeypatch.setattr(AutoencoderKLWan, "encode", lambda self, x: calls.append(1) or encode(self, x))
    first = image_conditioning(generator, [files[0], files[1], files[0]], sampling)
    again = image_conditioning(generator, [files[0], files[1], files[0]], sampling)
    assert len(calls) == 2 and len(list((tmp_path / "images").iterdir())) == 2
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, again.tensors[name]) and not torch.equal(tensor[0], tensor[1])
    (tmp_path / "images" / next((tmp_path / "images").iterdir())).write_bytes(b"cut")
    third = image_conditioning(generator, [files[0], files[1], files[0]], sampling)
    assert len(calls) == 3 and all(torch.equal(tensor, third.tensors[name]) for name, tensor in first.tensors.items())


def test_images_that_cannot_be_used_are_named(folder, files, sampling, tmp_path):
    generator = load_generator(folder)
    (tmp_path / "text.png").write_text("no image")
    for given, said in (
        ([files[0], None], "draws from images: each prompt needs one"),
        ([str(tmp_path / "no.png")], r"no\.png, key 'image': no such image"),
        ([str(tmp_path / "text.png")], r"text\.png, key 'image': no image that can be read"),
    ):
        with pytest.raises(BadInput, match=said):
            image_conditioning(generator, given, sampling)
    plain = replace(generator, model=tiny_generator().model)
    with pytest.raises(BadInput, match="draws from text alone"):
        image_conditioning(plain, files, sampling)


def test_a_text_to_video_lora_is_widened_as_diffusers_does(folder, pipeline, files, sampling, tmp_path):
    """Layers of the image alone stay as they are."""
    text_to_video = tiny_generator().model
    add_lora(text_to_video, LORA, seed=1)
    for name, weight in text_to_video.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    save_lora(text_to_video, tmp_path)
    (tmp_path / "pytorch_lora_weights.safetensors").rename(tmp_path / "high_noise.safetensors")
    lora = tmp_path if pipeline.config.boundary_ratio else tmp_path / "high_noise.safetensors"
    before = theirs(pipeline, files)
    pipeline.load_lora_weights(tmp_path, weight_name="high_noise.safetensors")
    try:
        wanted = theirs(pipeline, files)
    finally:
        pipeline.unload_lora_weights()
    torch.testing.assert_close(solve(load_generator(folder, lora), jobs(files), sampling), wanted, rtol=0, atol=1e-5)
    assert not torch.allclose(wanted, before, atol=1e-2)


def test_a_known_first_frame_has_no_part_in_a_loss(folder, files, sampling):
    generator, model = load_generator(folder), load_transformer(folder)
    text = generator.encode_text(PROMPTS)
    text = image_conditioning(generator, files, sampling).over(text)
    x0, x1, t = torch.randn(2, 4, 3, 4, 4), torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.9])
    first = text.tensors.get("image_first")
    if first is not None:
        x0[:, :, :1] = first
        velocity = model((1 - t.view(-1, 1, 1, 1, 1)) * x0 + t.view(-1, 1, 1, 1, 1) * x1, t, text)
        torch.testing.assert_close(velocity[:, :, :1], (x1 - x0)[:, :, :1], rtol=0, atol=1e-5)
    errors = flow_errors(model, x0, x1, t, text, "mean")
    assert errors.isfinite().all() and (errors > 0).all()


def test_a_latent_reward_reads_the_same_tokens(folder, files, sampling):
    """Its trunk's tokens are those of the transformer's block."""
    generator, model = load_generator(folder), load_transformer(folder)
    text = image_conditioning(generator, files, sampling).over(generator.encode_text(PROMPTS))
    x, t = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.5])
    part, seen = list(model.networks.values())[-1], []
    hook = part.blocks[0].register_forward_hook(lambda module, given, out: seen.append(out))
    trunk = model.family.load_trunk_of(folder, "low_noise" if model.boundary else "high_noise", 1, "float32")
    with torch.no_grad():
        model(x, t, text)
        hook.remove()
        torch.testing.assert_close(model.family.tokens(trunk, x, t, text), seen[0], rtol=0, atol=1e-6)
        assert LatentReward(model.family, trunk, ["TA"])(x, t, text).isfinite().all()
    assert math.isfinite(float(seen[0].sum()))


def test_channels_that_do_not_fit_the_pipeline_are_named(folder, tmp_path):
    own = shutil.copytree(folder, tmp_path / "generator")
    for part in ("transformer", "transformer_2"):
        file = own / part / "config.json"
        if file.exists():
            file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 7}))
    with pytest.raises(BadInput, match=r"key 'in_channels': 7, a WanImageToVideoPipeline has (10|4): a text-to-video model"):
        check_folder(own)


def test_candidates_keep_what_training_needs_of_the_image(folder, files, sampling, bare_stage, tmp_path, monkeypatch):
    """Clips are drawn from each prompt's image, a row of the conditioning has it, and Flow-DPO starts at log 2."""
    monkeypatch.chdir(tmp_path)
    generator_once.cache_clear()
    Path("models").mkdir()
    Path("models/base_generator").symlink_to(folder)
    Path("data/source").mkdir(parents=True)
    prompts = [f"a red circle number {n}" for n in range(40)]
    images = {prompt: FirstFrame(files[n % 2], file_digest(Path(files[n % 2]))) for n, prompt in enumerate(prompts)}
    shutil.copytree(Path(files[0]).parent, "images")
    images = {prompt: replace(own, path=f"images/{Path(own.path).name}") for prompt, own in images.items()}
    write_prompts_with_images(Path("data/source/prompts.csv"), prompts, images)
    params = bare_stage.params
    counts = params.candidates.model_copy(update={"prompts": 4, "per_prompt": 2})
    align = params.align.model_copy(update={"draws": 2, "reference": "live", "lora": LORA})
    bare_stage.params = params.model_copy(update={"sampling": sampling, "candidates": counts, "align": align})
    candidates = load_candidates(folder_digest("models/base_generator"), draw_base_candidates(bare_stage))
    generator = load_generator(folder)
    shown = candidates.table[:2].itertuples()
    own = [Job(row.candidate_id, row.prompt, row.seed, image=images[row.prompt].path) for row in shown]
    assert torch.equal(candidates.latents[range(2)], solve(generator, own, sampling))
    wanted = image_conditioning(generator, [job.image for job in own], sampling)
    for name, tensor in wanted.tensors.items():
        assert torch.equal(candidates.text(range(2)).tensors[name], tensor)
    assert list(candidates.empty_text().tensors) == ["text"]
    assert read_table("data/candidates/candidates.parquet")[0]["image"] == own[0].image

    table = pd.DataFrame({"prompt": candidates.table.prompt.iloc[::2].to_numpy()})
    chosen = np.arange(0, 8, 2)
    pairs = Pairs(candidates, chosen, chosen + 1, torch.ones(4), torch.zeros(4, dtype=torch.bool), table)
    model = load_transformer(folder)
    add_lora(model, LORA, seed=1)
    loss_of = pair_loss(bare_stage, model, pairs, align.dpo, {"base": "x"}, Path("cache"), None)
    loss, _ = loss_of(model, [0, 1, 2, 3], [0, 1, 0, 1])
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    dropped = regression(candidates, np.arange(4), align.sft, align.timesteps, lambda errors, _: errors.mean(), model.span)
    assert dropped(model, [0, 1, 2, 3], torch.Generator().manual_seed(1))[0].isfinite()
