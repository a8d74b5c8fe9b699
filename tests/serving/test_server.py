"""A real Triton server: served scores are the local scores, and what cannot be scored gets an error by name."""

import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from components.errors import BadInput
from components.params import PackageParams
from components.reward.score import Clip, RewardModel, Score, Unscored
from components.serving.client import request_tensors, score_remote
from components.serving.install import install_triton
from components.serving.package import NAME, write_repository
from components.serving.server import ServingError, free_ports, serving, start_triton
from components.video.encode import write_video
from tests.reward.tiny import saved_model

PARAMS = PackageParams(max_batch_size=8, max_queue_delay=200_000, token_budget=512)


def clip(seed: int, frames: int, height: int, width: int, fps: float = 8.0) -> Clip:
    shape = (frames, height, width, 3)
    return Clip(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), fps)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("models") / "video_reward")


@pytest.fixture(scope="module")
def repository(model_folder, tmp_path_factory):
    repository = tmp_path_factory.mktemp("serving") / "model_repository"
    write_repository(repository, model_folder, PARAMS)
    return repository


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    install_triton()
    with serving(repository, NAME, tmp_path_factory.mktemp("log") / "triton.log") as server:
        yield server
    assert server.process.returncode == 0, server.last_lines()
    assert not list(Path("/dev/shm").glob(f"{server.shared_prefix}*"))
    with pytest.raises(BadInput, match="no Triton server answers"):
        score_remote(server.http, [(clip(0, 4, 16, 16), "a")])


@pytest.mark.serving
def test_served_scores_are_the_local_scores(server, model_folder, tmp_path):
    video = tmp_path / "clip.mp4"
    write_video(video, clip(2, 9, 32, 32).frames, 8)
    items = [
        (clip(0, 9, 32, 32), "a red circle moving up"),
        (clip(1, 17, 48, 24, fps=23.976), "ein grüner Kreis – 左へ"),
        (video, "a red circle moving up"),
    ]
    batches = executions(server)
    local, served = RewardModel.load(model_folder).score(items), score_remote(server.http, items)
    for mine, theirs in zip(local, served, strict=True):
        assert isinstance(theirs, Score)
        assert theirs.raw == pytest.approx(mine.raw, abs=1e-5)
        assert theirs.normalised == pytest.approx(mine.normalised, abs=1e-5)
        assert theirs.overall == pytest.approx(mine.overall, abs=1e-5)
        assert (theirs.model_version, theirs.frame_plan) == (mine.model_version, mine.frame_plan)
    assert abs(served[0].raw["TA"] - served[1].raw["TA"]) > 1e-3
    assert executions(server) - batches < len(items)  # unlike clips shared a call


@pytest.mark.serving
def test_bad_items_get_a_reason_and_leave_the_others_alone(server, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    good = (clip(0, 9, 32, 32), "a red circle")
    wrong = {
        "0 frame": (clip(0, 0, 32, 32), "a red circle"),
        "the plan wants 4": (clip(0, 3, 32, 32), "a red circle"),
        "frames of 0 x 32 px": (clip(0, 9, 32, 0), "a red circle"),
        "frame rate nan": (clip(0, 9, 32, 32, fps=float("nan")), "a red circle"),
        "prompt is empty": (clip(0, 9, 32, 32), ""),
        "special token": (clip(0, 9, 32, 32), "a <|VQ_reward|>"),
        "unexpected shape": (Clip(np.zeros((9, 32, 32, 4), np.uint8), 8), "a red circle"),
        "UINT8": (Clip(np.zeros((9, 32, 32, 3), np.float32), 8), "a red circle"),
        "unreadable": (broken, "a red circle"),
    }
    first, *failed, last = score_remote(server.http, [good, *wrong.values(), good])
    assert isinstance(first, Score)
    assert last.raw == pytest.approx(first.raw, abs=1e-5)
    for reason, result in zip(wrong, failed, strict=True):
        assert isinstance(result, Unscored), reason
        assert reason in result.reason


@pytest.mark.serving
def test_garbage_is_answered_by_an_error(server):
    client = triton.InferenceServerClient(server.http)
    tensors = request_tensors(clip(0, 9, 32, 32), "a red circle")
    binary = triton.InferInput("prompt", [1, 2], "UINT8")
    binary.set_data_from_numpy(np.array([[0xFF, 0xFE]], np.uint8))
    two = request_tensors(clip(0, 9, 32, 32), "ab")
    for tensor, value in zip(two, (clip(0, 9, 32, 32).frames, np.frombuffer(b"ab", np.uint8), np.ones(1)), strict=True):
        tensor.set_shape([2, *value.shape]).set_data_from_numpy(np.stack([value] * 2))
    for reason, inputs in {
        "not UTF-8": [tensors[0], binary, tensors[2]],
        "one clip": two,
        "expected 3 inputs": tensors[:2],
    }.items():
        with pytest.raises(InferenceServerException, match=reason) as caught:
            client.infer(NAME, inputs)
        assert caught.value.status() == "400"
    client.close()
    assert isinstance(score_remote(server.http, [(clip(0, 9, 32, 32), "a red circle")])[0], Score)


@pytest.mark.serving
def test_model_that_cannot_load_stops_the_start(repository, model_folder, tmp_path):
    install_triton()
    write_repository(tmp_path, model_folder, PARAMS)
    (tmp_path / NAME / "1/video_reward/head.safetensors").write_bytes(b"damaged")
    log = tmp_path / "triton.log"
    with pytest.raises(ServingError, match=r"(?s)Triton ended with code 1.*safetensors"), serving(tmp_path, NAME, log):
        pass


def test_start_names_what_is_missing(tmp_path):
    with pytest.raises(BadInput, match="no Triton here"):
        start_triton(tmp_path, NAME, tmp_path / "log", folder=tmp_path / "nowhere")


def test_free_ports_are_free():
    ports = free_ports(3)
    assert len(set(ports)) == 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))


def test_no_server_is_bad_input():
    with pytest.raises(BadInput, match="no Triton server answers"):
        score_remote(f"http://127.0.0.1:{free_ports(1)[0]}", [])


def executions(server) -> int:
    """How often Triton has called the model so far."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("nv_inference_exec_count"))
