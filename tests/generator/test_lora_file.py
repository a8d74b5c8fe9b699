"""What of a LoRA file is refused: one line with the file and the tensor, before anything has changed."""

import copy
import random as random_module
import re

import pytest
import torch

from components.errors import BadInput
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.lora_file import LORA
from tests.generator.lora_files import RANK, WIDTH, apply_lora, changes, pair, random, read_lora, wan, write
from tests.generator.small import tiny_generator

STEM = "diffusion_model.blocks.0.self_attn.q"
DOWN, UP, ALPHA = f"{STEM}.lora_A.weight", f"{STEM}.lora_B.weight", f"{STEM}.alpha"
OTHER = pair("diffusion_model.blocks.1.ffn.0") | {"diffusion_model.blocks.1.ffn.0.lora_B.weight": random(4 * WIDTH, RANK)}
Q = pair(STEM)
NO_PLACE, NO_KIND = "this model has no layer for this tensor", "is not a tensor of LoRA, LoKr, LoHa"
LOKR = {f"{STEM}.lokr_w1": random(4, 4), f"{STEM}.lokr_w2": random(24, 24)}
LOHA = {f"{STEM}.hada_w{i}_{part}": random(*shape) for i in (1, 2) for part, shape in (("a", (96, 2)), ("b", (2, 96)))}
REFUSED = {  # what is wrong: tensors, the tensor named, what is said of it
    "no down": ({UP: Q[UP]}, DOWN, f"missing, beside '{re.escape(UP)}'"),
    "no up": ({DOWN: Q[DOWN]}, UP, f"missing, beside '{re.escape(DOWN)}'"),
    "no up, old diffusers": ({f"{STEM}.lora.down.weight": Q[DOWN]}, f"{STEM}.lora.up.weight", "missing"),
    "alpha alone": ({ALPHA: torch.tensor(4.0)}, ALPHA, "no matrices beside it"),
    "bias of B alone": ({f"{STEM}.lora_B.bias": random(WIDTH)}, f"{STEM}.lora_A.bias", "missing, beside"),
    "doubled, by dialect": (
        Q | {f"{STEM}.lora_down.weight": Q[DOWN]},
        f"{STEM}.lora_down.weight",
        "a second one for the layer",
    ),
    "doubled, by prefix": (Q | pair(STEM.removeprefix("diffusion_model.")), DOWN, "a second one for the layer"),
    "doubled, by adapter": (
        Q | pair(STEM, "lora_A.two.weight", "lora_B.two.weight"),
        f"{STEM}.lora_A.weight",
        "a second one",
    ),
    "both ways to name layers": (Q | pair("diffusion_model.blocks.1.attn1.to_k"), None, NO_PLACE),
    "Wan's second norm": (Q | {"blocks.0.norm2.diff": random(WIDTH)}, "blocks.0.norm2.diff", NO_PLACE),
    "too many in": ({DOWN: random(RANK, 97), UP: Q[UP]}, DOWN, r"is \(8, 97\), the transformer takes \(8, 96\)"),
    "too many out": ({DOWN: Q[DOWN], UP: random(97, RANK)}, UP, r"is \(97, 8\), the transformer takes \(96, 8\)"),
    "ranks differ": ({DOWN: Q[DOWN], UP: random(WIDTH, 4)}, UP, r"is \(96, 4\), the transformer takes \(96, 8\)"),
    "turned": ({DOWN: Q[UP], UP: Q[DOWN]}, DOWN, r"is \(96, 8\)"),
    "a vector": ({DOWN: random(WIDTH), UP: Q[UP]}, DOWN, r"is \(96,\), not a matrix"),
    "a shard of size 0": ({DOWN: torch.zeros(0), UP: torch.zeros(0)}, DOWN, r"is \(0,\), not a matrix"),
    "rank 0": ({DOWN: torch.zeros(0, WIDTH), UP: torch.zeros(WIDTH, 0)}, DOWN, "not a matrix"),
    "of a norm": (pair("diffusion_model.blocks.0.self_attn.norm_q"), None, "the transformer takes"),
    "NaN": ({DOWN: Q[DOWN] * float("nan"), UP: Q[UP]}, DOWN, "a weight is not finite"),
    "infinity in float16": ({DOWN: Q[DOWN], UP: (Q[UP] * 1e9).half()}, UP, "a weight is not finite"),
    "alpha 0": (Q | {ALPHA: torch.tensor(0.0)}, ALPHA, "alpha / rank is 0, not a strength above 0"),
    "alpha below 0": (Q | {ALPHA: torch.tensor(-8.0)}, ALPHA, "alpha / rank is -1, not a strength above 0"),
    "alpha NaN": (Q | {ALPHA: torch.tensor(float("nan"))}, ALPHA, "not finite"),
    "alphas": (Q | {ALPHA: torch.ones(2)}, ALPHA, r"is \(2,\)"),
    "int8": ({DOWN: torch.ones(RANK, WIDTH, dtype=torch.int8), UP: Q[UP]}, DOWN, "is of int8; weights are floating-point"),
    "8-bit with a scale": (Q | {f"{DOWN}_scale": torch.tensor(0.1)}, f"{DOWN}_scale", NO_KIND),
    "DoRA": (Q | {f"{STEM}.dora_scale": torch.ones(WIDTH, 1)}, f"{STEM}.dora_scale", NO_KIND),
    "DoRA's magnitude alone": (
        {f"{STEM}.lora_magnitude_vector": torch.ones(WIDTH)},
        f"{STEM}.lora_magnitude_vector",
        "no matrices beside it",
    ),
    "DoRA of another size": (
        Q | {f"{STEM}.lora_magnitude_vector": torch.ones(1)},
        f"{STEM}.lora_magnitude_vector",
        r"is \(1,\)",
    ),
    "DoRA and a difference": (
        Q | {f"{STEM}.lora_magnitude_vector": torch.ones(WIDTH), f"{STEM}.diff": random(WIDTH, WIDTH)},
        f"{STEM}.diff",
        "on the same weight as '.*lora_magnitude_vector'",
    ),
    "Tucker": (Q | {f"{STEM}.lora_mid.weight": random(8, 8, 1, 1)}, f"{STEM}.lora_mid.weight", NO_KIND),
    "a weight instead of a change": (Q | {f"{STEM}.weight": random(WIDTH, WIDTH)}, f"{STEM}.weight", NO_KIND),
    "LyCORIS' norm": (Q | {"lycoris_blocks_0_norm2.w_norm": random(WIDTH)}, "lycoris_blocks_0_norm2.w_norm", NO_KIND),
    "diff of another shape": (
        Q | {"blocks.0.modulation.diff": random(6, WIDTH)},
        "blocks.0.modulation.diff",
        r"is \(6, 96\)",
    ),
    "diff_b without a bias": (Q | {"head.modulation.diff_b": random(2)}, "head.modulation.diff_b", NO_PLACE),
    "patches of image-to-video": (
        {"diffusion_model.patch_embedding.diff": random(WIDTH, 36, 1, 2, 2)},
        "diffusion_model.patch_embedding.diff",
        r"is \(96, 36, 1, 2, 2\), the transformer takes \(96, 8, 1, 2, 2\)",
    ),
    "image-to-video": (Q | pair("diffusion_model.blocks.0.cross_attn.k_img"), None, NO_PLACE),
    "image-to-video, its norm": (
        Q | {"diffusion_model.blocks.0.cross_attn.norm_k_img.diff": random(WIDTH)},
        "diffusion_model.blocks.0.cross_attn.norm_k_img.diff",
        NO_PLACE,
    ),
    "more blocks": (Q | pair("diffusion_model.blocks.39.self_attn.q"), None, NO_PLACE),
    "VACE": (Q | pair("diffusion_model.vace_blocks.0.self_attn.q"), None, NO_PLACE),
    "second transformer": (Q | pair("transformer_2.blocks.0.self_attn.q"), None, NO_PLACE),
    "text encoder": (Q | pair("text_encoder.encoder.block.0.layer.0.SelfAttention.q"), None, NO_PLACE),
    "text encoder, kohya": (Q | pair("lora_te_encoder_block_0_layer_0_SelfAttention_q", "lora_down.weight"), None, NO_PLACE),
    "LoKr without its second": ({f"{STEM}.lokr_w1": random(4, 4)}, f"{STEM}.lokr_w2", "missing, beside '.*lokr_w1'"),
    "LoKr, half a product": (
        {f"{STEM}.lokr_w1": random(4, 4), f"{STEM}.lokr_w2_a": random(24, 2)},
        f"{STEM}.lokr_w2_b",
        "missing, beside",
    ),
    "LoKr twice": (LOKR | {f"{STEM}.lokr_w2_a": random(24, 2)}, f"{STEM}.lokr_w2", "whole, and again in '.*lokr_w2_a'"),
    "LoKr of another size": (LOKR | {f"{STEM}.lokr_w2": random(24, 25)}, f"{STEM}.lokr_w1", r"not a factor of \(96, 96\)"),
    "LoKr of more axes": (LOKR | {f"{STEM}.lokr_w1": random(4, 4, 2)}, f"{STEM}.lokr_w1", r"not a factor of \(96, 96\)"),
    "LoKr, Tucker": (LOKR | {f"{STEM}.lokr_t2": random(2, 2, 1)}, f"{STEM}.lokr_t2", NO_KIND),
    "LoHa without a part": ({k: v for k, v in LOHA.items() if "w2_b" not in k}, f"{STEM}.hada_w2_b", "missing, beside"),
    "LoHa of another size": (
        LOHA | {f"{STEM}.hada_w2_a": random(95, 2)},
        f"{STEM}.hada_w2_a",
        r"not a factor of \(96, 96\)",
    ),
    "two methods on a layer": (Q | LOKR, None, "LoRA and LoKr on one layer|LoKr and LoRA on one layer"),
}


