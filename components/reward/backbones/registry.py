"""Backbones by the `model_type` of a model folder's config.json."""

from pathlib import Path
from typing import Any

from components.config.types import Dtype
from components.errors import BadInput
from components.files.text import read_json
from components.reward.backbones.protocol import Backbone
from components.reward.backbones.qwen2_5_vl import Qwen25VL
from components.reward.backbones.qwen2_vl import Qwen2VL
from components.reward.backbones.qwen3_vl import Qwen3VL

BACKBONES: dict[str, type[Backbone]] = {
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen25VL,
    "qwen3_vl": Qwen3VL,
}


def load_backbone(folder: str | Path, dtype: Dtype = "float32") -> Backbone:
    """The backbone of a folder, in a dtype; BadInput where it is none, or damaged."""
    file = Path(folder) / "config.json"
    return backbone_class(file, read_json(file)).load(Path(folder), dtype)


def backbone_class(file: Path, config: Any) -> type[Backbone]:
    """The member that reads a model with this config.json; BadInput, of `file`, where there is none."""
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind is None:
        raise BadInput(file, "missing, so no backbone of VideoReward can be chosen", key="model_type")
    if kind not in BACKBONES:
        raise BadInput(file, f"'{kind}' is no known backbone of VideoReward: {', '.join(BACKBONES)}", key="model_type")
    return BACKBONES[kind]
