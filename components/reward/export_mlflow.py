"""Write a VideoReward as an MLflow model: MLmodel with signature and input example, requirements, files, this package."""

import importlib.metadata
from pathlib import Path
from typing import Any

from components.errors import BadInput
from components.files.atomic import whole_folder
from components.pipeline.stage import folder_digest
from components.reward.card import read_card
from components.reward.scores import OVERALL, score_names

PACKAGE = Path(__file__).parents[1]
# What scoring imports; a fresh environment is made of these, in the versions of this one.
REQUIREMENTS = (
    *("mlflow", "torch", "transformers", "tokenizers", "safetensors", "huggingface-hub", "jinja2", "peft"),
    *("av", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml"),
)
ARTIFACT = "video_reward"  # the model folder among MLflow's artifacts


def export_mlflow(folder: Path, out: Path) -> list[Path]:
    """Write the VideoReward of `folder` to `out`, which must not be there; returns what was written. BadInput for a folder
    that is no such model. Nothing is left of an export that fails."""
    import mlflow
    import pandas as pd

    if out.exists():
        raise BadInput(out, "there already")
    card = read_card(folder)
    example = pd.DataFrame({"path": ["clip.mp4"], "prompt": ["a red circle moving up"]})
    with whole_folder(out) as partial:
        mlflow.pyfunc.save_model(
            path=str(partial),
            python_model=str(PACKAGE / "reward/pyfunc.py"),
            artifacts={ARTIFACT: str(folder.resolve())},
            code_paths=[str(PACKAGE)],
            signature=signature(card.dimensions),
            input_example=example,
            pip_requirements=[f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS],
            metadata={"model_version": folder_digest(folder), "dimensions": card.dimensions},
        )
    return [out / "MLmodel", out / "requirements.txt", out / "artifacts" / folder.resolve().name]


def signature(dimensions: list[str]) -> Any:
    """Of VideoRewardModel.predict."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def columns(kind: DataType, *names: str, required: bool = True) -> list[Any]:
        return [ColSpec(kind, name, required) for name in names]

    text, number = DataType.string, DataType.double
    inputs = [
        *columns(text, "path", required=False),
        *columns(DataType.binary, "video", required=False),
        *columns(text, "prompt"),
    ]
    raw = [f"raw_{name}" for name in dimensions]
    scores = [name for name in score_names(dimensions) if name != OVERALL] + [OVERALL]
    outputs = [
        *columns(text, "status"),
        *columns(text, "reason", required=False),
        *columns(number, *raw, *scores, required=False),
        *columns(text, "reward_model", "frame_plan", required=False),
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))
