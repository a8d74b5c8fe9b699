"""VideoReward as a Triton model repository: what lies where, and the configurations.

- video_reward_model/: the backend, for frames and rate or an encoded video; one loaded model for both
    - config.pbtxt
    - 1/model.py: backend/model.py of this folder, which imports backend/entry.py
    - 1/video_reward/: the model folder, byte for byte; same version, same scores
    - warmup/: one small request that each version answers before it is ready
- video_reward/: called by clients with frames, prompt and fps
- video_reward_file/: called by clients with an encoded video and a prompt

The last two are ensembles of one step. They name the version of video_reward_model that serves. So a new version is
loaded and tried beside the old one, before an atomic change of two small files sends requests to it (deploy.py). An
ensemble costs no process: a decoder of its own in front of the model would be a second Python with torch in it.

The Python of the server needs this project's environment with the project itself installed in it. Started by `reelign serve`
it is the environment that started it. On NVIDIA's image it is the one that `package.environment` names, an absolute path
inside the container. The image must be a Triton of the same release, 24.10: backend and stub communicate by shared
memory. It has no stub for Python 3.11: put the one of nvidia-pytriton (components/serving/install.py) into
/opt/tritonserver/backends/python.
"""

import shutil
import struct
from pathlib import Path

from components.config.params import PackageParams
from components.files.atomic import atomic_write
from components.files.links import share
from components.pipeline.stage import folder_digest
from components.reward.card import plan_of
from components.video.frames import FramePlan

LAYOUT = 2  # of a repository (layout.py)
MODEL = "video_reward_model"
BACKEND_FILE = Path(__file__).with_name("backend") / "model.py"
FRONTS = {"video_reward": ("frames", "prompt", "fps"), "video_reward_file": ("video", "prompt")}
OUTPUTS = ("raw", "normalised", "overall", "dimensions", "model_version", "frame_plan")
WARMUP_PROMPT = "[reelign: is the model there?]"  # nobody's own: the answer is not logged
WARMUP_FRAMES, WARMUP_FPS = 16, 8.0

# Ragged batching needs a batch dimension, so each tensor of a request starts with a 1. fps is float64 because a plan by
# rate rounds: in float32 a frame may differ.
INPUTS = {
    "frames": "data_type: TYPE_UINT8 dims: [-1, -1, -1, 3]",
    "fps": "data_type: TYPE_FP64 dims: [1]",
    "video": "data_type: TYPE_UINT8 dims: [-1]",
    "prompt": "data_type: TYPE_UINT8 dims: [-1]",
}
OUTPUT_TYPES = """\
output [
  { name: "raw" data_type: TYPE_FP64 dims: [-1] },
  { name: "normalised" data_type: TYPE_FP64 dims: [-1] },
  { name: "overall" data_type: TYPE_FP64 dims: [1] },
  { name: "dimensions" data_type: TYPE_UINT8 dims: [-1] },
  { name: "model_version" data_type: TYPE_UINT8 dims: [-1] },
  { name: "frame_plan" data_type: TYPE_UINT8 dims: [-1] }
]
"""

# Clips differ in length and size, and Triton joins only what has one shape: `allow_ragged_batch` lets requests of
# unlike shapes reach the backend in one call, which batches them itself by token count.
BACKEND = """\
name: "video_reward_model"
backend: "python"
max_batch_size: {max_batch_size}
version_policy {{ specific {{ versions: [{versions}] }} }}
input [
  {{ name: "frames" {frames} allow_ragged_batch: true optional: true }},
  {{ name: "fps" {fps} optional: true }},
  {{ name: "video" {video} allow_ragged_batch: true optional: true }},
  {{ name: "prompt" {prompt} allow_ragged_batch: true }}
]
{outputs}\
dynamic_batching {{
  max_queue_delay_microseconds: {max_queue_delay}
{queue_policy}}}
# On each GPU that there is, or else on the CPU; tensors arrive in host memory either way.
instance_group [{{ count: {processes} kind: KIND_AUTO }}]
model_warmup [{{
  name: "one clip"
  batch_size: 1
  inputs {{ key: "frames" value {{ data_type: TYPE_UINT8 dims: [{warmup_dims}] random_data: true }} }}
  inputs {{ key: "fps" value {{ data_type: TYPE_FP64 dims: [1] input_data_file: "fps" }} }}
  inputs {{ key: "prompt" value {{ data_type: TYPE_UINT8 dims: [{warmup_prompt}] input_data_file: "prompt" }} }}
}}]
parameters {{ key: "layout" value {{ string_value: "{layout}" }} }}
parameters {{ key: "token_budget" value {{ string_value: "{token_budget}" }} }}
{limits}
"""
LIMIT = 'parameters {{ key: "limit_{}" value {{ string_value: "{}" }} }}'
QUEUE_POLICY = "  default_queue_policy {{ max_queue_size: {} }}\n"
ENVIRONMENT = 'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{}" }} }}\n'

