"""The policy of a training method: the base generator's transformer with a new LoRA, and how a trained one is written.

Only the transformer is in memory: latents and text embeddings come from `candidates`.
"""

from typing import Any

from accelerate import PartialState

from components.alignment.lora import add_lora, make_lean, save_lora
from components.generator.family import VelocityModel
from components.generator.folder import load_transformer
from components.pipeline.stage import Stage, write_json
from components.runtime.training import write_rows

BASE = "models/base_generator"


def new_policy(stage: Stage) -> VelocityModel:
    """The base generator's transformer on this process's device, with a LoRA of zero effect, as section `align` sets it."""
    params = stage.params
    transformer = load_transformer(BASE, params.base_generator.dtype, params.align.trained_experts)
    transformer.to(PartialState().device)
    add_lora(transformer, params.align.lora, seed=stage.seed("lora"))
    make_lean(transformer, params.align)
    return transformer


def save_aligned(
    stage: Stage, transformer: VelocityModel, place: str, rows: list[dict[str, float]], record: dict[str, Any]
) -> None:
    """Write and register a LoRA with its training log and its origin.

    record: method, digest of the base, number of examples, and the version of the reward model that labelled them.
    """
    folder = stage.output(place)
    save_lora(transformer, folder)
    write_rows(folder / "training.csv", rows)
    write_json(folder / "alignment.json", record)
    stage.register(f"reelign-{stage.params.profile}-aligned-{record['method']}", place, record)