@pytest.fixture(scope="module")
def base():
    return wan()


@pytest.mark.parametrize("wrong", REFUSED)
def test_the_tensor_is_named_and_nothing_changes(base, tmp_path, wrong):
    tensors, key, said = REFUSED[wrong]
    path, model = write(tmp_path, OTHER | tensors), copy.deepcopy(base)
    with pytest.raises(BadInput) as refusal:
        apply_lora(model, tmp_path, merge=True)
    line = str(refusal.value)
    assert line.startswith(f"{path}, key '{key}': " if key else f"{path}, key '") and "\n" not in line
    assert re.search(said, line), line
    assert not changes(base, model)


FOREIGN = {
    "Flux": pair("transformer.single_transformer_blocks.0.attn.to_q"),
    "HunyuanVideo": pair("diffusion_model.double_blocks.0.img_attn_qkv"),
    "HunyuanVideo, kohya": pair("lora_unet_double_blocks_0_img_attn_proj", "lora_down.weight", "lora_up.weight"),
    "LTX-Video": pair("diffusion_model.transformer_blocks.0.attn1.to_q"),
    "SDXL": pair("lora_unet_down_blocks_1_attentions_0_proj_in", "lora_down.weight", "lora_up.weight"),
    "a language model": pair("base_model.model.model.layers.0.self_attn.q_proj"),
    "a whole transformer": {"blocks.0.attn1.to_q.weight": random(WIDTH, WIDTH)},
    "an embedding": {"emb_params": random(4, 16)},
}


