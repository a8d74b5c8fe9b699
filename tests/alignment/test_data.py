"""What alignment refuses by name: latents of another generator, of unlike shapes or missing, an adapter of another base."""

import json

import pytest
import torch

from components.alignment.data import load_candidates, load_pairs
from components.alignment.lora import add_lora, check_base, resume_lora, save_lora
from components.alignment.relabel import pair_of
from components.config.params import load_params
from components.errors import BadInput
from components.files.tables import write_table
from components.generator import shards
from components.generator.conditioning import Conditioning
from components.generator.shards import save_conditioning, save_shards
from components.schemas import CANDIDATES_SCHEMA, alignment_pairs_schema
from tests.alignment.test_align import LORA, disturb, scores
from tests.generator.small import tiny_generator

MADE_FROM = {"base generator": "abc"}


@pytest.fixture
def folder(tmp_path):
    """Four candidates of two prompts."""
    rows = [
        {
            "candidate_id": f"c{n}",
            "prompt_id": f"p{n // 2}",
            "prompt": "x",
            "seed": n,
            "path": "",
            "row": n,
            "text_row": n // 2,
        }
        for n in range(4)
    ]
    write_table(tmp_path / "candidates.parquet", rows, CANDIDATES_SCHEMA)
    save_shards([torch.arange(4.0).view(4, 1, 1, 1, 1)], tmp_path / "latents", MADE_FROM)
    save_conditioning([Conditioning({"text": torch.arange(3.0).view(3, 1, 1)})], tmp_path / "text", MADE_FROM)
    return tmp_path


def write_pairs(folder, chosen: str, rejected: str):
    better, worse = scores(1.0, 0.0)
    pair = pair_of(better | {"candidate_id": chosen}, worse | {"candidate_id": rejected})
    write_table(folder / "pairs.parquet", [pair | {"weight": 1.0, "tied": False}], alignment_pairs_schema(["VQ"]))
    return folder / "pairs.parquet"


def test_pairs_are_rows_of_the_candidates(folder):
    candidates = load_candidates("abc", folder)
    pairs = load_pairs(candidates, write_pairs(folder, "c3", "c2"))
    assert pairs.latents([0]).flatten().tolist() == [3.0, 2.0]
    told, empty = pairs.text([0]), candidates.empty_text()
    assert told.tensors["text"].flatten().tolist() == [1.0] and empty.tensors["text"].flatten().tolist() == [2.0]


def test_latents_of_another_generator(folder):
    with pytest.raises(BadInput, match=r"00000.safetensors, .*: was made from base generator abc, expected def"):
        load_candidates("def", folder)


def test_latents_of_unlike_shapes(folder, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    parts = [torch.zeros(2, 1, 1, 1, 1), torch.zeros(2, 1, 2, 1, 1)]
    for file in (folder / "latents").iterdir():
        file.unlink()
    (folder / "latents").rmdir()
    save_shards(parts, folder / "latents", MADE_FROM)
    with pytest.raises(BadInput, match=r"00001.*: latents of shape \[1, 2, 1, 1\], earlier files have \[1, 1, 1, 1\]"):
        load_candidates("abc", folder)


def test_a_pair_without_latents(folder):
    file = write_pairs(folder, "c3", "c9")
    with pytest.raises(BadInput, match=r"pairs.parquet, row 0, key 'rejected': candidate c9 has no latents"):
        load_pairs(load_candidates("abc", folder), file)


def test_an_adapter_of_another_base(tmp_path):
    (tmp_path / "alignment.json").write_text(json.dumps({"base": "abc"}))
    check_base(tmp_path, "abc")
    with pytest.raises(BadInput, match=r"key 'base': was trained on base generator abc, not on def"):
        check_base(tmp_path, "def")
    with pytest.raises(BadInput, match=r"alignment.json/alignment.json: missing"):
        check_base(tmp_path / "alignment.json", "abc")


def test_a_round_goes_on_from_the_weights_before_and_from_no_others(tmp_path):
    before, after = tiny_generator().model, tiny_generator().model
    add_lora(before, LORA, seed=1)
    disturb(before)
    save_lora(before, tmp_path)
    add_lora(after, LORA, seed=2)
    resume_lora(after, tmp_path)
    for (name, one), two in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(one, two), name
        assert one.requires_grad == two.requires_grad
    narrower = tiny_generator().model
    add_lora(narrower, LORA.model_copy(update={"rank": 1}), seed=2)
    with pytest.raises(BadInput, match=r"key 'align.lora': is no LoRA of align.lora's rank and targets"):
        resume_lora(narrower, tmp_path)


@pytest.mark.parametrize(("method", "key"), [("dpo", "beta"), ("rwr", "temperature")])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_beta_and_temperature_are_positive(tmp_path, method, key, value):
    params = load_params().model_dump()
    params["align"][method][key] = value
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    with pytest.raises(BadInput, match=rf"params.yaml, row \d+, key 'align.{method}.{key}': Input should be greater than 0"):
        load_params(tmp_path / "params.yaml")
