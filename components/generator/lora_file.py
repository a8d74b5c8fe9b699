"""Reads a LoRA file of any format in components/generator/lora.py into updates of a transformer's parameters."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from components.errors import BadInput
from components.generator.lora_config import PEFT_WEIGHTS, AdapterConfig, read_config, stated_alpha
from components.generator.lora_names import OriginalName, layer_names, own_parameters, parse, partner

LORA = "pytorch_lora_weights.safetensors"  # diffusers' name
# Method by kind of tensor: the part of its name before _w1.
METHODS = dict.fromkeys(("down", "up", "up_bias", "magnitude"), "LoRA") | {"lokr": "LoKr", "hada": "LoHa"}
PART = re.compile(r"-0*(\d+)-of-0*(\d+)\.safetensors")  # of a name that large files are divided under
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
Difference = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Lora:
    """Updates of a transformer in float32, by layer and parameter name.

    pairs: A [r, in, ...] and alpha / r B [out, r, ...] of a layer. differences: additions to a parameter, computed on
    demand, as all LoKr products of a large model would not fit in memory.
    """

    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
    differences: list[tuple[str, Difference]]


def read_lora(path: str | Path, transformer: torch.nn.Module, original_name: OriginalName) -> Lora:
    """Read the LoRA file at `path`, or in the folder `path`. original_name: the family's function of that name.

    BadInput names the file and the tensor that fits no layer, has no partner, has a wrong shape or kind, or is not finite.
    """
    reader, keys = open_lora(path, transformer, original_name)
    parameters, file = reader.parameters, reader.file
    lora = Lora({}, [])
    for layer, own in keys.items():
        methods = {METHODS[name]: key for kind, key in own.items() if (name := kind.split("_w")[0]) in METHODS}
        if len(methods) > 1:
            raise BadInput(file, f"{' and '.join(methods)} on one layer", key=min(methods.values()))
        if "alpha" in own and not methods:
            raise BadInput(file, "no matrices beside it", key=own["alpha"])
        if "magnitude" in own:
            lora.differences.append((f"{layer}.weight", reader.dora(layer, own)))
        elif "LoRA" in methods:
            lora.pairs[layer] = reader.pair(layer, own)
        if "up_bias" in own:
            lora.differences.append((f"{layer}.bias", reader.up_bias(layer, own)))
        if "LoKr" in methods:
            lora.differences.append((f"{layer}.weight", reader.lokr(layer, own)))
        if "LoHa" in methods:
            lora.differences.append((f"{layer}.weight", reader.loha(layer, own)))
        if "diff" in own:
            name = layer if layer in parameters else f"{layer}.weight"
            lora.differences.append((name, reader.difference(name, own["diff"])))
        if "diff_b" in own:
            lora.differences.append((f"{layer}.bias", reader.difference(f"{layer}.bias", own["diff_b"])))
    return lora


def open_lora(
    path: str | Path, transformer: torch.nn.Module, original_name: OriginalName
) -> tuple["Reader", dict[str, dict[str, str]]]:
    """The file's tensors, whose shapes are not checked yet, and their keys by layer of the transformer and kind."""
    file = find_file(Path(path))
    tensors, header = read_tensors(file)
    parameters = own_parameters(transformer)
    keys = sort_keys(file, list(tensors), parameters, original_name)
    return Reader(file, tensors, header, read_config(file, header), parameters, original_name), keys


def find_file(path: Path) -> Path:
    """The LoRA file at `path`: itself, or in a folder the one with diffusers' or PEFT's name, or its only safetensors.
    BadInput where it is a pickle, or one of several parts, whose layers alone would be a part of the change."""
    file = file_of_folder(path) if path.is_dir() else path
    if not file.exists():
        raise BadInput(file, "no such file")
    if file.suffix in PICKLES and not is_safetensors(file):
        raise BadInput(file, "a pickle, which may run code: save its tensors as safetensors")
    part = PART.search(file.name)
    if part and part[2] != "1":
        raise BadInput(file, f"is part {part[1]} of {part[2]}: save the LoRA as one file")
    return file


def file_of_folder(folder: Path) -> Path:
    for name in (LORA, PEFT_WEIGHTS):
        if (folder / name).exists():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1 and not PART.search(found[0].name):
        raise BadInput(folder, f"holds {len(found)} files, {found[0].name} and others: name the file")
    pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
    return next(iter([*found, *pickles]), folder / LORA)


def is_safetensors(file: Path) -> bool:
    """Whether a file of any name begins as safetensors does, which some programs save under names of pickles."""
    with open(file, "rb") as stream:
        return stream.read(9)[8:] == b"{"


