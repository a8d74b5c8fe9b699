"""Wan 2.2 A14B: two transformers, each at its own noise levels, with a guidance scale and a LoRA each."""

import gc
import json
import math
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import WanPipeline

from components.alignment.data import Pairs, load_candidates
from components.alignment.flow import quantile, timesteps_at
from components.alignment.lora import add_lora, resume_lora, save_lora
from components.alignment.methods.flow_dpo import pair_loss, train_dpo
from components.config.params import LoraParams, NrgParams, SamplingParams, TimestepParams
from components.errors import BadInput
from components.generator.families import wan, wan_experts
from components.generator.families.wan_small import save_generator
from components.generator.folder import check_folder, load_generator, load_transformer
from components.generator.sampler import Job, noise_of, solve
from components.generator.spec import SamplerSpec, generator_once
from components.guidance.flow_nrg import NrgSpec
from components.guidance.latent_reward import latent_reward_once, load_latent_reward, save_latent_reward
from components.guidance.train import build
from components.pipeline.stage import folder_digest
from components.preferences.schema import write_prompts
from tests.alignment.drawn import draw_base_candidates
from tests.generator.experts import TIMESTEPS, pipeline_latents, save_experts
from tests.generator.small import conditioning, tiny_generator

PROMPTS = ["a blue circle moving down", "a red circle"]
LORA = LoraParams(rank=2, alpha=4, targets=["to_q", "to_v"])
FILES = ("high_noise.safetensors", "low_noise.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("a14b") / "generator"
    save_experts(path)
    return path


@pytest.fixture(scope="module")
def pipeline(folder):
    return WanPipeline.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def sampling(bare_stage) -> SamplingParams:
    small = {"solver": "folder", "steps": 4, "shift": None, "height": 16, "width": 16, "frames": 5, "batch_size": 2}
    return bare_stage.params.sampling.model_copy(update=small | {"guidance_scale": 5.0, "guidance_scale_2": 3.0})


def jobs() -> list[Job]:
    return [Job(str(n), prompt, n) for n, prompt in enumerate(PROMPTS)]


def noise() -> torch.Tensor:
    return torch.stack([noise_of(n, (4, 3, 4, 4)) for n in range(2)])


def with_boundary(folder: Path, to: Path, boundary: float | None) -> Path:
    shutil.copytree(folder, to)
    index = json.loads((to / "model_index.json").read_text())
    (to / "model_index.json").write_text(json.dumps(index | {"boundary_ratio": boundary}))
    return to


@pytest.mark.parametrize("t", [0.875, 0.8751, 1.0, 0.874999, 0.5, 0.0])
def test_each_noise_level_is_one_experts(folder, pipeline, t):
    model, x, text = load_transformer(folder), torch.randn(2, 4, 3, 4, 4), conditioning(2, 6, 16)
    own = pipeline.transformer if t >= 0.875 else pipeline.transformer_2
    with torch.no_grad():
        wanted = own(x, torch.full((2,), 1000 * t), text.tensors["text"], return_dict=False)[0]
        torch.testing.assert_close(model(x, torch.full((2,), t), text), wanted, rtol=0, atol=1e-5)


def test_rows_of_one_batch_go_to_their_own_experts(folder):
    model, x, text = load_transformer(folder), torch.randn(4, 4, 3, 4, 4), conditioning(4, 6, 16)
    t = torch.tensor([0.2, 0.95, 0.875, 0.6])
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1], t[i : i + 1], text[i]) for i in range(4)])
        torch.testing.assert_close(model(x, t, text), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("boundary", [0.9, 0.9001, 0.8999, 0.75, 0.417])
def test_the_switch_is_the_pipelines(folder, tmp_path, sampling, boundary):
    """Of timesteps 999, 900, 750 and 500, at the boundary, just above and just below it."""
    own = with_boundary(folder, tmp_path / "generator", boundary)
    theirs, generator = WanPipeline.from_pretrained(own, dtype=torch.float32), load_generator(own)
    calls = []
    theirs.transformer.register_forward_hook(lambda *_: calls.append("high"))
    theirs.transformer_2.register_forward_hook(lambda *_: calls.append("low"))
    wanted = pipeline_latents(theirs, PROMPTS, noise(), 5.0, 3.0)
    assert calls[::2] == ["high" if step >= 1000 * boundary else "low" for step in TIMESTEPS]
    torch.testing.assert_close(solve(generator, jobs(), sampling), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scales", [(5.0, 3.0), (5.0, None), (5.0, 1.0), (1.0, None)])
def test_clips_are_the_pipelines_with_two_guidance_scales(folder, pipeline, sampling, scales):
    settings = sampling.model_copy(update={"guidance_scale": scales[0], "guidance_scale_2": scales[1]})
    wanted = pipeline_latents(pipeline, PROMPTS, noise(), *[scale for scale in scales if scale is not None])
    generator = load_generator(folder)
    torch.testing.assert_close(solve(generator, jobs(), settings), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(solve(generator, jobs(), settings), wanted, rtol=0, atol=1e-5)  # the first one is read again
    assert not torch.allclose(wanted, pipeline_latents(pipeline, PROMPTS, noise(), 5.0, 4.0), atol=1e-3)


def test_scales_that_diffusers_would_not_apply_are_refused(sampling, tmp_path):
    with pytest.raises(ValueError, match="guidance_scale 1 switches guidance off for both"):
        SamplingParams.model_validate(sampling.model_dump() | {"guidance_scale": 1.0})
    save_generator(tiny_generator(), tmp_path)
    with pytest.raises(BadInput, match=r"key 'sampling\.guidance_scale_2': the generator has one transformer"):
        solve(load_generator(tmp_path), jobs(), sampling)


def test_one_expert_is_in_memory_while_sampling(folder, sampling, monkeypatch):
    kept: list[weakref.ref] = []
    peaks = []
    load = wan.load_pretrained

    def watched(kind, *more, **named):
        gc.collect()
        found = load(kind, *more, **named)
        if kind.__name__ == "WanTransformer3DModel":
            kept.append(weakref.ref(found))
            peaks.append(sum(weight.nbytes for own in filter(None, (ref() for ref in kept)) for weight in own.parameters()))
        return found

    monkeypatch.setattr(wan, "load_pretrained", watched)
    generator = load_generator(folder)
    for _ in range(2):
        solve(generator, jobs(), sampling)
    both = sum(weight.nbytes for weight in load_transformer(folder).parameters())
    assert len(peaks) == 6 and max(peaks[:4]) <= 0.6 * both and peaks[0] > 0.4 * both


@pytest.fixture
def stage(folder, tmp_path, monkeypatch, bare_stage, sampling):
    """A working folder with the generator, four prompts, and tiny settings."""
    monkeypatch.chdir(tmp_path)
    for cached in (generator_once, latent_reward_once):
        cached.cache_clear()
    Path("models").mkdir()
    Path("models/base_generator").symlink_to(folder)
    Path("data/source").mkdir(parents=True)
    write_prompts(Path("data/source/prompts.csv"), [f"a red circle number {n}" for n in range(40)])
    align = bare_stage.params.align
    training = align.dpo.training.model_copy(
        update={"steps": 6, "batch_size": 4, "accumulation": 1, "warmup_steps": 0, "learning_rate": 0.05, "ema_decay": None}
    )
    dpo = align.dpo.model_copy(update={"training": training, "validation": 0.0, "patience": None, "beta": 1.0})
    bare_stage.params = bare_stage.params.model_copy(
        update={
            "sampling": sampling,
            "candidates": bare_stage.params.candidates.model_copy(update={"prompts": 4, "per_prompt": 2}),
            "align": align.model_copy(update={"dpo": dpo, "draws": 4, "lora": LORA}),
        }
    )
    return bare_stage


def cached_pairs(stage) -> Pairs:
    folder = draw_base_candidates(stage)
    generator_once.cache_clear()
    candidates = load_candidates(folder_digest("models/base_generator"), folder)
    chosen = np.arange(0, 8, 2)
    table = pd.DataFrame({"prompt": candidates.table.prompt.iloc[chosen].to_numpy()})
    return Pairs(candidates, chosen, chosen + 1, torch.ones(4), torch.zeros(4, dtype=torch.bool), table)


def tuned(stage, experts: str, folder: str):
    """A model that Flow-DPO trained, and its logged rows; its LoRA is saved."""
    stage.params = stage.params.model_copy(update={"align": stage.params.align.model_copy(update={"experts": experts})})
    model = load_transformer("models/base_generator", experts=stage.params.align.trained_experts)
    add_lora(model, LORA, seed=1)
    shutil.rmtree(stage.state())
    rows, _ = train_dpo(stage, model, cached_pairs(stage), stage.params.align.dpo, {"base": experts}, Path("cache"))
    save_lora(model, Path(folder))
    return model, rows


@pytest.mark.parametrize("reference", ["cached", "live"])
def test_flow_dpo_starts_at_log_two_at_all_noise_levels(stage, reference):
    stage.params = stage.params.model_copy(update={"align": stage.params.align.model_copy(update={"reference": reference})})
    model = load_transformer("models/base_generator")
    add_lora(model, LORA, seed=1)
    loss_of = pair_loss(stage, model, cached_pairs(stage), stage.params.align.dpo, {"base": "x"}, Path("cache"), None)
    for draw in range(4):
        loss, _ = loss_of(model, [0, 1, 2, 3], [draw] * 4)
        assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_the_cached_reference_is_the_live_one(stage):
    losses, pairs = {}, cached_pairs(stage)
    for reference in ("cached", "live"):
        own = stage.params.align.model_copy(update={"reference": reference})
        stage.params = stage.params.model_copy(update={"align": own})
        model = load_transformer("models/base_generator")
        add_lora(model, LORA, seed=1)
        loss_of = pair_loss(stage, model, pairs, own.dpo, {"base": "x"}, Path("cache"), None)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
        losses[reference] = [loss_of(model, [0, 1, 2, 3], [draw] * 4)[0].item() for draw in range(4)]
    assert losses["cached"] == pytest.approx(losses["live"], rel=1e-5)
    assert all(abs(loss - math.log(2)) > 1e-4 for loss in losses["live"])


def test_both_train_and_diffusers_loads_both(stage, pipeline, sampling):
    model, _ = tuned(stage, "both", "lora")
    assert sorted(path.name for path in Path("lora").glob("*.safetensors")) == sorted(FILES)
    changed = {name for name, weight in model.named_parameters() if "lora_B" in name and weight.any()}
    assert {name.split("experts.")[1].split(".")[0] for name in changed} == {"high_noise", "low_noise"}
    ours = solve(load_generator("models/base_generator", "lora"), jobs(), sampling)
    try:
        pipeline.load_lora_weights("lora", weight_name=FILES[0])
        one = pipeline_latents(pipeline, PROMPTS, noise(), 5.0, 3.0)
        pipeline.load_lora_weights("lora", weight_name=FILES[1], load_into_transformer_2=True)
        theirs = pipeline_latents(pipeline, PROMPTS, noise(), 5.0, 3.0)
    finally:
        pipeline.unload_lora_weights()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert not torch.allclose(one, theirs, atol=1e-3)


@pytest.mark.parametrize("expert", ["high_noise", "low_noise"])
def test_an_expert_that_did_not_train_is_the_base(stage, pipeline, expert):
    model, _ = tuned(stage, expert, "lora")
    assert [path.name for path in Path("lora").glob("*.safetensors")] == [f"{expert}.safetensors"]
    assert list(model.networks) == [expert]
    loaded, base = load_generator("models/base_generator", "lora"), load_generator("models/base_generator")
    for name in ("high_noise", "low_noise"):
        ours, theirs = (own.model.transformer.expert(name).state_dict() for own in (loaded, base))
        same = all(torch.equal(ours[key], value) for key, value in theirs.items())
        assert same == (name != expert)
    again = load_transformer("models/base_generator", experts=(expert,))
    add_lora(again, LORA, seed=5)
    resume_lora(again, Path("lora"))
    for (key, value), (_, other) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-7, msg=key)


@pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("span", [(0.875, 1.0), (0.0, 0.875)])
def test_each_expert_trains_on_its_own_timesteps_alone(distribution, shift, span):
    params = TimestepParams(distribution=distribution, shift=shift)
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    t = timesteps_at(u, params, span).float()
    assert span[0] <= t.min() and (t.max() < span[1] or span[1] == 1)
    everything = timesteps_at(u, params).float()
    inside = everything[(everything >= span[0]) & (everything < span[1] + (span[1] == 1))]
    assert t.mean() == pytest.approx(float(inside.mean()), abs=2e-4)
    assert quantile(float(timesteps_at(torch.tensor(0.3, dtype=torch.float64), params)), params) == pytest.approx(0.3)
    assert torch.equal(timesteps_at(u, params, (0.0, 1.0)), timesteps_at(u, params))


@pytest.mark.parametrize("expert", ["high_noise", "low_noise"])
def test_a_latent_reward_on_one_experts_blocks_guides_both(stage, pipeline, sampling, expert):
    params = stage.params.latent_reward.model_copy(update={"trunk": "full", "blocks": 1, "expert": expert})
    model = build("models/base_generator", params, "float32", len).eval()
    part = pipeline.transformer if expert == "high_noise" else pipeline.transformer_2
    torch.testing.assert_close(model.trunk.blocks[0].attn1.to_q.weight, part.blocks[0].attn1.to_q.weight)
    torch.nn.init.normal_(model.head, generator=torch.Generator().manual_seed(1))
    base = folder_digest("models/base_generator")
    save_latent_reward(model.requires_grad_(False), Path("reward"), {"generator": base})
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.3, 0.95]), conditioning(2, 6, 16)
    with torch.no_grad():
        again = load_latent_reward("reward", load_generator("models/base_generator").model, base)
        assert torch.equal(again(x, t, text), model(x, t, text))
    nrg = NrgParams(weights={"TA": 1.0}, scale=5.0, start=0.0, stop=1.0, max_norm=0.5, gradient_checkpointing=False)
    spec = NrgSpec(SamplerSpec("models/base_generator"), nrg, "reward")
    loaded, solver = spec()
    guided = solver(loaded.with_text(spec.text_encoder()), jobs(), sampling)
    assert guided.isfinite().all()
    assert not torch.allclose(guided, pipeline_latents(pipeline, PROMPTS, noise(), 5.0, 3.0), atol=1e-3)


