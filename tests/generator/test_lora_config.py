"""Where a LoRA's strength is said: PEFT's configuration, a header's own entries; who wins, what is refused."""

import json
import math

import pytest
import torch

from components.errors import BadInput
from components.generator.lora_config import HEADER, PEFT_CONFIG, PEFT_WEIGHTS
from tests.generator.lora_files import RANK, pair, read_lora, wan, write

STEM = "transformer.blocks.0.attn1.to_q"
TENSORS = pair(STEM)
UP = TENSORS[f"{STEM}.lora_B.weight"]


@pytest.fixture(scope="module")
def base():
    return wan()


def scale(base, path) -> float:
    """What B was multiplied by."""
    ((_, up),) = read_lora(path, base).pairs.values()
    return float(up[0, 0] / UP[0, 0])


def header(**fields) -> dict[str, str]:
    return {HEADER: json.dumps(fields)}


SCALES = {
    "nothing said": ({}, 1),
    "a record of training": ({"ss_network_alpha": "16", "ss_network_dim": "8"}, 1),
    "alpha that equals the rank": ({"lora_alpha": "8"}, 1),
    "alpha": (header(r=8, lora_alpha=16), 2),
    "diffusers' prefix": (header(**{"transformer.lora_alpha": 24.0, "text_encoder.lora_alpha": 1}), 3),
    "a field of next year": (header(**{"transformer.lora_alpha": 16, "transformer.new": {"x": [1]}}), 2),
    "alpha of a pattern": (header(lora_alpha=16, alpha_pattern={"attn2.to_q": 8, r"blocks\.\d+\.attn1\.to_q": 32}), 4),
    "a pattern of Wan's names": (header(lora_alpha=16, alpha_pattern={"self_attn.q": 32}), 4),
    "rank of a pattern": (header(r=4, lora_alpha=16, rank_pattern={"^blocks.0.attn1.to_q": 8}), 2),
    "rsLoRA": (header(lora_alpha=16, use_rslora=True), 16 / math.sqrt(8)),
    "nulls": (header(r=None, lora_alpha=None, alpha_pattern=None, init_lora_weights=None), 1),
    "another start of the same base": (header(lora_alpha=8, init_lora_weights="gaussian"), 1),
}


@pytest.mark.parametrize("said", SCALES)
def test_strength(base, tmp_path, said):
    metadata, wanted = SCALES[said]
    assert scale(base, write(tmp_path, TENSORS, metadata=metadata)) == pytest.approx(wanted, rel=1e-6)


def test_an_alpha_tensor_and_the_configuration_agree_or_are_refused(base, tmp_path):
    tensors = TENSORS | {f"{STEM}.alpha": torch.tensor(16.0)}
    assert scale(base, write(tmp_path, tensors, metadata=header(r=RANK, lora_alpha=16))) == 2
    with pytest.raises(BadInput, match=r"key 'transformer.*\.alpha': 16, the configuration has 8"):
        read_lora(write(tmp_path, tensors, metadata=header(r=RANK, lora_alpha=8)), base)


REFUSED = {
    "alpha that no tool agrees on": ({"lora_alpha": "16"}, "key 'lora_alpha': 16 in the header alone, rank is 8"),
    "the same, as JSON": ({"lora_config": '{"r": 8, "lora_alpha": 4}'}, "key 'lora_config': 4 in the header alone"),
    "no JSON": ({HEADER: "{"}, f"key '{HEADER}': not readable: Expecting"),
    "no object": ({HEADER: "[1]"}, f"key '{HEADER}': not readable: no object"),
    "alpha is no number": (header(lora_alpha="high"), f"key '{HEADER}': lora_alpha: Input should be a valid number"),
    "alpha 0": (header(lora_alpha=0), "alpha / rank is 0, not a strength above 0"),
    "alpha infinite": ({HEADER: '{"lora_alpha": Infinity}'}, "alpha / rank is inf, not a strength above 0"),
    "another rank": (header(r=4, lora_alpha=8), "has rank 8, the configuration has 4"),
    "a pattern that is none": (header(lora_alpha=8, alpha_pattern={"(": 1}), "not readable: missing"),
    "another method": (
        header(peft_type="BOFT", lora_alpha=8),
        "key 'peft_type': BOFT is not applied; LoRA, LoKr and LoHa are",
    ),
    "a changed base": (header(lora_alpha=8, init_lora_weights="pissa_niter_4"), "key 'init_lora_weights': pissa_niter_4"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_configuration_that_cannot_be_followed(base, tmp_path, wrong):
    metadata, said = REFUSED[wrong]
    with pytest.raises(BadInput, match=said) as refusal:
        read_lora(write(tmp_path, TENSORS, metadata=metadata), base)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "wanted"), [(PEFT_WEIGHTS, 4), ("style.safetensors", 4)])
def test_adapter_config_beside_the_file(base, tmp_path, name, wanted):
    (tmp_path / PEFT_CONFIG).write_text(json.dumps({"r": 8, "lora_alpha": 32, "peft_type": "LORA"}))
    write(tmp_path, TENSORS, name)
    assert scale(base, tmp_path) == wanted
    assert scale(base, write(tmp_path, TENSORS, PEFT_WEIGHTS)) == 4
    other = write(tmp_path, TENSORS, "other.safetensors")
    assert scale(base, other) == 1, "the configuration is that of adapter_model.safetensors"
    (tmp_path / PEFT_CONFIG).write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match=rf"{PEFT_CONFIG}: not readable"):
        read_lora(tmp_path / PEFT_WEIGHTS, base)
