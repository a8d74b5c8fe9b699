"""model_config.json of a VideoReward in the published layout, typed: what scoring needs of it, the rest is left alone."""

from pathlib import Path
from typing import Annotated, Any, Literal

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, StrictBool, ValidationError

from components.config.types import Count, Positive
from components.errors import BadInput
from components.files.text import read_json
from components.video.frames import FRAME_FACTOR

CONFIG = "model_config.json"
DOWNLOADS = Path("downloads")  # where `reelign fetch` puts models by README.md
Text = Annotated[str, Field(min_length=1)]
# The reference takes one dimension as text, too.
Dimensions = Annotated[list[Text], Field(min_length=1), BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class Published(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class DataConfig(Published):
    """Frames by rate or, where num_frames is given, by count; max_frame_pixels a frame."""

    eval_dim: Dimensions
    fps: Positive | None
    num_frames: Annotated[int, Field(ge=FRAME_FACTOR)] | None
    max_frame_pixels: Count
    sample_type: Literal["uniform", "multi_pts"]


class ModelConfig(Published):
    model_name_or_path: Text
    output_dim: Count
    loss_type: Text
    reward_token: Text
    use_special_tokens: StrictBool
    torch_dtype: str | None = None


class RunConfig(Published):
    """inference_config: <dimension>_mean and <dimension>_std of the raw scores, all or none."""

    data: DataConfig = Field(alias="data_config")
    model: ModelConfig = Field(alias="model_config")
    inference_config: dict[str, FiniteFloat] | None = None
    peft_lora_config: dict[str, Any] = {}

    def normalisation(self) -> dict[str, dict[str, float]]:
        """{dimension: {mean, std}}; without inference_config the reference leaves scores as they are."""
        norms = self.inference_config or {
            f"{name}_{of}": of == "std" for name in self.data.eval_dim for of in ("mean", "std")
        }
        return {name: {of: float(norms[f"{name}_{of}"]) for of in ("mean", "std")} for name in self.data.eval_dim}


def read_config(file: Path) -> RunConfig:
    """BadInput names the key that is missing, wrong, or contradicts another."""
    values = read_json(file)
    if not isinstance(values, dict):
        raise BadInput(file, "not a JSON object of sections")
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        why = {"missing": "missing"}.get(first["type"], f"is {first['input']!r}: {first['msg']}")
        raise BadInput(file, why, key=".".join(str(part) for part in first["loc"])) from error
    data, norms = config.data, config.inference_config or {}
    if len(set(data.eval_dim)) < len(data.eval_dim):
        raise BadInput(file, "names a dimension twice", key="data_config.eval_dim")
    if data.fps is None and data.num_frames is None:
        raise BadInput(file, "null, and num_frames too: one of them must choose the frames", key="data_config.fps")
    for name in data.eval_dim if norms else []:
        for of in ("mean", "std"):
            if f"{name}_{of}" not in norms:
                why = "missing, and others are there: a score needs all of them"
                raise BadInput(file, why, key=f"inference_config.{name}_{of}")
        if norms[f"{name}_std"] <= 0:
            raise BadInput(file, "not positive", key=f"inference_config.{name}_std")
    return config


def find_base(file: Path, name: str) -> str | Path:
    """Where the base model of a run lies that model_config.json `file` names by a path, here or on the machine that trained
    it, or by a hub id: the path, beside the run's folder, in downloads/, or in the hub's cache. The hub is left alone."""
    beside, last = file.resolve().parent.parent, Path(name).name
    for place in (Path(name), beside / name, beside / last, DOWNLOADS / last):
        if place.is_dir():
            return place
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return name
        model = name
    except HFValidationError:  # a path of another machine
        model = f"OWNER/{last}"
    why = f"{name} is neither here, nor beside the run, nor in {DOWNLOADS}/: `reelign fetch {model} --to {DOWNLOADS / last}`"
    raise BadInput(file, why, key="model_config.model_name_or_path")


def base_folder(base: str | Path) -> Path:
    """The folder of a base model that find_base has found; of a hub id, its snapshot in the hub's cache."""
    if isinstance(base, Path):
        return base
    file: Any = try_to_load_from_cache(base, "config.json")
    return Path(file).parent
