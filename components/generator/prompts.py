"""Prompts that are encoded before sampling: the text encoder is in memory alone, and gone before the transformer is read."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from accelerate.utils.memory import clear_device_cache

from components.errors import BadInput
from components.files.atomic import discard, whole_folder
from components.files.text import read_json
from components.generator.conditioning import Conditioning
from components.generator.family import TextEncoder
from components.generator.shards import ConditioningShards, save_conditioning
from components.runtime.processes import from_first, launched_together

TEXT = "text"  # folder in a state folder
PROMPTS = "prompts.json"  # in it, by row
BATCH = 8  # prompts


class HasText(Protocol):
    """Of a loader: the text encoder alone."""

    def text_encoder(self) -> TextEncoder: ...


@dataclass(frozen=True)
class EncodedPrompts:
    """TextEncoder that reads from a folder what `encode_ahead` has written there; it can be sent to a worker."""

    folder: Path

    def __call__(self, prompts: list[str]) -> Conditioning:
        rows = {prompt: row for row, prompt in enumerate(read_json(self.folder / PROMPTS))}
        return ConditioningShards(self.folder, {})[[rows[prompt] for prompt in prompts]]


def encode_ahead(folder: Path, load: HasText, prompts: Iterable[str]) -> EncodedPrompts:
    """Encode distinct prompts into `folder`, unless a killed run has done so, and free the encoder.

    The first of processes that were launched together does it, the others wait; other nodes get a copy.
    """
    wanted, processes = list(dict.fromkeys(prompts)), launched_together()
    if processes.is_main_process and not kept(folder, wanted):
        shutil.rmtree(folder, ignore_errors=True)
        encoder = load.text_encoder()
        with torch.no_grad(), whole_folder(folder) as partial:
            save_conditioning((encoder(wanted[i : i + BATCH]) for i in range(0, len(wanted), BATCH)), partial, {})
            (partial / PROMPTS).write_text(json.dumps(wanted))
        del encoder
        clear_device_cache(garbage_collection=True)
    processes.wait_for_everyone()
    from_first(folder)
    return EncodedPrompts(folder)


def kept(folder: Path, wanted: list[str]) -> bool:
    """Whether `folder` has all of these prompts, undamaged; else it is removed where it is damaged."""
    if not folder.exists():
        return False
    try:
        there, rows = read_json(folder / PROMPTS), len(ConditioningShards(folder, {}))
        if not isinstance(there, list) or len(there) != rows:
            raise BadInput(folder / PROMPTS, f"not {rows} prompts")
    except BadInput as error:
        discard(folder, error)
        return False
    return set(wanted) <= set(there)