def read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """All tensors of the file, in float32, and its header's own entries."""
    tensors = {}
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            for key in sorted(opened.keys()):
                tensors[key] = opened.get_tensor(key)
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(file, f"unreadable, no safetensors: {str(error).splitlines()[0]}") from error
    if not tensors:
        raise BadInput(file, "no tensor in it")
    for key, value in tensors.items():
        if not value.is_floating_point() and not key.endswith(".alpha"):
            raise BadInput(file, f"is of {str(value.dtype).removeprefix('torch.')}; weights are floating-point", key=key)
        tensors[key] = value.float()
        if not torch.isfinite(tensors[key]).all():
            raise BadInput(file, "a weight is not finite", key=key)
    return tensors, header


def sort_keys(
    file: Path, keys: list[str], parameters: dict[str, torch.nn.Parameter], original_name: OriginalName
) -> dict[str, dict[str, str]]:
    """Keys by layer of the transformer and kind. A whole file uses one of the two naming schemes, as one name (Wan's
    `norm2`) may be a different layer in each."""
    parsed, schemes = {key: parse(key) for key in keys}, layer_names(parameters, original_name)
    layers = max(schemes, key=lambda names: sum(bool(own) and own[0] in names for own in parsed.values()))
    if not any(own and own[0] in layers for own in parsed.values()):
        raise BadInput(file, "no LoRA for this transformer: no tensor belongs to a layer of it", key=keys[0])
    found: dict[str, dict[str, str]] = {}
    for key, own in parsed.items():
        if own is None:
            raise BadInput(file, "is not a tensor of LoRA, LoKr, LoHa, .diff, .diff_b or .diff_m: not applied", key=key)
        name, kind = own
        if name not in layers:
            raise BadInput(file, "this model has no layer for this tensor", key=key)
        kinds = found.setdefault(layers[name], {})
        if kind in kinds:
            raise BadInput(file, f"a second one for the layer, after '{kinds[kind]}'", key=key)
        kinds[kind] = key
    return found


