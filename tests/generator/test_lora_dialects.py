"""A LoRA in any dialect, rewritten for any other, draws the clip of the diffusers pipeline with the source's change."""

import copy
import json
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file

from components.cli.main import main
from components.config.params import load_params
from components.errors import BadInput
from components.generator.families.wan_lora import wan_name
from components.generator.families.wan_small import save_generator
from components.generator.family import VelocityModel
from components.generator.folder import load_generator
from components.generator.lora import apply_lora
from components.generator.lora_dialects import DIALECTS, convert_lora, inspect_lora
from components.generator.sampler import Job, noise_of, solve
from tests.generator.lora_files import write
from tests.generator.small import tiny_generator

RANK, ALPHA = 4, 8.0
ATTENTION = [
    f"blocks.{b}.{a}.{part}" for b in (0, 1) for a in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v", "to_out.0")
]
LINEAR = [*ATTENTION, *(f"blocks.{b}.ffn.{part}" for b in (0, 1) for part in ("net.0.proj", "net.2"))]
HEAD = [*LINEAR, "condition_embedder.time_proj", "proj_out"]
PROMPT = "a blue circle moving down"
SAMPLING = load_params().sampling.model_copy(
    update={"steps": 2, "height": 16, "width": 16, "frames": 5, "solver": "folder", "shift": None, "guidance_scale": 3.0}
)


def header(alpha: float) -> dict[str, str]:
    """As diffusers writes it beside a PEFT adapter."""
    config = LoraConfig(r=RANK, lora_alpha=alpha, target_modules=["to_q", "to_k", "to_v", "to_out.0"]).to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    return {"format": "pt", "lora_adapter_metadata": json.dumps({f"transformer.{key}": own for key, own in config.items()})}


def own(layer: str) -> str:
    name = wan_name(layer)
    assert name is not None
    return name


def kohya(layer: str) -> str:
    return "lora_unet_" + own(layer).replace(".", "_")


def low_rank(layers, key, down="lora_A.weight", up="lora_B.weight", alpha=None, metadata=None):
    """Of a layout: layers, key of a layer, suffixes, alpha in tensors, header."""
    return {"layers": layers, "key": key, "down": down, "up": up, "alpha": alpha, "metadata": metadata}


