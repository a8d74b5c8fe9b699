"""Our LoRA files: the same strength for every kind of reader, and for training that starts from one."""

import json

import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from components.alignment.lora import add_lora, resume_lora, save_lora
from components.config.params import LoraParams
from components.errors import BadInput
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_transformer
from components.generator.lora_file import LORA
from tests.alignment.test_align import disturb
from tests.generator.lora_files import apply_lora
from tests.generator.small import tiny_generator

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
STRENGTHS = [LoraParams(rank=2, alpha=4, targets=TARGETS), LoraParams(rank=3, alpha=2, targets=TARGETS)]


@pytest.fixture(scope="module", params=STRENGTHS, ids=["alpha / rank 2", "alpha / rank 2/3"])
def saved(request, tmp_path_factory):
    """A generator, a LoRA trained on its transformer and its folder, and the change that it stands for."""
    folder = tmp_path_factory.mktemp("lora")
    save_generator(tiny_generator(), folder / "base")
    transformer = load_transformer(folder / "base")
    add_lora(transformer, request.param, seed=1)
    disturb(transformer)
    save_lora(transformer, folder / "lora")
    return folder, request.param, change_of(transformer)


def tensors_of(folder) -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(folder / "lora" / LORA, "pt") as file:
        fields = json.loads(file.metadata()["lora_adapter_metadata"])
    return load_file(folder / "lora" / LORA), {key.removeprefix("transformer."): value for key, value in fields.items()}


def by_diffusers(folder):
    pipeline = WanPipeline.from_pretrained(folder / "base", dtype=torch.float32)
    pipeline.load_lora_weights(folder / "lora")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    return pipeline.transformer


def by_peft(folder):
    tensors, fields = tensors_of(folder)
    model = get_peft_model(load_transformer(folder / "base").transformer, LoraConfig(**fields))
    set_peft_model_state_dict(
        model, {key.replace("transformer.", "base_model.model."): value for key, value in tensors.items()}
    )
    return model.merge_and_unload()


def by_matrices(folder):
    """A tool that reads the state dict and `.alpha` tensors: none is there, so that alpha is the rank."""
    transformer, (tensors, _) = load_transformer(folder / "base").transformer, tensors_of(folder)
    assert not [key for key in tensors if not key.endswith((".lora_A.weight", ".lora_B.weight"))]
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            layer, down, up = key.removesuffix(".lora_A.weight"), tensors[key], tensors[key.replace("lora_A", "lora_B")]
            alpha = tensors.get(f"{layer}.alpha", len(down))
            transformer.get_submodule(layer.removeprefix("transformer.")).weight.data += alpha / len(down) * up @ down
    return transformer


def by_header(folder):
    """A tool that takes alpha from the header."""
    transformer, (tensors, fields) = load_transformer(folder / "base").transformer, tensors_of(folder)
    for key, down in tensors.items():
        if key.endswith(".lora_A.weight"):
            change = tensors[key.replace("lora_A", "lora_B")] @ down * fields["lora_alpha"] / fields["r"]
            transformer.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_A.weight")).weight.data += change
    return transformer


def by_us(folder):
    transformer = load_transformer(folder / "base").transformer
    apply_lora(transformer, folder / "lora", merge=True)
    return transformer


@pytest.mark.parametrize("reader", [by_diffusers, by_peft, by_matrices, by_header, by_us])
def test_every_reader_finds_the_same_strength(saved, reader):
    folder, _, wanted = saved
    base, read = load_transformer(folder / "base").transformer, reader(folder)
    for name, parameter in base.named_parameters():
        change = wanted.get(name.removesuffix(".weight"), torch.zeros(()))
        torch.testing.assert_close(read.get_parameter(name) - parameter, change.expand_as(parameter), rtol=0, atol=1e-6)
    assert min(float(change.abs().max()) for change in wanted.values()) > 1e-3


def change_of(model) -> dict[str, torch.Tensor]:
    layers = {name: module for name, module in model.transformer.named_modules() if hasattr(module, "lora_A")}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


def comfy_name(key: str) -> str:
    for ours, theirs in {
        "transformer.": "diffusion_model.",
        "attn1": "self_attn",
        "attn2": "cross_attn",
        "to_out.0": "o",
    }.items():
        key = key.replace(ours, theirs)
    return key.replace(".to_", ".")


@pytest.mark.parametrize("written", ["now", "with alpha in the header", "with .alpha tensors", "as ComfyUI names it"])
def test_training_goes_on_from_the_same_change(saved, tmp_path, written):
    folder, params, wanted = saved
    tensors, fields = tensors_of(folder)
    metadata = {"lora_adapter_metadata": json.dumps(fields)}
    if written != "now":
        scale = params.alpha / params.rank
        tensors = {key: value / scale if "lora_B" in key else value for key, value in tensors.items()}
        metadata = {"lora_adapter_metadata": json.dumps(fields | {"lora_alpha": params.alpha})}
    if written in ("with .alpha tensors", "as ComfyUI names it"):
        metadata, downs = None, [key for key in tensors if "lora_A" in key]
        tensors |= {key.replace("lora_A.weight", "alpha"): torch.tensor(params.alpha) for key in downs}
    if written == "as ComfyUI names it":
        tensors = {comfy_name(key): value for key, value in tensors.items()}
    save_file(tensors, tmp_path / LORA, metadata)
    transformer = load_transformer(folder / "base")
    add_lora(transformer, params, seed=7)
    resume_lora(transformer, tmp_path)
    assert all(p.requires_grad == ("lora_" in name) for name, p in transformer.named_parameters())
    for name, change in change_of(transformer).items():
        torch.testing.assert_close(change, wanted[name], rtol=1e-6, atol=1e-7)
    save_lora(transformer, tmp_path / "again")
    for key, value in load_file(tmp_path / "again" / LORA).items():
        torch.testing.assert_close(value, tensors_of(folder)[0][key], rtol=1e-6, atol=0)


def test_a_lora_with_more_than_matrices_is_no_start(saved, tmp_path):
    folder, params, _ = saved
    tensors, fields = tensors_of(folder)
    tensors["transformer.blocks.0.attn1.to_q.diff_b"] = torch.ones(24)
    save_file(tensors, tmp_path / LORA, {"lora_adapter_metadata": json.dumps(fields)})
    transformer = load_transformer(folder / "base")
    add_lora(transformer, params, seed=7)
    before = change_of(transformer)
    with pytest.raises(BadInput, match=r"no LoRA of align.lora's rank and targets: blocks.0.attn1.to_q.bias differs"):
        resume_lora(transformer, tmp_path)
    for name, change in change_of(transformer).items():
        assert torch.equal(change, before[name])
