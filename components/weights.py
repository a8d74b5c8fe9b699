"""Models read from folders, every tensor of them."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from components.errors import BadInput


def load_pretrained(
    kind: Any, folder: str | Path, dtype: torch.dtype = torch.float32, unread: str | None = None, **config: Any
) -> Any:
    """kind.from_pretrained(folder), a model of transformers or diffusers. BadInput when a tensor is missing, left
    over, of another shape or not finite: by themselves these libraries go on with random weights in its place, or fail
    later. Weights are read from safetensors alone: a pickle may run code.

    `config` replaces values of the folder's own, such as num_layers; `unread` is a pattern of the names of the tensors that
    a model of fewer layers leaves in the file.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what it reports of tensors is said below, in one line
    try:
        model, report = kind.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True, **config
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(folder, f"no {kind.__name__} here: {str(error).splitlines()[0]}") from error
    for name, given, wanted in sorted(report["mismatched_keys"]):
        raise BadInput(folder, f"is {tuple(given)}, not {tuple(wanted)}", key=name)
    for found, why in (("missing_keys", "missing"), ("unexpected_keys", "a tensor that this model has no place for")):
        for name in sorted(report[found]):
            if found == "missing_keys" or unread is None or not re.match(unread, name):
                raise BadInput(folder, why, key=name)
    for name, value in model.named_parameters():
        if not torch.isfinite(value).all():
            raise BadInput(folder, "a weight is not finite", key=name)
    return model
