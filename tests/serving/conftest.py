"""One real Triton server for all tests that only ask it, serving the tiny model."""

from pathlib import Path

import numpy as np
import pytest

from components.config.params import PackageParams
from components.reward.score import Clip
from components.serving.install import install_triton
from components.serving.repository import write_repository
from components.serving.server import serving
from components.video.encode import write_video
from tests.limits import LIMIT_PARAMS
from tests.reward.tiny import saved_model

PARAMS = PackageParams(
    max_batch_size=8,
    max_queue_delay=200_000,
    max_queue_size=None,
    token_budget=512,
    processes=1,
    limits=LIMIT_PARAMS,
    environment=None,
)


def clip(seed: int, frames: int, height: int, width: int, fps: float = 8.0) -> Clip:
    shape = (frames, height, width, 3)
    return Clip(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), fps)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("models") / "video_reward")


@pytest.fixture(scope="session")
def repository(model_folder, tmp_path_factory):
    repository = tmp_path_factory.mktemp("serving") / "model_repository"
    write_repository(repository, model_folder, PARAMS)
    return repository


@pytest.fixture(scope="session")
def server(repository, tmp_path_factory):
    install_triton()
    with serving(repository, tmp_path_factory.mktemp("log") / "triton.log") as server:
        yield server
    assert server.process.returncode == 0, server.last_lines()
    assert not list(Path("/dev/shm").glob(f"{server.shared_prefix}*"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> list[Path]:
    """Files of unlike length, size and rate."""
    folder = tmp_path_factory.mktemp("videos")
    shapes = [(9, 32, 32, 8), (17, 48, 24, 24), (5, 64, 96, 12), (30, 24, 40, 30)]
    for number, (frames, height, width, fps) in enumerate(shapes):
        write_video(folder / f"{number}.mp4", clip(number, frames, height, width).frames, fps)
    return sorted(folder.iterdir())
