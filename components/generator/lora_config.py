"""The strength that a LoRA file states outside its tensors: PEFT's configuration in the header or adapter_config.json."""

import json
import math
import re
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import BadInput

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
HEADER, OURS = "lora_adapter_metadata", "transformer."  # diffusers' key, and its prefix of each field
# Initialisations that leave the base unchanged. Others (PiSSA, OLoRA, CorDA, LoftQ) modify the base weights.
PLAIN = {True, False, "gaussian", "eva", "orthogonal", "default"}


Value = TypeVar("Value", int, float)


class AdapterConfig(BaseModel):
    """The fields of PEFT's configurations that set an adapter's strength. All other fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    r: int | None = None
    lora_alpha: float | None = None
    alpha: float | None = None  # LoKr's and LoHa's name for it
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool | None = None
    peft_type: str | None = None
    init_lora_weights: bool | str | None = None

    def rank(self, names: list[str]) -> int | None:
        """names: those of one layer, diffusers' and the authors'."""
        return by_pattern(self.rank_pattern, names, self.r)

    def scale(self, names: list[str], rank: int) -> float | None:
        """The factor of B A: alpha / rank, alpha / sqrt(rank) for rsLoRA; None where alpha is not stated."""
        alpha = by_pattern(self.alpha_pattern, names, self.alpha if self.lora_alpha is None else self.lora_alpha)
        return None if alpha is None else alpha / (math.sqrt(rank) if self.use_rslora else rank)


def by_pattern(patterns: dict[str, Value] | None, names: list[str], default: Value | None) -> Value | None:
    """The value of the first pattern that matches the end of one of a layer's names, as in PEFT."""
    found = (value for key, value in (patterns or {}).items() for name in names if re.match(rf"(.*\.)?({key})$", name))
    return next(found, default)


def read_config(file: Path, header: dict[str, str]) -> AdapterConfig:
    """The configuration of the LoRA in `file`; BadInput where it cannot be read or is of another method."""
    place, key = file, HEADER
    if HEADER not in header:
        place, key = file.parent / PEFT_CONFIG, None
        if not place.exists() or (file.name != PEFT_WEIGHTS and (file.parent / PEFT_WEIGHTS).exists()):
            return AdapterConfig()
    try:
        fields = json.loads(place.read_text() if key is None else header[key])
        if not isinstance(fields, dict):
            raise ValueError("no object")
        named = {name.removeprefix(OURS): value for name, value in fields.items() if name.startswith(OURS)}
        config = AdapterConfig.model_validate(fields | named)
        for pattern in (config.rank_pattern or {}) | (config.alpha_pattern or {}):
            re.compile(pattern)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(place, f"{'.'.join(map(str, first['loc']))}: {first['msg']}", key=key) from error
    except (OSError, ValueError, re.error) as error:
        raise BadInput(place, f"not readable: {error}", key=key) from error
    if config.peft_type not in (None, "LORA", "LOKR", "LOHA"):
        raise BadInput(place, f"{config.peft_type} is not applied; LoRA, LoKr and LoHa are", key="peft_type")
    if config.init_lora_weights is not None and config.init_lora_weights not in PLAIN:
        why = f"{config.init_lora_weights}: such an adapter needs a changed base; convert it to a plain LoRA first"
        raise BadInput(place, why, key="init_lora_weights")
    return config


def stated_alpha(header: dict[str, str]) -> tuple[str, float] | None:
    """Key and alpha that only the header states, in no tensor and no configuration of PEFT. kohya's `ss_network_alpha` does
    not count: it records the training, and kohya's converter keeps it after folding alpha / rank into the weights."""
    for key, text in header.items():
        try:
            said = {"lora_alpha": float, "lora_config": lambda text: float(json.loads(text)["lora_alpha"])}[key](text)
        except (KeyError, ValueError, TypeError):
            continue
        return key, said
    return None