@pytest.mark.parametrize("model", FOREIGN)
def test_a_file_for_another_model(base, tmp_path, model):
    first = re.escape(min(FOREIGN[model]))
    with pytest.raises(BadInput, match=rf"key '{first}': no LoRA for this transformer: no tensor belongs to a layer of it$"):
        read_lora(write(tmp_path, FOREIGN[model]), base)


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{}", b"PK\x03\x04 a pickle", b"<!DOCTYPE html>", b"\xff" * 64])
def test_a_file_that_is_no_safetensors(base, tmp_path, content):
    (tmp_path / LORA).write_bytes(content)
    with pytest.raises(BadInput, match=rf"{LORA}: unreadable, no safetensors: "):
        read_lora(tmp_path, base)


def test_a_damaged_header_is_one_line_or_still_a_whole_lora(base, tmp_path):
    """Bytes of the header changed at random, its length among them; and the file cut anywhere."""
    whole = write(tmp_path, OTHER | Q, metadata={"lora_adapter_metadata": '{"r": 8, "lora_alpha": 8}'}).read_bytes()
    header, draw = 8 + int.from_bytes(whole[:8], "little"), random_module.Random(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(header)] = draw.randrange(256)
        cut = draw.randrange(len(whole)) if draw.random() < 0.2 else len(whole)
        (tmp_path / LORA).write_bytes(damaged[:cut])
        try:
            lora = read_lora(tmp_path, base)
        except BadInput as refusal:
            assert "\n" not in str(refusal)
        else:
            assert len(lora.pairs) == 2 and cut == len(whole)


