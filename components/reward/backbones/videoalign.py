"""Qwen2-VL as the published VideoReward layout has it: names of transformers 4.45, and what two models must share."""

from pathlib import Path
from typing import Any

from transformers import Qwen2VLConfig

from components.errors import BadInput
from components.files.text import read_json
from components.reward.backbones.qwen2_vl import Qwen2VL

KIND = "qwen2_vl"  # the one model_type that readers of the layout load
FACTOR = 28  # sides of a frame are multiples of it there, whatever the model
# Values of the configuration that change scores without changing a tensor's name, beside those that change shapes.
TEXT = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("hidden_act", "rms_norm_eps", "rope_parameters", "use_sliding_window"),
)
VISION = (
    *("depth", "embed_dim", "hidden_size", "mlp_ratio", "num_heads", "in_channels", "hidden_act"),
    *("patch_size", "spatial_merge_size", "temporal_patch_size"),
)


def published_name(name: str) -> str:
    """The name in a published checkpoint of a tensor of the network: the inverse of `current_name`."""
    old = (
        name.removeprefix("model.") if name.startswith("model.visual.") else name.replace("model.language_model.", "model.")
    )
    assert Qwen2VL.current_name(old) == name, name
    return old


def base_rows(base: Path) -> int:
    """Rows of the token embedding of a base model's folder, which may be more than its tokenizer has tokens."""
    return _read(base).text_config.vocab_size


def check_base(base: Path, config: Any) -> None:
    """BadInput where the base model's folder `base` is no model of the sizes and settings of `config`, a Qwen2VLConfig:
    readers build their network from the base, then fill in every tensor."""
    found = _read(base)
    pairs = [(key, getattr(found.text_config, key), getattr(config.text_config, key)) for key in TEXT]
    pairs += [
        (f"vision_config.{key}", getattr(found.vision_config, key), getattr(config.vision_config, key)) for key in VISION
    ]
    pairs.append(("tie_word_embeddings", found.tie_word_embeddings, config.tie_word_embeddings))
    for key, there, here in pairs:
        if there != here:
            raise BadInput(base / "config.json", f"{there}, and the reward model has {here}: not its base model", key=key)


def _read(base: Path) -> Any:
    file = base / "config.json"
    config = read_json(file)
    if not isinstance(config, dict) or config.get("model_type") != KIND:
        raise BadInput(file, f"no {KIND}: readers of the layout load no other model", key="model_type")
    return Qwen2VLConfig(**config)
