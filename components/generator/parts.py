"""The parts of a diffusers pipeline folder: their configuration and their files, checked before any weight is read."""

from pathlib import Path
from typing import Any

from components.errors import BadInput
from components.files.text import read_json

INDEX = "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"


def check_part(folder: Path, config: dict[str, Any], key: str, kind: str) -> None:
    """BadInput where a part's `config` is not of the class `kind` under `key`, or its safetensors are not whole."""
    if config.get(key) != kind:
        raise BadInput(folder / "config.json", f"is {config.get(key)!r}, not {kind!r}", key=key)
    if config.get("quantization_config"):
        why = "the weights are quantized; give the folder with weights in float32 or bfloat16"
        raise BadInput(folder / "config.json", why, key="quantization_config")
    for index in folder.glob("*.safetensors.index.json"):
        shards = read_object(index).get("weight_map")
        if not isinstance(shards, dict):
            raise BadInput(index, "missing or no mapping of tensors to files", key="weight_map")
        for shard in sorted(set(map(str, shards.values()))):
            if not (folder / shard).exists():
                raise BadInput(index, f"names {shard}, which is missing: fetch it again", key="weight_map")
    if not any(folder.glob("*.safetensors")):
        others = sorted(path.name for path in folder.glob("*.bin")) or ["no weights"]
        raise BadInput(folder, f"no safetensors here ({', '.join(others)}); save_pretrained of diffusers writes them")


def read_object(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict):
        raise BadInput(file, "not a JSON object")
    return value


def read_scheduler(folder: Path) -> dict[str, Any]:
    """The configuration of a folder's scheduler, of the class that model_index.json names, as diffusers reads it."""
    named = read_object(folder / INDEX).get("scheduler")
    if not isinstance(named, list) or len(named) != 2 or not isinstance(named[1], str):
        raise BadInput(folder / INDEX, "names no scheduler", key="scheduler")
    return read_object(folder / SCHEDULER) | {"_class_name": named[1]}
