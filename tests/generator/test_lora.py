"""A LoRA of any dialect changes the transformer by exactly W + alpha / rank B A, and by all of the file."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model

from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.families.wan import Wan
from tests.generator.lora_files import BLOCKS, RANK, WIDTH, apply_lora, changes, pair, random, wan, write

CASES = Path("../shared/cases/lora_layouts.json")
LAYOUTS = json.loads(CASES.read_text()) if CASES.exists() else {"lora_layouts.json is absent": None}
ALPHA = 4.0  # of .alpha tensors
REFUSED = {
    "diffusers_header_network_alpha": r"key 'lora_alpha': 16 in the header alone, rank is 8",
    "dora_scale_diffusers_names": r"key 'transformer\.blocks\.0\.attn1\.to_k\.dora_scale': is not a tensor of LoRA",
    "missing_up_alpha": r"key 'diffusion_model\.blocks\.0\.self_attn\.q\.lora_up\.weight': missing, beside '.*lora_down",
    "transformer_and_2": r"key 'transformer_2\.blocks\.0\..*': this model has no layer for this tensor",
}
PEFT_ALPHA = {"diffusers_meta_alpha_32_r8": 32, "metadata_new_peft_key": 16, "metadata_without_prefix": 16}
WITHOUT_ALPHA = {"lokr_comfy", "lokr_diffusers"}  # two full matrices
DTYPES = {"F32": torch.float32, "F8_E4M3": torch.float8_e4m3fn}
PLACES = {  # of diffusers' names, by Wan's
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.o": "attn2.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    **{
        f"{own}.{part}": f"{theirs}.to_{part}"
        for own, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for part in "qkv"
    },
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "time_projection.1": "condition_embedder.time_proj",
}


@pytest.fixture(scope="module")
def base():
    return wan()


def tensors_of(layout: dict) -> dict[str, torch.Tensor]:
    """Random tensors under the layout's names, of all blocks."""
    names = {}
    for key, (dtype, shape) in layout["tensors"].items():
        for block in range(BLOCKS):
            name = re.sub(r"blocks([._])0", rf"blocks\g<1>{block}", key)
            value = torch.tensor(ALPHA) if key.endswith("alpha") else random(*shape, seed=len(name) + block)
            names[name] = value.to(DTYPES[dtype])
    return names


def expected(base: torch.nn.Module, tensors: dict[str, torch.Tensor], alpha: float) -> dict[str, torch.Tensor]:
    """What the tensors add to which parameter, by hand."""
    layers: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        key = re.sub(r"lora_unet_blocks_(\d)[._](self_attn|cross_attn|ffn)[._](\w)", r"blocks.\1.\2.\3", key)
        key = re.sub(r"^(base_model\.model|transformer|diffusion_model|pipe\.dit)\.", "", key).replace(".default", "")
        layer, kind = re.fullmatch(r"(.+?)\.(lora_(?:A|B|up|down)\.weight|\w+)", key).groups()
        block, _, name = re.fullmatch(r"((blocks\.\d+\.)?)(.*)", layer).groups()
        layers.setdefault(block + PLACES.get(name, name), {})[kind] = value.float()
    added = {}
    for layer, parts in layers.items():
        down, up = (parts.get(f"lora_{a}.weight", parts.get(f"lora_{b}.weight")) for a, b in (("A", "down"), ("B", "up")))
        if down is not None:
            added[f"{layer}.weight"] = float(parts.get("alpha", alpha)) / RANK * up @ down
        if "lora_magnitude_vector" in parts:
            weight = base.get_parameter(f"{layer}.weight")
            turned = weight + added[f"{layer}.weight"]
            added[f"{layer}.weight"] = (
                torch.nn.functional.normalize(turned) * parts["lora_magnitude_vector"][:, None] - weight
            )
        if "lokr_w1" in parts:
            added[f"{layer}.weight"] = torch.kron(parts["lokr_w1"], parts["lokr_w2"])
        if "diff" in parts:
            added[f"{layer}.weight"] = parts["diff"]
        if "diff_b" in parts:
            added[f"{layer}.bias"] = parts["diff_b"]
    return added


def flow(transformer: torch.nn.Module) -> torch.Tensor:
    return Wan().velocity(transformer, random(1, 8, 2, 4, 4), torch.tensor([0.5]), Conditioning({"text": random(1, 6, 16)}))


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_applied_whole_or_refused_by_name(base, tmp_path, name):
    if LAYOUTS[name] is None:
        pytest.skip(f"{CASES} is not here")
    layout, model = LAYOUTS[name], copy.deepcopy(base)
    tensors = tensors_of(layout)
    path = write(tmp_path, tensors, layout["file"], layout["metadata"])
    if name in REFUSED:
        with pytest.raises(BadInput, match=rf"^{re.escape(str(path))}, {REFUSED[name]}"):
            apply_lora(model, tmp_path, merge=True)
        assert not changes(base, model)
        return
    apply_lora(model, tmp_path, merge=True)
    wanted, found = expected(base, tensors, PEFT_ALPHA.get(name, RANK)), changes(base, model)
    assert found.keys() == wanted.keys()
    by_hand = copy.deepcopy(base)
    for parameter, change in wanted.items():
        by_hand.get_parameter(parameter).data += change
        torch.testing.assert_close(found[parameter], change, rtol=0, atol=1e-6)
    torch.testing.assert_close(flow(model), flow(by_hand), rtol=0, atol=1e-5)
    assert not torch.allclose(flow(model), flow(base), atol=1e-3)


