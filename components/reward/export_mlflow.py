"""Write a VideoReward as an MLflow model: MLmodel with signature and input example, requirements, files, this package."""

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.errors import BadInput
from components.files.atomic import whole_folder
from components.files.links import share
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
    if out.exists():
        raise BadInput(out, "there already")
    read_card(folder)
    with whole_folder(out) as partial:
        write_mlflow(folder, partial, None, shutil.copyfile)
    return [out / "MLmodel", out / "requirements.txt", out / "artifacts" / ARTIFACT]


def package_mlflow(folder: Path, place: Path, model: Any) -> None:
    """As write_mlflow; large files of `folder` are shared with it and not copied."""
    write_mlflow(folder, place, model, share)


def write_mlflow(folder: Path, place: Path, model: Any, copy: Callable[[str, str], Any]) -> None:
    """Write an MLflow model of a VideoReward's folder to a place that is not there. model: MLflow's Model to fill in, or
    None for a new one. copy: of shutil.copytree."""
    import mlflow
    import pandas as pd
    from mlflow.models import Model

    card = read_card(folder)
    with tempfile.TemporaryDirectory() as empty:
        # MLflow would copy the files twice: it is given a folder that has none.
        stand_in = Path(empty, ARTIFACT)
        stand_in.mkdir()
        mlflow.pyfunc.save_model(
            path=str(place),
            python_model=str(PACKAGE / "reward/pyfunc.py"),
            artifacts={ARTIFACT: str(stand_in)},
            code_paths=[str(PACKAGE)],
            mlflow_model=model,
            signature=signature(card.dimensions),
            input_example=pd.DataFrame({"path": ["clip.mp4"], "prompt": ["a red circle moving up"]}),
            pip_requirements=[f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS],
            metadata={"model_version": folder_digest(folder), "dimensions": card.dimensions},
        )
    shutil.copytree(folder, place / "artifacts" / ARTIFACT, copy_function=copy, dirs_exist_ok=True)
    saved = Model.load(str(place))
    saved.model_size_bytes = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    saved.save(str(place / "MLmodel"))


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
