"""A generator's folder: its family by model_index.json, and loading through it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config.types import Dtype
from components.errors import BadInput
from components.generator.families.hunyuan import Hunyuan
from components.generator.families.hunyuan15 import Hunyuan15
from components.generator.families.ltx import LTX
from components.generator.families.ltx2 import LTX2
from components.generator.families.mochi import Mochi
from components.generator.families.wan import Wan
from components.generator.family import HIGH_NOISE, LOW_NOISE, Family, Generator, Varied, VelocityModel, WithExperts
from components.generator.parts import INDEX, read_object, read_scheduler
from components.pipeline.stage import how_to_get

# The family of a pipeline's class, `_class_name` of model_index.json.
FAMILIES: dict[str, Family] = {
    "HunyuanVideo15Pipeline": Hunyuan15(),
    "HunyuanVideoPipeline": Hunyuan(),
    "LTX2Pipeline": LTX2(),
    "LTXPipeline": LTX(),
    "MochiPipeline": Mochi(),
    "WanImageToVideoPipeline": Wan(),
    "WanPipeline": Wan(),
}

# Pipelines that no family can serve, and why.
REFUSED = {
    "CogVideoXPipeline": "predicts the v of a diffusion (DDIM), which is no rectified flow: no velocity x1 - x0 to align"
}


def family_of(folder: str | Path, key: str | None = None) -> Family:
    """The family of a folder. BadInput where it is no pipeline folder or of an unknown class. key: of params.yaml."""
    return known_family(Path(folder), read_index(Path(folder), key), key)


def known_family(place: Path, index: dict[str, Any], key: str | None = None) -> Family:
    """The family that `_class_name` of `index` names; BadInput names the class and the families known."""
    name = index.get("_class_name")
    if name in REFUSED:
        raise BadInput(place, f"{name} {REFUSED[name]}", key=key or "_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise BadInput(place, f"is of class {name}; known are {', '.join(sorted(FAMILIES))}", key=key or "_class_name")
    family = FAMILIES[name]
    return family.variant(index) if isinstance(family, Varied) else family


def read_index(folder: Path, key: str | None = None) -> dict[str, Any]:
    """model_index.json of a folder; BadInput describes a folder without one."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise BadInput(folder, f"not there (no {INDEX}); {how_to_get(folder)}", key=key)
    if not (folder / INDEX).exists():
        raise BadInput(folder, _what_else(folder), key=key)
    return read_object(folder / INDEX)


def check_folder(folder: Path, key: str | None = None) -> Family:
    """The family of a folder. BadInput where it is of none, or lacks a file that its family needs. key: of params.yaml."""
    index = read_index(folder, key)
    family = known_family(folder / INDEX, index, key)
    family.check_folder(folder, index, key)
    return family


def load_generator(folder: str | Path, lora: str | Path | None = None, dtype: Dtype = "float32") -> Generator:
    """Read all of a generator's folder without gradients, onto the GPU where there is one; the VAE is always in float32.

    `lora` is merged into the transformer in float32. In bfloat16 it stays an adapter, as rounding would lose small updates.
    """
    family = check_folder(Path(folder))
    encoder = family.load_text(Path(folder), dtype)
    return family.load(Path(folder), lora, dtype).with_text(encoder)


def load_transformer(
    folder: str | Path, dtype: Dtype = "float32", experts: Sequence[str] = (HIGH_NOISE, LOW_NOISE)
) -> VelocityModel:
    """Only the transformer, on the CPU: training on cached latents and text needs no other part. experts: those of two
    transformers; a generator with one has no such choice."""
    family = family_of(folder)
    if isinstance(family, WithExperts) and family.boundary is not None:
        return VelocityModel(family, family.load_experts(Path(folder), dtype, experts))
    return VelocityModel(family, family.load_transformer(Path(folder), dtype))


def scheduler_of(folder: Path) -> str:
    """Class and shift of the folder's scheduler, as text."""
    config = read_scheduler(folder)
    shift = config.get("flow_shift", config.get("shift"))
    return f"{config.get('_class_name')} with shift {shift}"


def _what_else(folder: Path) -> str:
    """What a folder without model_index.json appears to be, by its file names."""
    single = sorted(path.name for path in folder.glob("*.safetensors"))
    inside = sorted(str(path.relative_to(folder).parent) for path in folder.glob("*/model_index.json"))
    if single:
        return f"a single-file checkpoint ({single[0]}), not a diffusers pipeline folder: give the folder named -Diffusers"
    if inside:
        return f"not a diffusers pipeline folder; {inside[0]} in it is one"
    return f"not a diffusers pipeline folder (no {INDEX})"