def test_a_file_without_tensors(base, tmp_path):
    with pytest.raises(BadInput, match=rf"{LORA}: no tensor in it"):
        read_lora(write(tmp_path, {}), base)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_precision_is_read(base, tmp_path, dtype):
    tensors = {key: value.to(dtype) for key, value in Q.items()} | {ALPHA: torch.tensor(4)}  # an integer: musubi's converter
    ((down, up),) = read_lora(write(tmp_path, tensors), base).pairs.values()
    torch.testing.assert_close(down, tensors[DOWN].float(), rtol=0, atol=0)
    torch.testing.assert_close(up, tensors[UP].float() / 2, rtol=0, atol=0)


def test_a_lora_of_zeros_changes_nothing(base, tmp_path):
    model = copy.deepcopy(base)
    apply_lora(model, write(tmp_path, {DOWN: Q[DOWN], UP: torch.zeros(WIDTH, RANK)}), merge=True)
    assert not changes(base, model)


@pytest.mark.parametrize(
    "names", [["style.safetensors"], [LORA, "step-100.safetensors"], ["adapter_model.safetensors", "b.safetensors"]]
)
def test_a_folder_is_read_by_a_known_name_or_its_only_file(base, tmp_path, names):
    for name in names:
        write(tmp_path, Q if name == names[0] else {"something.else": random(1)}, name)
    assert list(read_lora(tmp_path, base).pairs) == ["blocks.0.attn1.to_q"]


def test_a_file_of_any_name_is_read(base, tmp_path):
    assert read_lora(write(tmp_path, Q, "My style (v2).ckpt"), base).pairs


def test_what_is_not_there_or_not_clear(base, tmp_path):
    with pytest.raises(BadInput, match=r"nowhere: no such file"):
        read_lora(tmp_path / "nowhere", base)
    with pytest.raises(BadInput, match=rf"{LORA}: no such file"):
        read_lora(tmp_path, base)
    for name in "ab":
        write(tmp_path, Q, f"{name}.safetensors")
    with pytest.raises(BadInput, match=r"holds 2 files, a.safetensors and others: name the file"):
        read_lora(tmp_path, base)


def test_a_part_of_a_lora_is_not_taken_for_all_of_it(base, tmp_path):
    """Large files are divided: each part by itself would be applied, and be a part of the change."""
    first, second = (f"style-0000{number}-of-00002.safetensors" for number in (1, 2))
    write(tmp_path, Q, first)
    write(tmp_path, OTHER, second)
    for given, part in ((tmp_path, 1), (tmp_path / first, 1), (tmp_path / second, 2)):
        with pytest.raises(
            BadInput, match=rf"style-0000{part}-of-00002\.safetensors: is part {part} of 2: save the LoRA as"
        ):
            read_lora(given, base)
    assert read_lora(write(tmp_path, Q, "style-00001-of-00001.safetensors"), base).pairs


@pytest.mark.parametrize("name", ["adapter_model.bin", "style.pt"])
def test_a_pickle_is_named_and_not_opened(base, tmp_path, name):
    torch.save(Q, tmp_path / name)
    for given in (tmp_path, tmp_path / name):
        with pytest.raises(BadInput, match=rf"{re.escape(name)}: a pickle, which may run code: save its tensors as safete"):
            read_lora(given, base)
    assert read_lora(write(tmp_path, Q, name), base).pairs, "a safetensors file under that name"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_generator_takes_any_lora_file(tmp_path, dtype):
    save_generator(tiny_generator(), tmp_path / "base")
    stem = "diffusion_model.blocks.0.self_attn.q"
    tensors = {
        f"{stem}.lora_down.weight": random(2, 24),
        f"{stem}.lora_up.weight": random(24, 2),
        f"{stem}.alpha": torch.tensor(1.0),
    }
    path = write(tmp_path, tensors, "style.safetensors")
    plain, styled = (
        load_generator(tmp_path / "base", lora, dtype).model.transformer.blocks[0].attn1.to_q for lora in (None, path)
    )
    x = random(3, 24).to(plain.weight.dtype)
    change = x.float() @ (tensors[f"{stem}.lora_up.weight"] @ tensors[f"{stem}.lora_down.weight"] / 2).T
    tolerance = 1e-5 if dtype == "float32" else 1e-2
    torch.testing.assert_close((styled(x) - plain(x)).float(), change, rtol=0, atol=tolerance)
    with pytest.raises(BadInput, match=r"style.safetensors, key '.*lora_up\.weight': missing"):
        write(tmp_path, {k: v for k, v in tensors.items() if "up" not in k}, "style.safetensors")
        load_generator(tmp_path / "base", path, dtype)
