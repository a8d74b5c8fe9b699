"""Loading of models from folders, with a check of every tensor."""

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from components.errors import BadInput
from components.files.text import read_json

# Exceptions of these libraries for truncated files and for configurations with a wrong value.
UNREADABLE = (
    *(OSError, ValueError, SafetensorError, StrictDataclassError),
    *(TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError),
)

PART = 1 << 24  # weights that are checked together


def load_pretrained(
    kind: Any, folder: str | Path, dtype: torch.dtype = torch.float32, unread: str | None = None, **config: Any
) -> Any:
    """kind.from_pretrained(folder), a model of transformers or diffusers. BadInput when a tensor is missing, unexpected, of
    another shape or not finite: by default these libraries continue with random weights, or fail later. Weights are read
    only from safetensors, as a pickle may run code.

    `config` replaces values of the folder's configuration, such as num_layers; `unread` is a pattern of the names of tensors
    that a model with fewer layers leaves unread, and of layers that the caller removes again.
    """
    if Path(folder).is_dir() and not {"model_type", "_class_name"} & set(read_json(Path(folder) / "config.json")):
        # These libraries would make a default model of the kind with random weights.
        raise BadInput(Path(folder) / "config.json", f"names no model: no {kind.__name__} here", key="model_type")
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its report on tensors becomes one line below
    try:
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            local_files_only=True,  # a hub id is looked up in the hub's cache; only `reelign fetch` downloads
            **config,
        )
    except UNREADABLE as error:
        raise BadInput(folder, f"no {kind.__name__} here: {first_line(error)}") from error
    for name, given, wanted in sorted(report["mismatched_keys"]):
        if unread is None or not re.match(unread, name):
            raise BadInput(folder, f"is {tuple(given)}, not {tuple(wanted)}", key=name)
    for found, why in (("missing_keys", "missing"), ("unexpected_keys", "this model has no such tensor")):
        for name in sorted(report[found]):
            if unread is None or not re.match(unread, name):
                raise BadInput(folder, why, key=name)
    for name, value in model.named_parameters():
        if not (unread and re.match(unread, name)) and not finite(value):
            raise BadInput(folder, "a weight is not finite", key=name)
    return model


def finite(weight: torch.Tensor) -> bool:
    """Whether all values are finite. In parts, as torch.isfinite makes copies: 4 GB for a billion weights."""
    return all(bool(torch.isfinite(part).all()) for part in weight.flatten().split(PART))


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """A safetensors file; BadInput where it is missing or truncated."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise BadInput(file, f"no safetensors: {first_line(error)}" if file.exists() else "missing") from error


def check_tensors(file: Path, tensors: dict[str, torch.Tensor], shapes: dict[str, torch.Size]) -> None:
    """BadInput where a file's `tensors` differ from `shapes` in names or shapes, or one is not finite."""
    for name in sorted(tensors.keys() | shapes.keys()):
        if name not in tensors:
            raise BadInput(file, "missing", key=name)
        if name not in shapes:
            raise BadInput(file, "this model has no such tensor", key=name)
        if tensors[name].shape != shapes[name]:
            raise BadInput(file, f"is {tuple(tensors[name].shape)}, not {tuple(shapes[name])}", key=name)
        if not finite(tensors[name]):
            raise BadInput(file, "a weight is not finite", key=name)


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id; BadInput where there is none, or none that can pad."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing narrower
        raise BadInput(folder, f"no tokenizer here: {first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        raise BadInput(folder, "has no pad_token (tokenizer_config.json names it)", key="pad_token")
    return tokenizer


def first_line(error: Exception) -> str:
    """First line of an error's message, or its type where that is empty."""
    return next(iter(str(error).splitlines()), type(error).__name__)
