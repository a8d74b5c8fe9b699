"""Two processes that share a training end where one alone does; with FSDP too."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from components.runtime.processes import CHUNK
from tests import processes

ON_CPU = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {case.__name__: case(folder / case.__name__) for case in (processes.plain, processes.reward, processes.align)}


def run_two(folder, environment: dict[str, str], nodes: bool = False) -> list[dict]:
    """Results of tests/processes.py in each of two processes, of one node or of one each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | environment | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "tests.processes", str(folder)]
    running = []
    for rank in ("0", "1"):
        own = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": rank, "LOCAL_RANK": "0"} if nodes else {"LOCAL_RANK": rank}
        running.append(subprocess.Popen(command, env=shared | {"RANK": rank} | own))
    try:
        assert [process.wait(timeout=240) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [torch.load(folder / f"results{rank}.pt", weights_only=False) for rank in (0, 1)]


def fsdp_environment() -> dict[str, str]:
    """What `accelerate launch` makes of the configuration file."""
    file = "infra/accelerate/fsdp.yaml"
    args = launch_command_parser().parse_args(["--config_file", file, "--num_processes", "2", "script.py"])
    args, _, _ = _validate_launch_command(args)
    made = prepare_multi_gpu_env(args)
    return {key: value for key, value in made.items() if key.startswith("FSDP_") or key == "ACCELERATE_USE_FSDP"}


@pytest.mark.parametrize("kind", ["MULTI_CPU", "FSDP"])
def test_two_processes_end_where_one_does(alone, tmp_path, kind):
    first, second = run_two(tmp_path, ON_CPU | (fsdp_environment() if kind == "FSDP" else {}))
    assert first["plain"]["kind"] == second["reward"]["kind"] == kind
    for name, expected in alone.items():
        for result in (first[name], second[name]):
            assert [row["step"] for row in result["rows"]] == [row["step"] for row in expected["rows"]]
            for row, other in zip(result["rows"], expected["rows"], strict=True):
                assert row == pytest.approx(other, abs=1e-5, rel=1e-5)
            assert set(result["weights"]) == set(expected["weights"])
            for key, weight in expected["weights"].items():
                assert type(result["weights"][key]) is torch.Tensor
                torch.testing.assert_close(result["weights"][key], weight, atol=1e-5, rtol=1e-5)
    whole = processes.drawn(tmp_path / "alone")
    for result in (first["drawn"], second["drawn"]):
        torch.testing.assert_close(result["latents"], whole["latents"])
        assert result["videos"] == whole["videos"] == [f"clip{n}.mp4" for n in range(5)]
    assert first["align"]["tables"] == second["align"]["tables"] and len(first["align"]["tables"]) == 1
    for result, again in ((first["plain"], first["killed"]), (second["plain"], second["killed"])):
        assert again["said"][0] == "train: resumes at step 10"
        assert again["rows"] == result["rows"]
        for key, weight in result["weights"].items():
            assert torch.equal(again["weights"][key], weight)
    assert first["plain"]["files"] == ["train.pt"]  # the first process alone writes
    assert "9 is no multiple of 2 processes" in first["uneven"]["error"]
    assert "key 'sample.workers': 2 launched processes share the clips" in second["crowded"]["error"]


def test_two_nodes_need_no_folder_in_common(alone, tmp_path):
    """Files go from one to the other: the checkpoint of a killed run, parts of the reference's table, clips and texts."""
    first, second = run_two(tmp_path, ON_CPU, nodes=True)
    assert first["copied"]["copies"] == {
        "own/of0": "",
        "own/of1": "1" * (CHUNK + 5),
        "first/below/of0": "",
        "first/same": "",
    }
    assert first["copied"] == second["copied"]
    for result in (first, second):
        assert result["killed"]["said"][0] == "train: resumes at step 10"
        for key, weight in alone["plain"]["weights"].items():
            torch.testing.assert_close(result["killed"]["weights"][key], weight, atol=1e-5, rtol=1e-5)
        for key, weight in alone["align"]["weights"].items():
            torch.testing.assert_close(result["align"]["weights"][key], weight, atol=1e-5, rtol=1e-5)
        assert len(result["align"]["tables"]) == 1 and result["align"]["parts"] == []
    assert first["align"]["tables"] == second["align"]["tables"]
    whole = processes.drawn(tmp_path / "alone")
    for result in (first["drawn"], second["drawn"]):
        torch.testing.assert_close(result["latents"], whole["latents"])
        assert result["videos"] == whole["videos"]