FRONT = """\
name: "{name}"
platform: "ensemble"
max_batch_size: {max_batch_size}
input [
{inputs}
]
{outputs}\
ensemble_scheduling {{ step [{{
  model_name: "video_reward_model"
  model_version: {version}
{maps}
}}] }}
parameters {{ key: "model_version" value {{ string_value: "{digest}" }} }}
parameters {{ key: "frame_plan" value {{ string_value: "{plan}" }} }}
"""


def write_repository(repository: Path, model: Path, params: PackageParams) -> None:
    """Make a Triton model repository that serves the model folder `model` as version 1."""
    write_version(repository, model, 1)
    (repository / MODEL / "config.pbtxt").write_text(backend_config(repository, params, [1]))
    for name in FRONTS:
        # Triton needs a version folder for an ensemble too, and DVC keeps no empty folder.
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1/about.txt").write_text("An ensemble has no files; see ../config.pbtxt.\n")
        (repository / name / "config.pbtxt").write_text(front_config(repository, name, params, 1))


def write_version(repository: Path, model: Path, version: int) -> None:
    """Put the model folder into the repository, with the code that serves it; loads nothing."""
    folder = repository / MODEL / str(version)
    folder.mkdir(parents=True)
    shutil.copytree(model, folder / "video_reward", copy_function=share)
    shutil.copyfile(BACKEND_FILE, folder / "model.py")


def backend_config(repository: Path, params: PackageParams, versions: list[int]) -> str:
    """config.pbtxt of video_reward_model with these versions loaded; writes the warm-up request of the last one."""
    prompt = WARMUP_PROMPT.encode()
    warmup = repository / MODEL / "warmup"
    warmup.mkdir(exist_ok=True)
    for name, value in {"fps": struct.pack("<d", WARMUP_FPS), "prompt": prompt}.items():
        if not (warmup / name).exists() or (warmup / name).read_bytes() != value:  # a server may be reading them
            atomic_write(warmup / name, value)
    config = BACKEND.format(
        **INPUTS,
        outputs=OUTPUT_TYPES,
        layout=LAYOUT,
        versions=", ".join(map(str, versions)),
        warmup_dims=", ".join(map(str, warmup_shape(repository, versions[-1]))),
        warmup_prompt=len(prompt),
        queue_policy=QUEUE_POLICY.format(params.max_queue_size) if params.max_queue_size else "",
        limits="\n".join(LIMIT.format(*one) for one in params.limits.model_dump().items()),
        **params.model_dump(exclude={"environment", "max_queue_size", "limits"}),
    )
    return config + (ENVIRONMENT.format(params.environment) if params.environment else "")


def front_config(repository: Path, name: str, params: PackageParams, version: int) -> str:
    """config.pbtxt of an ensemble that sends requests to `version`, and names the model whose scores they are."""
    inputs = FRONTS[name]
    ragged = [f'  {{ name: "{key}" {INPUTS[key]} }}' for key in inputs]
    maps = [f'  input_map {{ key: "{key}" value: "{key}" }}' for key in inputs]
    maps += [f'  output_map {{ key: "{key}" value: "{key}" }}' for key in OUTPUTS]
    return FRONT.format(
        name=name,
        max_batch_size=params.max_batch_size,
        inputs=",\n".join(ragged),
        outputs=OUTPUT_TYPES,
        version=version,
        maps="\n".join(maps),
        digest=folder_digest(repository / MODEL / str(version) / "video_reward"),
        plan=frame_plan(repository, version),
    )


def warmup_shape(repository: Path, version: int) -> tuple[int, int, int, int]:
    """[T, H, W, 3] of a clip that takes little and that the version's plan accepts, at WARMUP_FPS."""
    plan = frame_plan(repository, version)
    return plan.frames or WARMUP_FRAMES, *plan.resize(256, 256), 3


def frame_plan(repository: Path, version: int) -> FramePlan:
    """The frame plan of a packaged version."""
    return plan_of(repository / MODEL / str(version) / "video_reward")