@dataclass(frozen=True)
class Reader:
    """One file's tensors, each checked for shape and partners before use. `keys`: those of one layer, by kind."""

    file: Path
    tensors: dict[str, torch.Tensor]
    header: dict[str, str]
    config: AdapterConfig
    parameters: dict[str, torch.nn.Parameter]
    original_name: OriginalName

    def pair(self, layer: str, keys: dict[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
        """A, and alpha / rank B."""
        down, up = self._part(keys, "down"), self._part(keys, "up")
        weight, rank = self._parameter(f"{layer}.weight", keys["down"]), len(down)
        if weight.ndim < 2 or down.flatten(1).shape[1] != weight[0].numel():
            raise self._misfit(keys["down"], (rank, *weight.shape[1:]))
        if up.flatten(1).shape != (len(weight), rank):
            raise self._misfit(keys["up"], (len(weight), rank))
        return down, up * self.scale(layer, keys, rank)

    def dora(self, layer: str, keys: dict[str, str]) -> Difference:
        """The difference from W to m (W + alpha / rank B A) / |W + alpha / rank B A|, with magnitudes m [out] and the norm
        over the inputs of each output (PEFT's DoRA, arXiv 2402.09353)."""
        (down, up), weight, magnitude = self.pair(layer, keys), self.parameters[f"{layer}.weight"], keys["magnitude"]
        if "diff" in keys:
            raise BadInput(self.file, f"on the same weight as '{magnitude}'", key=keys["diff"])
        if weight.ndim != 2 or self.tensors[magnitude].shape != weight.shape[:1]:
            raise self._misfit(magnitude, weight.shape[:1])

        def change() -> torch.Tensor:
            turned = weight.float() + up.flatten(1) @ down.flatten(1)
            return turned * (self.tensors[magnitude] / turned.norm(dim=1))[:, None] - weight.float()

        return change

    def up_bias(self, layer: str, keys: dict[str, str]) -> Difference:
        """The bias that PEFT trains beside B, scaled like B A."""
        bias = self.difference(f"{layer}.bias", keys["up_bias"])()
        return partial(torch.mul, bias, self.scale(layer, keys, len(self._part(keys, "down"))))

    def lokr(self, layer: str, keys: dict[str, str]) -> Difference:
        """Kronecker product of two factors, each full or low-rank; alpha applies if one is low-rank (LyCORIS, lokr.py)."""
        weight, factors, rank = self._parameter(f"{layer}.weight", min(keys.values())), [], None
        for kind in ("lokr_w1", "lokr_w2"):
            low_rank = [keys[part] for part in (f"{kind}_a", f"{kind}_b") if part in keys]
            if low_rank and kind in keys:
                raise BadInput(self.file, f"whole, and again in '{low_rank[0]}'", key=keys[kind])
            if low_rank:
                a, b = self._factors(keys, kind)
                factors.append(a @ b)
                rank = len(b)
            else:
                factors.append(self._part(keys, kind))
        if self.config.peft_type == "LOKR":  # PEFT always applies alpha
            rank = self.config.rank(self._names(layer))
        one, two = factors
        one = one.reshape(*one.shape, *[1] * (two.ndim - one.ndim))
        if one.ndim != two.ndim or tuple(a * b for a, b in zip(one.shape, two.shape, strict=True)) != weight.shape:
            raise BadInput(self.file, f"is not a factor of {tuple(weight.shape)}", key=min(keys.values()))
        return partial(torch.kron, one, two * (1.0 if rank is None else self.scale(layer, keys, rank)))

    def loha(self, layer: str, keys: dict[str, str]) -> Difference:
        """Elementwise product of two low-rank matrices (LyCORIS, loha.py)."""
        weight = self._parameter(f"{layer}.weight", min(keys.values()))
        (a, b), (c, d) = self._factors(keys, "hada_w1"), self._factors(keys, "hada_w2")
        for one, two, kind in ((a, b, "hada_w1_a"), (c, d, "hada_w2_a")):
            if weight.ndim < 2 or (len(one), two.shape[1]) != (len(weight), weight[0].numel()):
                raise BadInput(self.file, f"is not a factor of {tuple(weight.shape)}", key=keys[kind])
        scale = self.scale(layer, keys, len(b))
        return lambda: ((a @ b) * (c @ d) * scale).view(weight.shape)

    def difference(self, name: str, key: str) -> Difference:
        """A difference that the file stores directly."""
        if self.tensors[key].shape != self._parameter(name, key).shape:
            raise self._misfit(key, self.parameters[name].shape)
        return lambda: self.tensors[key]

    def _parameter(self, name: str, key: str) -> torch.nn.Parameter:
        if name not in self.parameters:
            raise BadInput(self.file, f"this model has no layer for this tensor: it has no {name}", key=key)
        return self.parameters[name]

    def _part(self, keys: dict[str, str], kind: str) -> torch.Tensor:
        """A matrix of one of the methods; BadInput where it or its partners are missing."""
        if kind not in keys:
            there, beside = next((have, key) for have, key in keys.items() if METHODS.get(have.split("_w")[0]))
            missing = partner(beside) if kind in ("down", "up") else beside.replace(there, kind)
            if missing == beside:
                raise BadInput(self.file, "no matrices beside it", key=beside)
            raise BadInput(self.file, f"missing, beside '{beside}'", key=missing)
        if self.tensors[keys[kind]].ndim < 2 or not self.tensors[keys[kind]].numel():
            raise BadInput(self.file, f"is {tuple(self.tensors[keys[kind]].shape)}, not a matrix", key=keys[kind])
        return self.tensors[keys[kind]]

    def _factors(self, keys: dict[str, str], kind: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrices [n, r] and [r, m]."""
        a, b = self._part(keys, f"{kind}_a"), self._part(keys, f"{kind}_b")
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != len(b):
            raise self._misfit(keys[f"{kind}_b"], (a.shape[-1], "columns"))
        return a, b

    def scale(self, layer: str, keys: dict[str, str], rank: int) -> float:
        """alpha / rank: from the alpha tensor, else from PEFT's configuration, else 1."""
        key = next(key for kind, key in keys.items() if kind != "alpha")
        names = self._names(layer)
        if self.config.rank(names) not in (None, rank):
            raise BadInput(self.file, f"has rank {rank}, the configuration has {self.config.rank(names)}", key=key)
        scale = self.config.scale(names, rank)
        if "alpha" in keys:
            key, alpha = keys["alpha"], self.tensors[keys["alpha"]]
            if alpha.numel() != 1:
                raise self._misfit(key, ())
            if scale not in (None, float(alpha) / rank):
                raise BadInput(self.file, f"{float(alpha):g}, the configuration has {scale * rank:g}", key=key)
            scale = float(alpha) / rank
        elif scale is None:
            stated = stated_alpha(self.header)
            if stated and stated[1] != rank:
                why = f"{stated[1]:g} in the header alone, rank is {rank}: tools differ on its effect; add .alpha tensors"
                raise BadInput(self.file, why, key=stated[0])
            scale = 1.0
        if not 0 < scale < math.inf:
            raise BadInput(self.file, f"alpha / rank is {scale:g}, not a strength above 0", key=key)
        return scale

    def _names(self, layer: str) -> list[str]:
        return [layer, self.original_name(layer) or layer]

    def _misfit(self, key: str, shape: tuple[int | str, ...]) -> BadInput:
        wanted = ", ".join(map(str, shape))
        return BadInput(self.file, f"is {tuple(self.tensors[key].shape)}, the transformer takes ({wanted})", key=key)


def sort_header(file: Path) -> None:
    """Sort the keys of a safetensors header: the writer's order varies, so files of equal models would differ."""
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.dumps(json.loads(raw[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    file.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])
