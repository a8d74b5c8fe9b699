"""LoRA files rewritten for another tool: the same change of the same weights under its names.

| dialect | names of layers | matrices | strength |
|---|---|---|---|
| `diffusers` | diffusers', after `transformer.` | `lora_A`, `lora_B` | PEFT's configuration in the header |
| `comfyui` | the authors', after `diffusion_model.` | `lora_down`, `lora_up` | `.alpha`, in blocks alone |
| `ai-toolkit` | the authors', after `diffusion_model.` | `lora_A`, `lora_B` | in the matrices |
| `kohya` (and musubi-tuner) | the authors' with `_` for dots, after `lora_unet_` | `lora_down`, `lora_up` | `.alpha` |
| `diffsynth` | the authors', without a prefix | `lora_A.default`, `lora_B.default` | in the matrices |

Where a dialect states alpha, the matrices stay as they are and alpha / rank stays too. Otherwise alpha / rank is in B, in
float32 where rounding to the file's precision would change it. Differences, LoKr and LoHa have a place in `comfyui` and
`kohya` alone. diffusers refuses a `comfyui` file with an `.alpha` outside the blocks, so that has none.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file

from components.errors import BadInput
from components.files.atomic import whole_file
from components.generator.family import Network
from components.generator.lora_config import HEADER, OURS
from components.generator.lora_file import Reader, open_lora, read_lora, sort_header
from components.generator.lora_names import OriginalName, flat

IN_A_BLOCK = re.compile(r"\.\d+\..")
PAIR = frozenset({"down", "up", "alpha"})
STRENGTHS = (HEADER, "lora_alpha", "lora_config")  # of a header, which another dialect states elsewhere


@dataclass(frozen=True)
class Dialect:
    """prefix and matrices: of keys. originals: layers have the authors' names. flat: `_` for dots. alpha: where the strength
    is. products: differences, LoKr and LoHa have a place."""

    prefix: str
    down: str
    up: str
    originals: bool = True
    flat: bool = False
    alpha: str = "matrices"  # or header, tensors
    products: bool = False

    def key(self, name: str, kind: str) -> str:
        suffix = {"down": self.down, "up": self.up}.get(kind, kind)
        return f"{self.prefix}{flat(name) if self.flat else name}.{suffix}"


DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        "diffusers": Dialect("transformer.", "lora_A.weight", "lora_B.weight", originals=False, alpha="header"),
        "comfyui": Dialect("diffusion_model.", "lora_down.weight", "lora_up.weight", alpha="tensors", products=True),
        "ai-toolkit": Dialect("diffusion_model.", "lora_A.weight", "lora_B.weight"),
        "kohya": Dialect("lora_unet_", "lora_down.weight", "lora_up.weight", flat=True, alpha="tensors", products=True),
        "diffsynth": Dialect("", "lora_A.default.weight", "lora_B.default.weight"),
    }
)


@dataclass(frozen=True)
class Layer:
    """One changed layer of a file: kinds of its tensors; rank and alpha / rank of a low-rank pair."""

    name: str
    kinds: tuple[str, ...]
    rank: int | None
    scale: float | None


@dataclass(frozen=True)
class Inspected:
    """A file that can be applied. dialect: None where its keys are of none or of several in DIALECTS."""

    file: Path
    dialect: str | None
    layers: list[Layer]
    tensors: int
    dtypes: dict[str, int]


def inspect_lora(path: Path, transformer: Network, original_name: OriginalName) -> Inspected:
    """What a LoRA file changes in this transformer, which may be shapes alone. BadInput as of `read_lora`."""
    read_lora(path, transformer, original_name)
    reader, keys = open_lora(path, transformer, original_name)
    layers = [layer_of(reader, name, own) for name, own in keys.items()]
    dtypes = Counter(str(value.dtype).removeprefix("torch.") for value in raw_tensors(reader.file).values())
    found = {dialect_of(key) for own in keys.values() for kind, key in own.items() if kind in ("down", "up")}
    if found == {"ai-toolkit"} and any("alpha" in own for own in keys.values()):
        found = {"comfyui"}
    dialect = found.pop() if len(found) == 1 else None
    return Inspected(reader.file, dialect, layers, len(reader.tensors), dict(sorted(dtypes.items())))


def layer_of(reader: Reader, name: str, keys: dict[str, str]) -> Layer:
    if "down" not in keys:
        return Layer(name, tuple(sorted(keys)), None, None)
    rank = len(reader.tensors[keys["down"]])
    return Layer(name, tuple(sorted(keys)), rank, reader.scale(name, keys, rank))


def dialect_of(key: str) -> str | None:
    """The dialect that a matrix has this key in."""
    for name, own in sorted(DIALECTS.items(), key=lambda item: -len(item[1].prefix)):
        if key.startswith(own.prefix) and key.endswith((f".{own.down}", f".{own.up}")):
            return name
    return None


def convert_lora(path: Path, out: Path, to: str, transformer: Network, original_name: OriginalName) -> Inspected:
    """Write the LoRA at `path` to the file `out` in the dialect `to`. BadInput, and no file, where it cannot be applied
    whole, or where the dialect has no place for one of its tensors, which the message names."""
    read_lora(path, transformer, original_name)
    reader, keys = open_lora(path, transformer, original_name)
    raw = raw_tensors(reader.file)
    dialect, tensors, strengths = DIALECTS[to], {}, {}
    for layer, own in keys.items():
        name = name_in(reader.file, dialect, to, layer, own, original_name)
        other = sorted(kind for kind in own if kind not in PAIR)
        if other and not dialect.products:
            raise BadInput(reader.file, f"{to} files have no place for it; {with_products()} have", key=own[other[0]])
        if "magnitude" in own:
            raise BadInput(reader.file, "DoRA is normed differently by tools: it is not converted", key=own["magnitude"])
        if "down" in own:
            found = layer_of(reader, layer, own)
            assert found.rank is not None and found.scale is not None
            strengths[layer] = found.rank, found.scale
            tensors |= pair_in(dialect, name, raw[own["down"]], raw[own["up"]], found.rank, found.scale)
        elif any(kind.startswith(("lokr", "hada")) for kind in own) and reader.config.peft_type is not None:
            raise BadInput(
                reader.file, "its strength is in PEFT's configuration: it is not converted", key=min(own.values())
            )
        for kind in other:
            if kind == "up_bias":
                bias = reader.up_bias(layer, own)()
                tensors[dialect.key(name, "diff_b")] = bias + raw[own["diff_b"]].float() if "diff_b" in own else bias
            elif (key := dialect.key(name, kind)) not in tensors:
                tensors[key] = raw[own[kind]]
        if "alpha" in own and "down" not in own:
            tensors[dialect.key(name, "alpha")] = raw[own["alpha"]]
    header = {key: value for key, value in reader.header.items() if key not in STRENGTHS} | {"format": "pt"}
    if dialect.alpha == "header":
        header[HEADER] = peft_header(strengths)
    with whole_file(out) as partial:
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial, header)
        sort_header(partial)
    return inspect_lora(out, transformer, original_name)


def name_in(file: Path, dialect: Dialect, to: str, layer: str, keys: dict[str, str], original_name: OriginalName) -> str:
    """The dialect's name of a layer; BadInput names a tensor of one that has none."""
    name = original_name(layer) if dialect.originals else layer
    if name is None:
        raise BadInput(file, f"{to} files have no name for {layer}", key=min(keys.values()))
    return name


