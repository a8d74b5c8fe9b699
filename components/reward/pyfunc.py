"""VideoReward as MLflow's users load one: `mlflow.pyfunc.load_model(OUT).predict(frame)`.

MLflow runs this file whenever it loads a model of export_mlflow.py ("models from code"). The project's package lies beside
it.
"""

import os
from contextlib import ExitStack
from typing import Any

import mlflow
import pandas as pd

from components.errors import BadInput
from components.reward.export_mlflow import ARTIFACT
from components.reward.score import RewardModel, as_table
from components.reward.scores import Unscored

COLUMNS = ("path", "video", "prompt")


class VideoRewardModel(mlflow.pyfunc.PythonModel):
    """Columns in: prompt, and path (of a video file) or video (its bytes), of which each row has one. Columns out: status,
    reason, raw_<dimension>, <dimension>, Overall, reward_model, frame_plan. A row that failed has a reason and no number."""

    def load_context(self, context: Any) -> None:
        self.model = RewardModel.load(context.artifacts[ARTIFACT])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row for each of `model_input`, with its index. BadInput for columns that are missing."""
        if "prompt" not in model_input or not {"path", "video"} & {*model_input.columns}:
            raise BadInput("predict", "a row needs the column prompt, and path or video")
        with ExitStack() as files:
            rows = model_input.reindex(columns=list(COLUMNS)).itertuples(index=False, name=None)
            read = [source(path, video, prompt, files) for path, video, prompt in rows]
            scores = iter(self.model.score([item for item in read if not isinstance(item, Unscored)]))
            found = [item if isinstance(item, Unscored) else next(scores) for item in read]
        table = as_table([""] * len(found), [""] * len(found), list(map(without_place, found)), self.model.dimensions)
        return table.drop(columns=["path", "prompt"]).set_index(model_input.index)


def source(path: Any, video: Any, prompt: Any, files: ExitStack) -> tuple[str, str] | Unscored:
    """File and prompt of a row, or what is wrong with it. Bytes become a file in memory, which goes with `files`."""
    if not isinstance(prompt, str):
        return Unscored("no prompt")
    if isinstance(path, str) == isinstance(video, bytes):
        return Unscored("a row has a path or the bytes of a video, one of them")
    if isinstance(path, str):
        return path, prompt
    descriptor = os.memfd_create("video")
    files.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(video)
    return f"/proc/self/fd/{descriptor}", prompt


def without_place(score: Any) -> Any:
    """The reason without the name of a file in memory."""
    place, _, why = score.reason.partition(": ") if isinstance(score, Unscored) else ("", "", "")
    return Unscored(why) if place.startswith("/proc/self/fd/") else score


mlflow.models.set_model(VideoRewardModel())
