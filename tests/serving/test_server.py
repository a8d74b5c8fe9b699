"""The server itself: unlike clips share a batch, what cannot start says why, nothing stays behind."""

import socket
import urllib.request

import pytest

from components.errors import BadInput
from components.reward.score import Score
from components.serving.client import Unanswered, score_remote
from components.serving.install import install_triton
from components.serving.repository import MODEL, write_repository
from components.serving.server import ServingError, free_ports, serving, start_triton
from tests.serving.conftest import PARAMS, clip


@pytest.mark.serving
def test_unlike_clips_and_files_share_a_batch(server, videos):
    items = [(clip(0, 9, 32, 32), "a red circle"), (clip(1, 17, 48, 24), "a"), (videos[0], "a"), (videos[1], "b c")]
    batches = executions(server)
    assert all(isinstance(result, Score) for result in score_remote(server.http, items))
    assert executions(server) - batches < len(items)


@pytest.mark.serving
def test_a_full_queue_turns_away_and_the_client_comes_again(model_folder, tmp_path):
    install_triton()
    params = PARAMS.model_copy(update={"max_batch_size": 1, "max_queue_delay": 0, "max_queue_size": 1})
    write_repository(tmp_path / "repository", model_folder, params)
    items = [(clip(number, 9, 32, 32), "a red circle") for number in range(16)]
    with serving(tmp_path / "repository", tmp_path / "triton.log") as server:
        once = score_remote(server.http, items, in_flight=16, attempts=1)
        turned_away = [result for result in once if not isinstance(result, Score)]
        assert turned_away
        assert all(isinstance(result, Unanswered) and "maximum queue size" in result.reason for result in turned_away)
        assert all(isinstance(result, Score) for result in score_remote(server.http, items, in_flight=16))


@pytest.mark.serving
def test_model_that_cannot_load_stops_the_start(model_folder, tmp_path):
    install_triton()
    write_repository(tmp_path, model_folder, PARAMS)
    (tmp_path / MODEL / "1/video_reward/head.safetensors").write_bytes(b"damaged")
    log = tmp_path / "triton.log"
    with pytest.raises(ServingError, match=r"(?s)Triton ended with code 1.*safetensors"), serving(tmp_path, log):
        pass


def test_start_names_what_is_missing(tmp_path):
    with pytest.raises(BadInput, match=r"no Triton here; `reelign serve --install` installs it"):
        start_triton(tmp_path, tmp_path / "log", folder=tmp_path / "nowhere")


@pytest.mark.serving
def test_start_names_a_missing_model_and_a_taken_port(repository, tmp_path):
    install_triton()
    with pytest.raises(BadInput, match="no model video_reward_model in this repository"):
        start_triton(tmp_path, tmp_path / "log")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"127.0.0.1:{port}: something listens there already"):
            start_triton(repository, tmp_path / "log", ports=(None, port, None))


def test_free_ports_are_free():
    ports = free_ports(3)
    assert len(set(ports)) == 3
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))


def executions(server) -> int:
    """How often Triton has called the backend so far."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.startswith("nv_inference_exec_count") and f'"{MODEL}"' in line]
    return sum(int(float(line.split()[-1])) for line in found)