def test_a_frozen_trunk_is_refused(stage):
    params = stage.params.latent_reward.model_copy(update={"trunk": "frozen", "blocks": 1})
    with pytest.raises(BadInput, match=r"key 'latent_reward\.trunk': shares the generator's weights"):
        build("models/base_generator", params, "float32", len)


def test_a_lora_of_no_expert_is_refused(folder, tmp_path):
    save_generator(tiny_generator(), tmp_path / "one")
    model = load_transformer(tmp_path / "one")
    add_lora(model, LORA, seed=1)
    save_lora(model, tmp_path / "lora")
    with pytest.raises(BadInput, match=r"is of which transformer\? Name its file \*high_noise\*"):
        load_generator(folder, tmp_path / "lora")
    named = tmp_path / "wan_low_noise_v1.safetensors"
    shutil.move(tmp_path / "lora/pytorch_lora_weights.safetensors", named)
    assert load_generator(folder, named).model.boundary == 0.875
    with pytest.raises(BadInput, match="no such file"):
        load_generator(folder, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: set_index(f, boundary_ratio=None), r"boundary_ratio': is None; two transformers need a noise level"),
        (lambda f: set_index(f, boundary_ratio=1.5), r"boundary_ratio': is 1\.5; two transformers"),
        (lambda f: set_index(f, transformer_2=[None, None]), r"is 0\.875, and there is no transformer_2"),
        (lambda f: shutil.rmtree(f / "transformer_2"), r"transformer_2/config\.json: missing"),
        (lambda f: set_config(f, num_layers=3), r"num_layers': is 3, and transformer's is 2: parts of two models"),
    ],
)
def test_folders_that_diffusers_would_run_halfway_are_refused(folder, tmp_path, damage, said):
    own = shutil.copytree(folder, tmp_path / "generator")
    damage(own)
    with pytest.raises(BadInput, match=said):
        check_folder(own)


def set_index(folder: Path, **values) -> None:
    change(folder / "model_index.json", values)


def set_config(folder: Path, **values) -> None:
    change(folder / "transformer_2/config.json", values)


def change(file: Path, values: dict) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_processes_that_share_a_step_all_run_both_experts(folder, monkeypatch):
    """With several processes each expert has a part in every batch, whose outputs and gradients are those of one process."""
    model, x, text = load_transformer(folder), torch.randn(2, 4, 3, 4, 4), conditioning(2, 6, 16)
    add_lora(model, LORA, seed=1)
    t = torch.tensor([0.2, 0.6])
    alone = model(x, t, text)
    alone.sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(gradient is None for name, gradient in gradients.items() if "high_noise" in name)
    model.zero_grad()
    monkeypatch.setattr(wan_experts, "launched_together", lambda: SimpleNamespace(num_processes=2))
    together = model(x, t, text)
    together.sum().backward()
    torch.testing.assert_close(together, alone)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None
            torch.testing.assert_close(weight.grad, torch.zeros_like(weight) if gradients[name] is None else gradients[name])
