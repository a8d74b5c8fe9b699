"""Rehearsal of a profile: stand-ins that load as the real models do, params that are the profile's but for counts."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from components.cli.main import app, clip_size
from components.config.params import Params, load_params
from components.errors import BadInput
from components.generator.folder import load_generator
from components.planning import costs
from components.planning.rehearsal import Rehearsed, as_lines, cut_params, not_tried, table
from components.planning.stand_ins import make_backbone, make_generator, make_pairs
from components.preferences.schema import read_annotations
from components.reward.backbones.registry import load_backbone
from tests.conftest import REPOSITORY

CLIP = (64, 64, 9)


def narrow(name: str) -> dict:
    """The architecture of a profile with a few narrow layers."""
    config = json.loads((REPOSITORY / f"infra/architectures/{name}.json").read_text())
    config["transformer"] |= {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "text_dim": 32}
    config["transformer"]["num_layers"] = 9
    if "transformer_2" in config:
        config["transformer_2"] = config["transformer"]
    config["vae"] |= {key: 8 for key in ("base_dim", "decoder_base_dim") if key in config["vae"]}
    config["text_encoder"] |= {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2, "num_layers": 2, "vocab_size": 512}
    text, vision = config["reward"]["text_config"], config["reward"]["vision_config"]
    text |= {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 96, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    vision |= {"depth": 2, "embed_dim": 64, "num_heads": 4, "hidden_size": 256}
    return config


@pytest.fixture(params=["wan2.1-1.3b", "wan2.1-14b", "wan2.2-a14b", "wan2.2-ti2v-5b"])
def params(request, tmp_path, monkeypatch) -> Params:
    (tmp_path / f"{request.param}.json").write_text(json.dumps(narrow(request.param)))
    monkeypatch.setattr(costs, "ARCHITECTURES", tmp_path)
    return load_params(REPOSITORY / f"infra/profiles/{request.param}.yaml")


def test_stand_ins_load_as_the_real_models_do(params, tmp_path):
    make_generator(tmp_path / "generator", params)
    generator = load_generator(tmp_path / "generator", dtype=params.base_generator.dtype)
    transformer = next(iter(generator.model.networks.values()))
    assert {p.dtype for p in transformer.blocks.parameters()} >= {torch.bfloat16}
    assert generator.scheduler["_class_name"] == "UniPCMultistepScheduler"
    text = generator.encode_text(["a red circle moving up", "a blue square"]).tensors["text"]
    assert text.isfinite().all() and not torch.equal(text[0], text[1])
    make_backbone(tmp_path / "backbone", params)
    backbone = load_backbone(tmp_path / "backbone", params.reward.dtype)
    assert {p.dtype for p in backbone.network.parameters()} == {torch.bfloat16}
    rows = backbone.network.get_input_embeddings().weight
    assert len(rows) == 1024 and len(rows.unique(dim=0)) == len(rows), "an architecture's own rows, no two alike"
    cut = Params.model_validate(cut_params(params, CLIP))
    make_pairs(tmp_path / "preferences", "annotations.csv", cut, 4)
    assert len(read_annotations(tmp_path / "preferences/annotations.csv")) == 4


def test_a_family_without_stand_ins_is_named(params):
    file = costs.ARCHITECTURES / f"{params.profile}.json"
    file.write_text(json.dumps(narrow(params.profile) | {"_class_name": "OtherPipeline"}))
    with pytest.raises(BadInput, match="no stand-ins of OtherPipeline, only of WanPipeline"):
        make_generator(Path("nowhere"), params)


def test_params_are_the_profiles_but_for_counts(params):
    cut = cut_params(params, CLIP)
    Params.model_validate(cut)
    own = params.model_dump(mode="json")
    counted = {key: own["sampling"][key] for key in ("height", "width", "frames", "steps")}
    assert cut["sampling"] != own["sampling"] == cut["sampling"] | counted
    whole = cut_params(params, None)
    for section in ("reward", "latent_reward"):
        assert cut[section]["training"]["precision"] == own[section]["training"]["precision"]
        assert cut[section]["training"]["batch_size"] == 1
        assert whole[section]["training"]["batch_size"] == own[section]["training"]["batch_size"]
    assert cut["reward"]["dtype"] == "bfloat16" and cut["align"]["lora"] == own["align"]["lora"]
    assert cut["align"]["compile"] is False and cut_params(params, None)["align"]["compile"] is own["align"]["compile"]


@pytest.mark.parametrize("params", ["wan2.1-1.3b", "wan2.2-a14b"], indirect=True)
def test_forecast_grows_with_the_operations(params):
    cut = Params.model_validate(cut_params(params, CLIP))
    seen = {
        "align@dpo": Rehearsed(40.0, 10.0, 3 << 30, 1 << 30, 1 << 20),
        "source": Rehearsed(5.0, 1.0, 1 << 29, 0, 1 << 20),
    }
    dpo, source = table(params, cut, seen)
    steps = params.align.dpo.training
    at_least = steps.steps * steps.accumulation / cut.align.dpo.training.steps
    assert dpo["hours"] > (10 + 30 * at_least) / 3600, "the profile's clips are larger, too"
    assert dpo["planned_gib"] > 0.75 and dpo["peak_gib"] == 3
    assert source["hours"] is None and source["planned_gib"] is None
    same = table(cut, cut, seen)[0]
    assert same["hours"] == pytest.approx(40 / 3600)
    assert as_lines([dpo, source])[2].split() == ["source", "5.0", "0.50", "0.00", "-", "0.00", "-"]


def test_what_was_not_tried_is_said(params):
    lines = "\n".join(not_tried(params, CLIP))
    own = params.sampling
    assert f"clips of {own.height}x{own.width}x{own.frames}: 64x64x9 were drawn" in lines
    assert "random ones were used" in lines
    assert "clips of" not in "\n".join(not_tried(params, None))


@pytest.mark.parametrize("text", ["64x64", "64x64x9x1", "ax64x9", ""])
def test_a_clip_that_is_none(text):
    with pytest.raises(BadInput, match="HEIGHTxWIDTHxFRAMES"):
        clip_size(text)


def test_a_profile_that_makes_its_clips_needs_none():
    found = CliRunner().invoke(app, ["rehearse", "--profile", "shapes"])
    assert isinstance(found.exception, BadInput) and "dvc repro" in str(found.exception)


def checkout(tmp_path: Path) -> Path:
    """A small checkout whose pipeline is two stages in place of the real ones."""
    for folder in ("infra/profiles", "infra/architectures"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copytree(REPOSITORY / "components/reward/templates", tmp_path / "components/reward/templates")
    shutil.copy(REPOSITORY / "infra/no_prompt_set.csv", tmp_path / "infra")
    (tmp_path / "infra/architectures/small.json").write_text(json.dumps(narrow("wan2.1-1.3b")))
    profile = (REPOSITORY / "infra/profiles/wan2.1-1.3b.yaml").read_text()
    (tmp_path / "infra/profiles/small.yaml").write_text(profile.replace("wan2.1-1.3b", "small"))
    return tmp_path


PIPELINE = """
stages:
  source:
    cmd: echo "[source] loaded in 0.5 s"; echo "[source] done in 2.0 s"; cp params.yaml out.txt
    deps: [params.yaml]
    outs: [out.txt]
  measure:
    cmd: echo "[measure] loaded in 0.5 s"; sleep 1; cp {} measured.txt; echo "[measure] done in 3.0 s"
    deps: [out.txt, {}]
    outs: [measured.txt]
