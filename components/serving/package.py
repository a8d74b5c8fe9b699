"""Stage `package`: VideoReward as a Triton model repository.

    serving/model_repository/video_reward/config.pbtxt
        1/model.py         backend/model.py of this folder
        1/video_reward/    the model folder, byte for byte: same version, same scores

The Python of the server needs this project's environment and the project itself installed in it; components/serving/
server.py sees to the first, `make setup` to the second.
"""

import shutil
from pathlib import Path

from components.params import PackageParams
from components.reward.model import load_video_reward
from components.stage import Stage, folder_digest, run_stage

NAME = "video_reward"

# Clips differ in length and size, and Triton joins only what has one shape: `allow_ragged_batch` lets requests of
# unlike shapes reach the backend in one call, which batches them itself by token count. Ragged batching needs a batch
# dimension, so each tensor of a request starts with a 1. fps is float64 because a plan by rate rounds: in float32 a
# frame may differ.
CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: {max_batch_size}
input [
  {{ name: "frames" data_type: TYPE_UINT8 dims: [-1, -1, -1, 3] allow_ragged_batch: true }},
  {{ name: "prompt" data_type: TYPE_UINT8 dims: [-1] allow_ragged_batch: true }},
  {{ name: "fps" data_type: TYPE_FP64 dims: [1] }}
]
output [
  {{ name: "raw" data_type: TYPE_FP64 dims: [-1] }},
  {{ name: "normalised" data_type: TYPE_FP64 dims: [-1] }},
  {{ name: "overall" data_type: TYPE_FP64 dims: [1] }},
  {{ name: "dimensions" data_type: TYPE_UINT8 dims: [-1] }},
  {{ name: "model_version" data_type: TYPE_UINT8 dims: [-1] }},
  {{ name: "frame_plan" data_type: TYPE_UINT8 dims: [-1] }}
]
dynamic_batching {{ max_queue_delay_microseconds: {max_queue_delay} }}
# Frames arrive in host memory; the model itself moves what it needs to its device.
instance_group [{{ count: 1 kind: KIND_CPU }}]
parameters {{ key: "token_budget" value {{ string_value: "{token_budget}" }} }}
"""


def package(stage: Stage) -> None:
    model = Path("models/video_reward")
    load_video_reward(model)  # one that cannot score is not packaged
    write_repository(stage.output("serving/model_repository"), model, stage.params.package)
    stage.say(f"{NAME} version {folder_digest(model)}")


def write_repository(repository: Path, model: Path, params: PackageParams) -> None:
    """Make a Triton model repository that serves the model folder `model` as version 1."""
    version = repository / NAME / "1"
    version.mkdir(parents=True)
    shutil.copytree(model, version / "video_reward")
    shutil.copyfile(Path(__file__).with_name("backend") / "model.py", version / "model.py")
    config = CONFIG.format(name=NAME, **params.model_dump())
    (repository / NAME / "config.pbtxt").write_text(config)


if __name__ == "__main__":
    run_stage("package", package)
