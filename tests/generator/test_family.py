"""A second family goes through the graph's code; nothing outside a family names its classes or attributes."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from components.alignment.data import Pairs, load_candidates
from components.alignment.lora import add_lora, save_lora
from components.alignment.methods.flow_dpo import train_dpo
from components.cli.main import main
from components.config.params import LoraParams, NrgParams
from components.errors import BadInput
from components.generator.folder import FAMILIES, check_folder, load_generator, load_transformer
from components.generator.sampler import Job, solve
from components.generator.spec import SamplerSpec, generator_once
from components.guidance.flow_nrg import NrgSpec
from components.guidance.latent_reward import latent_reward_once, load_latent_reward, save_latent_reward
from components.guidance.train import build
from components.pipeline.stage import folder_digest
from components.preferences.schema import write_prompts
from components.preferences.split import split_prompts
from tests.alignment.drawn import draw_base_candidates
from tests.generator.toy import TIME, Toy, save_toy

BASE, LORA = "models/base_generator", LoraParams(rank=2, alpha=4, targets=["to_q"])
# Classes, keys of configurations and attributes of the families' parts.
PARTS = re.compile(
    r"\b(Wan|LTX2?|Mochi|Hunyuan)[A-Z]\w*|AutoencoderKL\w+|UMT5|umt5|T5Encoder|ShortTextWan|patch_embedding|condition_embedder|latents_(mean|std)|scale_shift_table"
    r"|proj_out\b|norm_out\b|\.rope\b|\bz_dim\b|\btext_dim=|temperal_downsample|scale_factor_(temporal|spatial)|\bd_model\b"
    r"|transformer\.blocks\b|trunk\.blocks\b|prompt_clean"
)


@pytest.fixture
def toy(tmp_path, monkeypatch, bare_stage):
    """A working folder with a toy generator, prompts, and params of tiny clips."""
    monkeypatch.setitem(FAMILIES, "ToyPipeline", Toy())
    monkeypatch.chdir(tmp_path)
    for cached in (generator_once, latent_reward_once):
        cached.cache_clear()
    save_toy(Path(BASE))
    params = bare_stage.params
    sampling = params.sampling.model_copy(update={"steps": 3, "height": 16, "width": 16, "frames": 3, "batch_size": 4})
    candidates = params.candidates.model_copy(update={"prompts": 4, "per_prompt": 2})
    bare_stage.params = params.model_copy(update={"sampling": sampling, "candidates": candidates})
    prompts = [f"a red circle number {n}" for n in range(40)]
    assert list(split_prompts(prompts, params.split).values()).count("train") >= 4
    Path("data/source").mkdir(parents=True)
    write_prompts(Path("data/source/prompts.csv"), prompts)
    return bare_stage


def cached_pairs(stage) -> Pairs:
    """Candidates drawn and cached by the stage's code, and each prompt's two clips as a pair."""
    candidates = load_candidates(folder_digest(BASE), draw_base_candidates(stage, BASE))
    chosen = np.arange(0, 8, 2)
    table = pd.DataFrame({"prompt": candidates.table.prompt.iloc[chosen].to_numpy()})
    return Pairs(candidates, chosen, chosen + 1, torch.ones(4), torch.zeros(4, dtype=torch.bool), table)


def test_velocity_has_our_sign_and_time(toy):
    generator = load_generator(BASE)
    x, told = torch.randn(2, 3, 3, 4, 4), generator.encode_text(["a red circle", "a blue one moving"])
    with torch.no_grad():
        raw = generator.model.transformer(x, torch.tensor([TIME * 0.75, 0.0]), **told.tensors)
        assert torch.equal(generator.model(x, torch.tensor([0.25, 1.0]), told), -raw)


def test_candidates_keep_every_tensor_of_the_conditioning(toy):
    pairs = cached_pairs(toy)
    generator, candidates = load_generator(BASE), pairs.candidates
    told = generator.encode_text(list(candidates.table.prompt))
    for name, kept in candidates.text(range(8)).tensors.items():
        assert torch.equal(kept, told.tensors[name]) and kept.dtype == told.tensors[name].dtype
    assert torch.equal(candidates.empty_text().tensors["mask"], generator.encode_text([""]).tensors["mask"])
    jobs = [Job(row.candidate_id, row.prompt, row.seed) for row in candidates.table[:4].itertuples()]
    assert torch.equal(candidates.latents[range(4)], solve(generator, jobs, toy.params.sampling))
    assert len(list(Path("data/candidates/videos").glob("*.mp4"))) == 8


def test_a_step_of_flow_dpo_trains_a_lora_that_loads(toy):
    pairs, align = cached_pairs(toy), toy.params.align
    training = align.dpo.training.model_copy(update={"steps": 1, "batch_size": 2, "warmup_steps": 0, "learning_rate": 0.1})
    settings = align.dpo.model_copy(update={"training": training, "validation": 0.0, "patience": None})
    toy.params = toy.params.model_copy(update={"align": align.model_copy(update={"dpo": settings, "draws": 2})})
    model = load_transformer(BASE)
    add_lora(model, LORA, seed=1)
    rows, count = train_dpo(toy, model, pairs, settings, {"base": "x"}, Path("cache"))
    assert count == 4 and rows[-1]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    save_lora(model, Path("lora"))
    x, t, told = pairs.candidates.latents[[0, 1]], torch.tensor([0.3, 0.8]), pairs.candidates.text([0, 1])
    with torch.no_grad():
        tuned, base = (load_generator(BASE, lora).model(x, t, told) for lora in ("lora", None))
        torch.testing.assert_close(tuned, model(x, t, told))
        assert not torch.allclose(tuned, base)


@pytest.mark.parametrize("trunk", ["full", "frozen"])
def test_a_latent_reward_on_its_trunk_guides_sampling(toy, trunk):
    params = toy.params.latent_reward.model_copy(update={"trunk": trunk, "blocks": 1})
    model = build(BASE, params, "float32", len).eval()
    torch.nn.init.normal_(model.head, generator=torch.Generator().manual_seed(1))
    save_latent_reward(model.requires_grad_(False), Path("reward"), {"generator": folder_digest(BASE)})
    generator = load_generator(BASE)
    x, t, told = torch.randn(2, 3, 3, 4, 4), torch.tensor([0.3, 0.8]), generator.encode_text(["a", "b c"])
    seen = []
    hook = generator.model.transformer.layers[0].register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        generator.model(x, t, told)
        hook.remove()
        again = load_latent_reward("reward", generator.model, folder_digest(BASE))
        assert torch.equal(again(x, t, told), model(x, t, told)) and torch.equal(model(x, t, told), model.read(seen[0]))

    jobs = [Job("a", "a red circle", 1), Job("b", "a blue circle moving up", 2)]
    nrg = NrgParams(weights={"TA": 1.0}, scale=5.0, start=0.0, stop=1.0, max_norm=0.5, gradient_checkpointing=False)
    drawn = {}
    plain = SamplerSpec(BASE)
    for name, spec in (("plain", plain), ("guided", NrgSpec(plain, nrg, "reward"))):
        loaded, solver = spec()
        parts = loaded.with_text(spec.text_encoder())
        drawn[name] = solver(parts, jobs, toy.params.sampling)
        assert parts.decode(drawn[name]).shape == (2, 3, 16, 16, 3)
    assert drawn["guided"].isfinite().all() and not torch.allclose(drawn["guided"], drawn["plain"])


def test_a_folder_of_an_unknown_class_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "model_index.json").write_text('{"_class_name": "AllegroPipeline"}')
    known = ", ".join(sorted(FAMILIES))
    with pytest.raises(BadInput, match=rf"key 'base_generator\.folder': is of class AllegroPipeline; known are {known}$"):
        check_folder(tmp_path, key="base_generator.folder")
    words = ["generate", "--prompt", "a red circle", "--generator", str(tmp_path), "--out", str(tmp_path / "clips")]
    monkeypatch.setattr(sys, "argv", ["reelign", *words])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    where = f"{tmp_path}/model_index.json, key '_class_name'"
    assert line == f"error: {where}: is of class AllegroPipeline; known are {known}"


def test_a_pipeline_without_a_rectified_flow_is_refused_with_the_reason(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "CogVideoXPipeline"}')
    with pytest.raises(
        BadInput, match=r"CogVideoXPipeline predicts the v of a diffusion \(DDIM\), which is no rectified flow"
    ):
        check_folder(tmp_path)


def test_only_the_families_files_name_their_parts():
    files = [*Path("components").rglob("*.py"), *Path("dags").rglob("*.py"), *Path("examples").rglob("*.py")]
    own = {path for path in files if path.parent == Path("components/generator/families")}
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in sorted(set(files) - own)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if PARTS.search(line)
    ]
    assert len(own) >= 2
    named = [line for line in found if re.match(r'components/generator/folder\.py:\d+: "\w+Pipeline": ', line)]
    assert found == named and len(named) == len(FAMILIES)
