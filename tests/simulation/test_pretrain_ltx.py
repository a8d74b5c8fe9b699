"""The small LTX-Video generator of profile shapes-ltx: its folder is on record, draws as its pipeline does, began as Wan."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LTXPipeline

from components.config.params import load_params
from components.config.pretrain import LtxShape, load_ltx_params
from components.generator.families.ltx import LTX
from components.generator.families.ltx_small import folded, rotations, small_ltx
from components.generator.families.wan import Wan
from components.generator.families.wan_small import text_of
from components.generator.folder import check_folder, load_generator
from components.generator.sampler import Job, solve
from components.pipeline.stage import folder_digest
from components.simulation.pretrain_ltx import TEACHER

PARAMS = load_params(Path("infra/profiles/shapes-ltx.yaml"))
FOLDER = Path(PARAMS.base_generator.folder)
PROMPT = "a red circle moving up"


@pytest.fixture(scope="module")
def begun():
    """The Wan generator, and an LTX generator that begins with its weights."""
    wan = Wan().load(TEACHER, None, "float32").with_text(Wan().load_text(TEACHER, "float32"))
    return wan, small_ltx(wan, LtxShape(encoder=8, decoder=8), [1.0] * wan.model.transformer.config.num_layers)


def test_the_profile_names_the_digest_of_its_generator():
    assert isinstance(check_folder(FOLDER), LTX)
    assert folder_digest(FOLDER) == PARAMS.base_generator.digest
    assert load_ltx_params().shape.decoder > 0
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 4_000_000


def test_the_profile_is_shapes_but_for_its_generator():
    shapes = load_params(Path("infra/profiles/shapes.yaml"))
    for section in ("split", "world", "source", "limits", "measure", "curate", "sampling", "reward", "judge_reward"):
        assert getattr(PARAMS, section) == getattr(shapes, section), "stages before the candidates are those of shapes"


def test_its_clips_are_its_pipelines():
    generator, pipeline = load_generator(FOLDER), LTXPipeline.from_pretrained(FOLDER, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    sampling = PARAMS.sampling
    x0 = solve(generator, [Job("a", PROMPT, 1)], sampling)
    ours = generator.decode(x0)[0] / 255
    noise = torch.randn(
        generator.latent_shape(sampling.frames, sampling.height, sampling.width), generator=torch.Generator().manual_seed(1)
    )
    pack, _ = LTX().pipeline_layout(pipeline, sampling.height, sampling.width, sampling.frames)
    size = {"height": sampling.height, "width": sampling.width, "num_frames": sampling.frames, "frame_rate": sampling.fps}
    call = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance_scale, "output_type": "np"}
    [theirs] = pipeline(PROMPT, latents=pack(noise[None]), return_dict=False, **size, **call)[0]
    assert np.abs(ours - theirs).max() < 0.6 / 255 and ours.std() > 0.05


@torch.no_grad()
def test_layers_that_both_have_begin_alike(begun):
    wan, ltx = begun
    theirs, ours = wan.model.transformer, ltx.model.transformer
    t, dim = torch.tensor([730.0, 12.5]), theirs.patch_embedding.weight.shape[0]
    noise = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *wan.latent_shape(5, 16, 16), generator=noise)
    text = wan.encode_text([PROMPT, "a blue circle"]).tensors["text"]
    embedded, modulation, told, _ = theirs.condition_embedder(t, text)
    here, output = ours.time_embed(t, batch_size=2, hidden_dtype=torch.float32)
    close(here, modulation)
    close(output, embedded)
    close(ours.caption_projection(text), told)
    tokens = theirs.patch_embedding(latents).flatten(2).transpose(1, 2)
    close(ours.proj_in(folded(latents).flatten(2).transpose(1, 2)), tokens - tokens.mean(-1, keepdim=True))
    x = torch.randn(2, tokens.shape[1], dim, generator=noise)
    drawn = theirs.proj_out(x).reshape(2, *latents.shape[2:3], latents.shape[3] // 2, latents.shape[4] // 2, 1, 2, 2, -1)
    drawn = drawn.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
    close(ours.proj_out(x).transpose(1, 2).reshape(2, -1, *folded(latents).shape[2:]), folded(drawn))


@torch.no_grad()
def test_t5_reads_as_wans_encoder(begun):
    wan, ltx = begun
    tokens = text_of(wan).tokenizer([PROMPT], return_tensors="pt")
    close(ltx.text_encoder(**tokens)[0], text_of(wan).model(**tokens)[0])


def test_rotations_pair_the_axes_of_both():
    order = rotations(2, 12)  # pairs of a head of Wan: frame fast, frame slow, rows fast, ...; of LTX: slow ones of all axes
    assert sorted(order.tolist()) == list(range(24))
    assert order[:12].tolist() == [2, 3, 6, 7, 10, 11, 0, 1, 4, 5, 8, 9]


def close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