def pair_in(
    dialect: Dialect, name: str, down: torch.Tensor, up: torch.Tensor, rank: int, scale: float
) -> dict[str, torch.Tensor]:
    """A low-rank pair in a dialect, with its strength where that states it in tensors."""
    stated = dialect.flat or IN_A_BLOCK.search(name) is not None
    if dialect.alpha == "matrices" or (dialect.alpha == "tensors" and not stated):
        up = times(up, scale)
    found = {dialect.key(name, "down"): down, dialect.key(name, "up"): up}
    if dialect.alpha == "tensors" and stated:
        found[dialect.key(name, "alpha")] = torch.tensor(scale * rank)
    return found


def times(up: torch.Tensor, scale: float) -> torch.Tensor:
    """scale B: in B's precision where that rounds nothing, else in float32."""
    exact = up.float() * scale
    rounded = exact.to(up.dtype)
    return rounded if torch.equal(rounded.float(), exact) else exact


def peft_header(strengths: dict[str, tuple[int, float]]) -> str:
    """PEFT's configuration of these layers (rank, alpha / rank), as diffusers keeps it in a header."""
    (rank, scale), _ = Counter(strengths.values()).most_common(1)[0]
    others = {layer: own for layer, own in strengths.items() if own != (rank, scale)}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank * scale,  # pyright: ignore[reportArgumentType]  # a float, where the annotation has an integer
        target_modules=list(strengths),
        rank_pattern={layer: own for layer, (own, _) in others.items()},
        alpha_pattern={layer: own * its for layer, (own, its) in others.items()},  # pyright: ignore[reportArgumentType]
    ).to_dict()
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order would change the file from run to run
    return json.dumps({f"{OURS}{key}": value for key, value in config.items()}, indent=2, sort_keys=True)


def raw_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file in their own precision."""
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # it is no mapping


def with_products() -> str:
    return " and ".join(name for name, own in DIALECTS.items() if own.products)