"""


@pytest.mark.kill
def test_a_failed_rehearsal_goes_on_where_it_stopped(tmp_path, monkeypatch):
    root = checkout(tmp_path)
    monkeypatch.chdir(root)
    (root / "dvc.yaml").write_text(PIPELINE.replace("{}", "missing.txt"))
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "-A"], check=True)
    words = ["rehearse", "--profile", "small", "--clip", "64x64x9", "--last", "measure"]
    failed = CliRunner().invoke(app, words)
    assert isinstance(failed.exception, BadInput) and "repro.log" in str(failed.exception)
    work = root / ".reelign/rehearsal/small"
    made = (work / "downloads/Qwen2-VL-2B-Instruct/model.safetensors").stat().st_mtime_ns
    (root / "dvc.yaml").write_text(PIPELINE.replace("{}", "params.yaml"))
    found = CliRunner().invoke(app, [*words, "--json", "--keep"])
    assert found.exit_code == 0, found.output
    printed = json.loads(found.stdout)
    assert [(row["stage"], row["seconds"]) for row in printed["stages"]] == [("source", 2.0), ("measure", 3.0)]
    assert all(row["written_gib"] > 0 for row in printed["stages"]), "the first by the try that failed"
    assert printed["stages"][1]["peak_gib"] > printed["stages"][1]["mapped_gib"] > 0
    assert (work / "downloads/Qwen2-VL-2B-Instruct/model.safetensors").stat().st_mtime_ns == made
    (work / "rehearsed.json").write_bytes(bytes(100))
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0 and "Not tried:" in again.stdout
    assert "rehearsed.json: damaged" in again.stderr and "Traceback" not in again.stderr
    assert not work.exists(), "it cleans up after itself"