COMFY = ("lora_down.weight", "lora_up.weight")
DEFAULT = ("lora_A.default.weight", "lora_B.default.weight")
LAYOUTS = {
    "diffusers, alpha in the header": low_rank(ATTENTION, "transformer.{}".format, metadata=header(ALPHA)),
    "diffusers, no header": low_rank(LINEAR, "transformer.{}".format),
    "diffusers, one layer": low_rank(ATTENTION[:1], "transformer.{}".format),
    "PEFT": low_rank(ATTENTION, "base_model.model.{}".format, metadata=header(ALPHA)),
    "PEFT, bare names": low_rank(ATTENTION, str, *DEFAULT),
    "ComfyUI": low_rank(LINEAR, lambda layer: f"diffusion_model.{own(layer)}", *COMFY, alpha=ALPHA),
    "ComfyUI, embeddings and head": low_rank(HEAD, lambda layer: f"diffusion_model.{own(layer)}", *COMFY),
    "ai-toolkit": low_rank(LINEAR, lambda layer: f"diffusion_model.{own(layer)}"),
    "ai-toolkit, with alpha": low_rank(ATTENTION, lambda layer: f"diffusion_model.{own(layer)}", alpha=ALPHA),
    "kohya": low_rank(LINEAR, kohya, *COMFY, alpha=ALPHA),
    "kohya, attention alone": low_rank(ATTENTION[:8], kohya, *COMFY, alpha=2.0),
    "kohya, diffusers' names": low_rank(
        ATTENTION, lambda layer: "lora_unet_" + layer.replace(".", "_"), *COMFY, alpha=ALPHA
    ),
    "kohya, embeddings and head": low_rank(HEAD, kohya, *COMFY, alpha=ALPHA),
    "kohya, mixed ranks": low_rank(LINEAR, kohya, *COMFY, alpha=ALPHA) | {"mixed": True},
    "DiffSynth": low_rank(LINEAR, own, *DEFAULT),
    "DiffSynth, of its pipeline": low_rank(LINEAR, lambda layer: f"pipe.dit.{own(layer)}", *DEFAULT),
}
# Those that diffusers itself reads as they are.
READ_BY_DIFFUSERS = {name for name in LAYOUTS if name.startswith(("diffusers", "ComfyUI", "ai-toolkit"))} | {"kohya"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A generator whose text is padded as WanPipeline does by default."""
    path = tmp_path_factory.mktemp("wan") / "generator"
    generator = tiny_generator()
    generator.text.tokenizer.model_max_length = 512
    save_generator(generator, path, 3.0)
    return path


@pytest.fixture(scope="module")
def generator(folder):
    return load_generator(folder)


@pytest.fixture(scope="module")
def pipeline(folder):
    return WanPipeline.from_pretrained(folder, dtype=torch.float32)


def made(layout, transformer, folder, dtype=torch.float32):
    """The layout's file, and the change of each weight."""
    tensors, changes = {}, {}
    for place, layer in enumerate(layout["layers"]):
        draw = torch.Generator().manual_seed(place)
        wide, narrow = transformer.get_submodule(layer).weight.shape
        rank = RANK + 2 * (place % 3) if layout.get("mixed") else RANK
        down = (torch.randn(rank, narrow, generator=draw) * 0.3).to(dtype)
        up = (torch.randn(wide, rank, generator=draw) * 0.3).to(dtype)
        stem = layout["key"](layer)
        tensors |= {f"{stem}.{layout['down']}": down, f"{stem}.{layout['up']}": up}
        alpha = rank if layout["alpha"] is None else layout["alpha"]
        if layout["alpha"] is not None:
            tensors[f"{stem}.alpha"] = torch.tensor(alpha)
        elif layout["metadata"] is not None:
            alpha = ALPHA
        changes[f"{layer}.weight"] = alpha / rank * up.float() @ down.float()
    return write(folder, tensors, "a name of mine.safetensors", layout["metadata"]), changes


def by_pipeline(pipeline, changes=None, lora=None) -> torch.Tensor:
    """The pipeline's latents with changed weights, or with a LoRA by its own loader."""
    before = {name: pipeline.transformer.get_parameter(name).clone() for name in changes or {}}
    for name, change in (changes or {}).items():
        pipeline.transformer.get_parameter(name).data += change
    if lora is not None:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    noise = noise_of(1, (4, 3, 4, 4))[None]
    try:
        return pipeline(
            PROMPT,
            latents=noise,
            output_type="latent",
            **{"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 3.0},
        ).frames
    finally:
        pipeline.unload_lora_weights()
        for name, value in before.items():
            pipeline.transformer.get_parameter(name).data.copy_(value)


def by_us(generator, lora) -> torch.Tensor:
    transformer = copy.deepcopy(generator.model.transformer)
    apply_lora(transformer, lora, True, wan_name)
    changed = replace(generator, model=VelocityModel(generator.model.family, transformer).eval())
    return solve(changed, [Job("a", PROMPT, 1)], SAMPLING)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_dialect_draws_the_clip_of_the_source(generator, pipeline, tmp_path, name):
    transformer = generator.model.transformer
    source, changes = made(LAYOUTS[name], transformer, tmp_path)
    wanted = by_pipeline(pipeline, changes)
    assert not torch.allclose(wanted, by_pipeline(pipeline), atol=1e-2)
    close(by_us(generator, source), wanted)
    if name in READ_BY_DIFFUSERS:
        close(by_pipeline(pipeline, lora=source), wanted)
    before = inspect_lora(source, transformer, wan_name)
    for to, dialect in DIALECTS.items():
        out = tmp_path / f"{to}.safetensors"
        after = convert_lora(source, out, to, transformer, wan_name)
        close(by_us(generator, out), wanted)
        if to in ("diffusers", "ai-toolkit", "comfyui") or (to == "kohya" and LAYOUTS[name]["layers"] is LINEAR):
            close(by_pipeline(pipeline, lora=out), wanted)
        assert after.dialect == to
        if dialect.alpha != "matrices":
            blocks = [
                {(own.name, own.rank, own.scale) for own in found.layers if "blocks" in own.name}
                for found in (before, after)
            ]
            assert blocks[0] == blocks[1]


@pytest.mark.parametrize("to", DIALECTS)
def test_rank_16_with_alpha_32_stays_2(generator, tmp_path, to):
    """In the dialect's own terms: matrices and what states alpha, not our reader."""
    down, up = torch.randn(16, 24), torch.randn(24, 16)
    stem = "lora_unet_blocks_1_cross_attn_v"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(32.0)}
    out = tmp_path / "out.safetensors"
    convert_lora(write(tmp_path, tensors, "a.safetensors"), out, to, generator.model.transformer, wan_name)
    with safe_open(out, "pt") as opened:
        found, told = {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    scale = next((float(value) / 16 for key, value in found.items() if key.endswith(".alpha")), 1.0)
    if "lora_adapter_metadata" in told:
        config = json.loads(told["lora_adapter_metadata"])
        scale = config["transformer.lora_alpha"] / config["transformer.r"]
        assert scale == 2
    a, b = (
        next(value for key, value in found.items() if any(f".{n}." in key for n in names))
        for names in (("lora_A", "lora_down"), ("lora_B", "lora_up"))
    )
    torch.testing.assert_close(scale * b @ a, 2 * up @ down)


def test_there_and_back_is_the_file(generator, tmp_path):
    """Half precision stays, and so do the bits: alpha is stated in both."""
    source, _ = made(LAYOUTS["kohya"], generator.model.transformer, tmp_path, torch.bfloat16)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    for dialect in ("diffusers", "comfyui"):
        convert_lora(source, there, dialect, generator.model.transformer, wan_name)
        convert_lora(there, back, "kohya", generator.model.transformer, wan_name)
        before, after = load_file(source), load_file(back)
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert after[key].dtype == value.dtype and torch.equal(after[key], value)


def test_a_strength_that_half_precision_would_round_goes_to_float32(generator, tmp_path):
    layout = LAYOUTS["kohya"] | {"alpha": 3.0}
    source, changes = made(layout, generator.model.transformer, tmp_path, torch.bfloat16)
    out = tmp_path / "out.safetensors"
    convert_lora(source, out, "ai-toolkit", generator.model.transformer, wan_name)
    transformer = copy.deepcopy(generator.model.transformer)
    apply_lora(transformer, out, True, wan_name)
    for name, change in changes.items():
        found = transformer.get_parameter(name) - generator.model.transformer.get_parameter(name)
        torch.testing.assert_close(found, change, rtol=0, atol=1e-6)


STEM = "diffusion_model.blocks.0.self_attn.q"
Q = {f"{STEM}.lora_down.weight": torch.ones(RANK, 24), f"{STEM}.lora_up.weight": torch.ones(24, RANK)}
BIAS = {
    "diffusion_model.blocks.0.ffn.2.diff_b": torch.ones(24),
    "diffusion_model.head.modulation.diff": torch.ones(1, 2, 24),
}
LOKR = {f"{STEM}.lokr_w1": torch.ones(4, 4), f"{STEM}.lokr_w2": torch.ones(6, 6)}
REFUSED = {  # tensors, dialect, key and reason
    "partial": (dict([next(iter(Q.items()))]), "diffusers", r"lora_up\.weight': missing, beside"),
    "doubled": (Q | {"blocks.0.self_attn.q.lora_A.weight": torch.ones(RANK, 24)}, "kohya", "a second one for the layer"),
    "wrong rank": (Q | {f"{STEM}.lora_up.weight": torch.ones(24, 3)}, "comfyui", r"is \(24, 3\), the transformer takes"),
    "of another model": (Q | {f"{STEM}.lora_down.weight": torch.ones(RANK, 25)}, "comfyui", r"is \(4, 25\)"),
    "more blocks": (
        Q | {key.replace("blocks.0", "blocks.7"): own for key, own in Q.items()},
        "comfyui",
        "no layer for this",
    ),
    ".diff, for diffusers": (
        Q | BIAS,
        "diffusers",
        r"(diff_b|diff)': diffusers files have no place for it; comfyui and kohya",
    ),
    ".diff, for DiffSynth": (Q | BIAS, "diffsynth", "diffsynth files have no place"),
    "LoKr, for ai-toolkit": (LOKR, "ai-toolkit", r"lokr_w1': ai-toolkit files have no place"),
    "LoKr of another size": (
        LOKR | {f"{STEM}.lokr_w2": torch.ones(5, 6)},
        "kohya",
        r"lokr_w1': is not a factor of \(24, 24\)",
    ),
    "DoRA": (Q | {f"{STEM}.lora_magnitude_vector": torch.ones(24)}, "comfyui", "DoRA is normed differently"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_whole_is_refused_by_its_key(generator, tmp_path, case):
    tensors, to, said = REFUSED[case]
    source, out = write(tmp_path, tensors, "style.safetensors"), tmp_path / "out.safetensors"
    with pytest.raises(BadInput, match=rf"style\.safetensors, key '.*{said}"):
        convert_lora(source, out, to, generator.model.transformer, wan_name)
    assert not out.exists()


@pytest.mark.parametrize("to", ["comfyui", "kohya"])
@pytest.mark.parametrize("kind", ["differences", "LoKr", "a bias of B"])
def test_differences_and_products_keep_their_effect(generator, tmp_path, to, kind):
    tensors = {
        "differences": Q | BIAS | {"diffusion_model.blocks.1.diff_m": torch.ones(1, 6, 24)},
        "LoKr": LOKR | {f"{STEM}.alpha": torch.tensor(2.0)},
        "a bias of B": {
            "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(RANK, 24),
            "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.ones(24, RANK),
            "transformer.blocks.0.attn1.to_q.lora_B.bias": torch.ones(24),
        },
    }[kind]
    source, out = write(tmp_path, tensors, "a.safetensors"), tmp_path / "b.safetensors"
    convert_lora(source, out, to, generator.model.transformer, wan_name)
    drawn = by_us(generator, source)
    close(by_us(generator, out), drawn)
    assert not torch.allclose(drawn, solve(generator, [Job("a", PROMPT, 1)], SAMPLING), atol=1e-2)


def test_the_command(folder, generator, tmp_path, monkeypatch, capsys):
    source, _ = made(LAYOUTS["kohya"], generator.model.transformer, tmp_path)
    out = tmp_path / "out.safetensors"

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["reelign", "lora", *map(str, words), "--generator", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None), capsys.readouterr().err
        return capsys.readouterr().out

    assert "20 layers: rank 4, alpha 8, strength 2" in run("convert", source, out, "--to", "comfyui")
    told = json.loads(run("inspect", out, "--json"))
    assert told["dialect"] == "comfyui" and told["tensors"] == 60 and told["layers"][0]["scale"] == 2
    monkeypatch.setattr(
        sys, "argv", ["reelign", "lora", "convert", str(source), str(out), "--to", "kohya", "--generator", str(folder)]
    )
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "exists already" in capsys.readouterr().err
    assert "dialect: kohya" in run("convert", source, out, "--to", "kohya", "--overwrite")
