"""Folders of generators that people have and that cannot be used: one line each, before a clip is drawn."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.errors import BadInput, NonFinite
from components.generator.families.wan_small import save_generator
from components.generator.folder import check_folder, load_generator
from tests.generator.small import tiny_generator

EMBEDDING = "encoder.embed_tokens.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("wan")
    save_generator(tiny_generator(), path)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "generator")


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def keep_only_a_checkpoint(folder: Path) -> None:
    weights = next((folder / "transformer").glob("*.safetensors")).read_bytes()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "wan2.1_t2v_1.3B_bf16.safetensors").write_bytes(weights)


def put_into_a_folder(folder: Path) -> None:
    folder.rename(folder.parent / "inner")
    shutil.move(folder.parent / "inner", folder / "snapshot")


def index_with_a_shard_missing(folder: Path) -> None:
    shards = {"a": "diffusion_pytorch_model.safetensors", "b": "diffusion_pytorch_model-00002-of-00002.safetensors"}
    write(folder / "transformer/diffusion_pytorch_model.safetensors.index.json", {"weight_map": shards})


def write(file: Path, value) -> None:
    file.write_text(json.dumps(value))


def prefix(file: Path, mark: bytes) -> None:
    file.write_bytes(mark + file.read_bytes())


BROKEN = {
    "no index": (lambda f: (f / "model_index.json").unlink(), r"no model_index\.json"),
    "index cut": (
        lambda f: (f / "model_index.json").write_text('{"_class_name": "Wan'),
        r"model_index\.json, row 1: not JSON",
    ),
    "index in UTF-16": (lambda f: prefix(f / "model_index.json", b"\xff\xfe"), r"model_index\.json: UTF-16 text"),
    "index a list": (lambda f: write(f / "model_index.json", [1]), r"model_index\.json: not a JSON object"),
    "two transformers": (
        lambda f: change(f / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"]),
        r"transformer_2/config\.json: missing",
    ),
    "one checkpoint": (keep_only_a_checkpoint, r"single-file checkpoint \(wan2\.1_t2v_1\.3B_bf16\.safetensors\)"),
    "one level down": (put_into_a_folder, "snapshot in it is one"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer: missing"),
    "tokenizer cut": (lambda f: (f / "tokenizer/tokenizer.json").write_text('{"model": '), "tokenizer: no tokenizer here"),
    "tokenizer unknown": (
        lambda f: (f / "tokenizer/tokenizer.json").write_text(
            (f / "tokenizer/tokenizer.json").read_text().replace("WordLevel", "NoSuch")
        ),
        "tokenizer: no tokenizer here",
    ),
    "tokenizer empty": (lambda f: [file.unlink() for file in (f / "tokenizer").iterdir()], "tokenizer: no tokenizer here"),
    "tokenizer that cannot pad": (
        lambda f: change(f / "tokenizer/tokenizer_config.json", pad_token=None),
        "tokenizer, key 'pad_token'",
    ),
    "no scheduler": (lambda f: shutil.rmtree(f / "scheduler"), r"scheduler_config\.json: missing"),
    "no config": (lambda f: (f / "vae/config.json").unlink(), r"vae/config\.json: missing"),
    "no part": (lambda f: shutil.rmtree(f / "text_encoder"), r"text_encoder/config\.json: missing"),
    "quantized": (
        lambda f: change(f / "transformer/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        r"transformer/config\.json, key 'quantization_config'",
    ),
    "another transformer": (
        lambda f: change(f / "transformer/config.json", _class_name="HunyuanVideoTransformer3DModel"),
        r"key '_class_name': is 'HunyuanVideoTransformer3DModel', not 'WanTransformer3DModel'",
    ),
    "another text encoder": (lambda f: change(f / "text_encoder/config.json", model_type="t5"), "is 't5', not 'umt5'"),
    "image to video": (lambda f: change(f / "transformer/config.json", in_channels=9), "image-to-video"),
    "another VAE": (lambda f: change(f / "vae/config.json", z_dim=16), "parts of two models"),
    "no statistics": (lambda f: change(f / "vae/config.json", latents_mean=None), r"key 'latents_mean': not 4 numbers"),
    "deviations of 0": (lambda f: change(f / "vae/config.json", latents_std=[0.0] * 4), "cannot be its latents_std"),
    "no finite statistics": (
        lambda f: change(f / "vae/config.json", latents_mean=[float("inf"), 0, 0, 0]),
        r"vae/config\.json",
    ),
    "a wrong value": (lambda f: change(f / "transformer/config.json", num_layers="two"), "no WanTransformer3DModel here"),
    "a shard missing": (index_with_a_shard_missing, r"names diffusion_pytorch_model-00002-of-00002\.safetensors"),
    "pickles": (
        lambda f: next((f / "vae").glob("*.safetensors")).rename(f / "vae/diffusion_pytorch_model.bin"),
        r"vae: no safetensors here \(diffusion_pytorch_model\.bin\)",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_cannot_be_used_is_one_line(folder, case):
    damage, said = BROKEN[case]
    damage(folder)
    with pytest.raises(BadInput, match=said) as raised:
        load_generator(folder)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_names_the_command_that_brings_it(tmp_path):
    folder = tmp_path / "Wan2.1-T2V-1.3B-Diffusers"
    with pytest.raises(BadInput, match=rf"`reelign fetch Wan-AI/{folder.name} --to {folder}`"):
        check_folder(folder)


def rewrite(folder: Path, **tensors: torch.Tensor) -> None:
    file = next((folder / "text_encoder").glob("*.safetensors"))
    save_file(load_file(file) | {name.replace("__", "."): value for name, value in tensors.items()}, file, {"format": "pt"})


def test_both_embeddings_of_a_text_encoder(folder, whole):
    """A release once saved the one that is read as zeros beside the right one: every prompt was the same to it."""
    table = load_file(next((whole / "text_encoder").glob("*.safetensors")))["shared.weight"]
    right = load_generator(whole).encode_text(["a red circle"]).tensors["text"]
    rewrite(folder, **{EMBEDDING: table.clone()})
    assert torch.equal(load_generator(folder).encode_text(["a red circle"]).tensors["text"], right)
    rewrite(folder, **{EMBEDDING: torch.zeros_like(table)})
    with pytest.raises(BadInput, match=rf"text_encoder, key '{EMBEDDING}': is all zero, so prompts have no effect"):
        load_generator(folder)
    rewrite(folder, **{EMBEDDING: table.flip(0)})
    with pytest.raises(BadInput, match=r"key 'shared\.weight': differs"):
        load_generator(folder)
    rewrite(folder, **{EMBEDDING: table.clone(), "shared.weight": torch.zeros_like(table)})
    assert torch.equal(load_generator(folder).encode_text(["a red circle"]).tensors["text"], right)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_text_encoder_to_which_all_prompts_are_one(folder, dtype):
    table = load_file(next((folder / "text_encoder").glob("*.safetensors")))["shared.weight"]
    rewrite(folder, **{"shared.weight": table[:1].expand_as(table).contiguous()})
    with pytest.raises(BadInput, match="text_encoder: gives one embedding for all tokens"):
        load_generator(folder, dtype=dtype)
    rewrite(folder, **{"shared.weight": table, "encoder.final_layer_norm.weight": torch.zeros(table.shape[1])})
    with pytest.raises(BadInput, match="text_encoder: gives one embedding for all tokens"):
        load_generator(folder, dtype=dtype)


def test_a_text_encoder_that_gives_no_numbers(folder, whole):
    rewrite(folder, **{"encoder.final_layer_norm.weight": torch.full((16,), 3e38)})
    with pytest.raises(BadInput, match="text_encoder: gives embeddings that are not finite in float32"):
        load_generator(folder)
    generator = load_generator(whole)
    table = generator.text.model.encoder.embed_tokens.weight
    table[generator.text.tokenizer.convert_tokens_to_ids("red")] = torch.inf
    with pytest.raises(NonFinite, match="the text embedding of 'a red circle' is not finite"):
        generator.encode_text(["a blue circle", "a red circle"])


def test_a_tokenizer_with_more_tokens_than_the_text_encoder(folder):
    other = tiny_generator()
    other.text.tokenizer.add_tokens(["green"])
    other.text.tokenizer.save_pretrained(folder / "tokenizer")
    with pytest.raises(BadInput, match="text_encoder: has 10 tokens and the tokenizer 11: they are of two models"):
        load_generator(folder)
