"""What one clip costs a generator: parameters from shapes alone, operations of a pass, and memory of activations.

Models are built on torch's meta device, which has shapes and no data, so a 14B transformer takes seconds on any machine.
Operations are those that torch counts in one forward and one backward pass of one clip. Attention stores no matrix.
"""

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from components.alignment.lora import add_lora
from components.config.params import Params
from components.errors import BadInput
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.family import Family, VelocityModel
from components.generator.folder import INDEX, family_of, known_family
from components.planning.layers import runs_of, shortened, summed

ARCHITECTURES = Path("infra/architectures")  # of models that are not on this machine, <profile>.json
BYTES = {"float32": 4, "bfloat16": 2}
ADAM = 16  # bytes a trained weight: itself, its gradient and two moments, all float32


@dataclass(frozen=True)
class Costs:
    """Per clip: operations of a forward pass and of a training step that keeps all activations, bytes of a layer's input,
    of all activations that a layer keeps for its backward pass, and of all that is alive in a pass without one."""

    forward: float
    step: float
    entry: float
    layer: float
    alive: float

    def kept(self, layers: int, checkpointing: bool, offload: bool) -> float:
        """Bytes of activations while training: of all layers; or the inputs of all and one layer's, where each computes its
        own again; or, with `offload`, that one layer's and two inputs on their way."""
        return kept(self.entry, self.layer, layers, checkpointing, offload)


def kept(entry: float, layer: float, layers: int, checkpointing: bool, offload: bool) -> float:
    if not checkpointing:
        return layers * layer
    return (min(2, layers) if offload else layers) * entry + layer


def architecture(params: Params) -> tuple[Family, dict[str, Any]]:
    """The generator's family and the configurations of its parts: from the folder, or from infra/architectures while the
    folder is absent."""
    folder = Path(params.base_generator.folder)
    if (folder / INDEX).exists():
        family = family_of(folder)
        return family, family.read_configs(folder)
    configs = known(params, folder, "base_generator.folder")
    return known_family(architecture_file(params), configs), configs


def architecture_file(params: Params) -> Path:
    return ARCHITECTURES / f"{params.profile}.json"


def known(params: Params, folder: Path, key: str) -> dict[str, Any]:
    """The entry of infra/architectures for a profile's models; BadInput names the missing `folder`."""
    file = architecture_file(params)
    if not file.exists():
        raise BadInput(folder, f"not found, and there is no {file} that describes it", key=key)
    return read_json(file)


def models(family: Family, configs: dict[str, Any], dtype: str) -> dict[str, torch.nn.Module]:
    """The family's parts from shapes alone, in `dtype` but for those always in float32."""
    with torch.device("meta"):
        found = {part: family.untrained(part, configs) for part in family.parts}
    for p in (p for part in found.keys() - family.float32_parts for p in found[part].parameters()):
        p.data = p.data.to(getattr(torch, dtype))
    found["transformer"].requires_grad_(False)
    return found


def size(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def costs_of(params: Params, model: VelocityModel, clip: torch.Tensor, conditioning: Conditioning) -> Costs:
    """Costs of one clip; the profile's LoRA stays attached to `model`."""

    def predict() -> torch.Tensor:
        return model(clip, clip.new_ones(1), conditioning)

    network, blocks = model.transformer, model.family.blocks
    runs = runs_of(network, blocks(network))
    forward = summed(network, runs, lambda: operations(predict))
    with shortened(network, runs):
        most = alive(predict)
    with torch.device("meta"):
        add_lora(model, params.align.lora, seed=0)
    runs = runs_of(network, blocks(network))
    with shortened(network, runs):
        entry, layer = kept_by_a_layer(blocks(network), predict)
    step = summed(network, runs, lambda: operations(lambda: predict().sum().backward()))
    return Costs(forward, step, entry, layer, most)


def operations(function: Callable[[], object]) -> int:
    """Floating-point operations of a call, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def kept_by_a_layer(layers: Iterable[torch.nn.Module], predict: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """Bytes of one layer's input, and of all activations of one clip that it keeps for its backward pass."""
    kept: list[dict[int, torch.Tensor]] = []
    entries: list[torch.Tensor] = []

    def enter(_layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        entries.append(inputs[0] if inputs else named["hidden_states"])
        kept.append({})

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tokens = entries[-1].shape[1] if entries else None
        square = tensor.ndim > 2 and tensor.shape[-2] == tensor.shape[-1]
        is_attention_matrix = tensor.shape[-2:] == (tokens, tokens) or (
            square and tokens is not None and tensor.shape[-1] > tokens  # text beside the tokens
        )
        if kept and not is_attention_matrix and not isinstance(tensor, torch.nn.Parameter):
            kept[-1][tensor.untyped_storage()._cdata] = tensor
        return tensor

    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        predict()
    for handle in handles:
        handle.remove()
    middle = kept[len(kept) // 2]
    return float(entries[0].nbytes), float(sum(tensor.nbytes for tensor in middle.values()))


def alive(function: Callable[[], object]) -> float:
    """Bytes of tensors that a call without gradients makes and has at the same time, at most."""
    with torch.no_grad(), patch.object(functional, "scaled_dot_product_attention", without_matrix), Alive() as counter:
        function()
    return float(counter.most)


class Alive(TorchDispatchMode):
    """Counts bytes of storages from the operation that makes them until nothing holds them. most: at any time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in storages((args, kwargs))}  # of views, and of what is changed in place
        for storage in storages(found):
            if id(storage) not in given:
                self._hold(storage)
        return found

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self.known:
            self.known.add(id(storage))
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._free, id(storage), storage.nbytes())

    def _free(self, place: int, nbytes: int) -> None:
        self.known.discard(place)
        self.now -= nbytes


def storages(values: Any) -> list[torch.UntypedStorage]:
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def without_matrix(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """The shape of attention's result, of a kernel that stores no matrix."""
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def kept_for_backward(function: Callable[[], object]) -> float:
    """Bytes of the tensors, but for weights, that a call keeps for its backward pass."""
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return float(sum(tensor.nbytes for tensor in kept.values()))


def measured_rate(dtype: str, seconds: float = 2.0) -> float:
    """Operations per second in products of square matrices of `dtype` on this device; a model reaches less."""
    device, side = PartialState().device, 8192 if torch.cuda.is_available() else 1024
    a = torch.randn(side, side, device=device, dtype=getattr(torch, dtype))
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        (a @ a).sum().item()  # waits for the device
        done += 1
    return done * 2 * side**3 / (time.perf_counter() - started)