NAMES = {
    "bare, Wan's": "blocks.1.self_attn.q",
    "bare, diffusers'": "blocks.1.attn1.to_q",
    "PEFT of a pipeline's part": "transformer.base_model.model.blocks.1.attn1.to_q",
    "a bound model": "model.diffusion_model.blocks.1.self_attn.q",
    "unet": "unet.blocks.1.attn1.to_q",
    "several processes": "module.blocks.1.attn1.to_q",
    "distillation": "generator.model._fsdp_wrapped_module.blocks.1.self_attn.q",
    "compiled": "transformer._orig_mod.blocks.1._orig_mod.attn1.to_q",
    "kohya, diffusers' names": "lora_unet_blocks_1_attn1_to_q",
    "kohya, another prefix": "lora_transformer_blocks_1_attn1_to_q",
    "kohya, two underscores": "lora_unet__blocks_1_self_attn_q",
    "LyCORIS": "lycoris_blocks_1_attn1_to_q",
}
MATRICES = [
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A", "lora_B"),
    ("lora_A.my-style.weight", "lora_B.my-style.weight"),
    ("lora_down.weight", "lora_up.weight"),
    ("lora.down.weight", "lora.up.weight"),
    ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
]


@pytest.mark.parametrize("stem", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("matrices", MATRICES, ids=[down for down, _ in MATRICES])
def test_any_prefix_goes_with_any_names(base, tmp_path, stem, matrices):
    model, tensors = copy.deepcopy(base), pair(stem, *matrices)
    apply_lora(model, write(tmp_path, tensors, "style.safetensors"), merge=True)
    down, up = tensors.values()
    (name, change), *others = changes(base, model).items()
    assert name == "blocks.1.attn1.to_q.weight" and not others
    torch.testing.assert_close(change, up @ down, rtol=0, atol=1e-6)


HEAD = {  # Wan's own name: diffusers' parameter
    "patch_embedding.diff": "patch_embedding.weight",
    "patch_embedding.diff_b": "patch_embedding.bias",
    "text_embedding.0.diff": "condition_embedder.text_embedder.linear_1.weight",
    "text_embedding.2.diff_b": "condition_embedder.text_embedder.linear_2.bias",
    "time_embedding.0.diff_b": "condition_embedder.time_embedder.linear_1.bias",
    "time_embedding.2.diff": "condition_embedder.time_embedder.linear_2.weight",
    "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    "head.head.diff": "proj_out.weight",
    "head.head.diff_b": "proj_out.bias",
    "head.modulation.diff": "scale_shift_table",
    "head.diff_m": "scale_shift_table",
    "blocks.1.modulation.diff": "blocks.1.scale_shift_table",
    "blocks.1.diff_m": "blocks.1.scale_shift_table",
    "blocks.1.norm3.diff": "blocks.1.norm2.weight",
    "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
    "blocks.1.self_attn.norm_k.diff": "blocks.1.attn1.norm_k.weight",
    "blocks.1.cross_attn.norm_q.diff": "blocks.1.attn2.norm_q.weight",
    "blocks.1.cross_attn.o.diff_b": "blocks.1.attn2.to_out.0.bias",
    "blocks.1.ffn.0.diff": "blocks.1.ffn.net.0.proj.weight",
}


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("key", HEAD)
def test_differences_are_added_in_full(base, tmp_path, key, merge):
    model = copy.deepcopy(base)
    change = random(*base.get_parameter(HEAD[key]).shape)
    path = write(tmp_path, {f"diffusion_model.{key}": change, "diffusion_model.blocks.0.ffn.2.diff_b": torch.zeros(WIDTH)})
    apply_lora(model, path, merge)
    found = changes(base, model)
    assert found.keys() == {HEAD[key]}
    torch.testing.assert_close(found[HEAD[key]], change, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stated", [True, False], ids=["alpha 3", "no alpha"])
@pytest.mark.parametrize("kind", ["LoKr, second low-rank", "LoKr, both low-rank", "LoHa", "LoRA of the patches"])
def test_products_of_other_kinds(base, tmp_path, kind, stated):
    """As LyCORIS works them out: kron(w1, w2) and (a b) (c d), times alpha / rank."""
    model, stem, scale = copy.deepcopy(base), "lycoris_blocks_0_attn2_to_v", 3 / 2 if stated else 1
    name, parts = "blocks.0.attn2.to_v.weight", {}
    if kind == "LoHa":
        parts = {
            f"hada_w{i}_{part}": random(*shape, seed=i) for i in (1, 2) for part, shape in (("a", (96, 2)), ("b", (2, 96)))
        }
        wanted = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    elif kind == "LoRA of the patches":
        stem, name = "diffusion_model.patch_embedding", "patch_embedding.weight"
        parts = {"lora_down.weight": random(2, 8, 1, 2, 2), "lora_up.weight": random(96, 2, 1, 1, 1)}
        wanted = torch.einsum("or,rctyx->octyx", parts["lora_up.weight"][..., 0, 0, 0], parts["lora_down.weight"])
    else:
        parts = {"lokr_w1": random(4, 4), "lokr_w2_a": random(24, 2), "lokr_w2_b": random(2, 24)}
        if "both" in kind:
            del parts["lokr_w1"]
            parts |= {"lokr_w1_a": random(4, 2), "lokr_w1_b": random(2, 4)}
        first = parts.get("lokr_w1", parts["lokr_w1_a"] @ parts["lokr_w1_b"] if "both" in kind else None)
        second = parts["lokr_w2_a"] @ parts["lokr_w2_b"]
        wanted = (first[:, None, :, None] * second[None, :, None, :]).reshape(96, 96)
    if stated:
        parts["alpha"] = torch.tensor(3)
    apply_lora(model, write(tmp_path, {f"{stem}.{part}": value for part, value in parts.items()}), merge=True)
    found = changes(base, model)
    assert found.keys() == {name}
    torch.testing.assert_close(found[name], scale * wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("layers", ["q of one block", "all"])
def test_bfloat16_keeps_low_rank_changes_beside_the_weights(base, tmp_path, layers):
    """A change too small for a bfloat16 weight still moves the velocity; what is added to a weight is rounded once."""
    linear = {name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and "blocks" in name}
    changed = {"blocks.0.attn1.to_q"} if layers != "all" else linear
    tensors = {}
    for layer in changed:
        width_out, width_in = base.get_submodule(layer).weight.shape
        rank = 2 + len(layer) % 3
        tensors |= {
            f"{layer}.lora_A.weight": random(rank, width_in),
            f"{layer}.lora_B.weight": 1e-2 * random(width_out, rank),
        }
    bias = random(WIDTH)
    model = copy.deepcopy(base).bfloat16()
    apply_lora(model, write(tmp_path, tensors | {"blocks.0.attn1.to_q.diff_b": bias}), merge=False)
    beside = {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert beside.keys() == changed
    for layer, module in beside.items():
        old = base.get_submodule(layer)
        down, up = (tensors[f"{layer}.lora_{part}.weight"].bfloat16().float() for part in "AB")
        assert torch.equal(module.base_layer.weight, old.weight.bfloat16())
        torch.testing.assert_close(module.get_delta_weight("default").float(), up @ down, rtol=1e-2, atol=1e-6)
        added = bias if layer == "blocks.0.attn1.to_q" else 0
        assert torch.equal(module.base_layer.bias, (old.bias.bfloat16().float() + added).bfloat16())


@pytest.mark.parametrize("method", [{"lora_bias": True}, {"use_dora": True}], ids=["a trained bias", "DoRA"])
def test_a_folder_that_peft_wrote(base, tmp_path, method):
    """adapter_model.safetensors with adapter_config.json: other ranks and alphas by pattern, rsLoRA."""
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "ffn.net.2"],
        rank_pattern={"ffn.net.2": 2},
        alpha_pattern={"blocks.1.attn1.to_q": 3},
        use_rslora=True,
        **method,
    )
    theirs = get_peft_model(copy.deepcopy(base), config)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    model = copy.deepcopy(base)
    apply_lora(model, tmp_path, merge=True)
    for name, parameter in theirs.merge_and_unload().named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-6)
    assert len(changes(base, model)) == (6 if "lora_bias" in method else 3) * BLOCKS


@pytest.mark.parametrize("config", [LoKrConfig, LoHaConfig])
@pytest.mark.parametrize("rank", [3, 200], ids=["low-rank", "whole, for LoKr"])
def test_a_folder_that_peft_wrote_by_another_method(base, tmp_path, config, rank):
    theirs = get_peft_model(copy.deepcopy(base), config(r=rank, alpha=rank / 2, target_modules=["to_k", "ffn.net.0.proj"]))
    for name, parameter in theirs.named_parameters():
        if "lokr_" in name or "hada_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    model = copy.deepcopy(base)
    apply_lora(model, tmp_path, merge=True)
    for name, parameter in theirs.merge_and_unload().named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-6)
    assert len(changes(base, model)) == 3 * BLOCKS
