"""Two nodes that train one reward model, as `run-stage` starts them: no common folder but the DVC remote."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.smoke import environment

pytestmark = pytest.mark.kill
LOST = "error: node 1 of 2: lost, its connection ended; its own log may have the reason"


@pytest.fixture(scope="module")
def project(finished) -> Path:
    """The finished run as a git repository, and its results in a remote, but for the stage's own."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    remote = finished.parent / "remote"
    (finished / ".dvc/.gitignore").write_text("/cache\n/tmp\n/config.local\n")
    for command in (
        ["dvc", "remote", "add", "--quiet", "--default", "--local", "shared", str(remote)],
        ["dvc", "push", "--quiet", "--run-cache"],
        ["rm", "dvc.lock"],
        [*git, "init", "--quiet"],
        [*git, "add", "."],
        [*git, "commit", "--quiet", "-m", "a project"],
    ):
        done = subprocess.run(command, cwd=finished, env=environment(finished), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    runs = {entry.parent for entry in remote.glob("**/runs/*/*/*") if "components.reward.train" in entry.read_text()}
    assert runs
    for run in runs:
        shutil.rmtree(run)
    return finished


class Node:
    """A machine: a clone, with nothing but the remote."""

    def __init__(self, folder: Path, project: Path):
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", project, folder], check=True)
        shutil.copyfile(project / "params.yaml", folder / "params.yaml")
        self.environ = environment(folder) | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self.environ |= {"REELIGN_REMOTE": str(project.parent / "remote")}

    def start(self, *words: str, **environ: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "components.cli.main", "run-stage", "reward", *words],
            cwd=self.folder, env=self.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def together(nodes: list[Node], *words: str) -> list[subprocess.Popen]:
    master = f"127.0.0.1:{free_port()}"
    options = ["--nodes", "2", "--master", master, "--patience", "120", *words]
    return [node.start(*options, "--node-rank", str(rank)) for rank, node in enumerate(nodes)]


def ended(running: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str]]:
    try:
        return [(process.wait(seconds), process.stdout.read()) for process in running]
    finally:
        for process in running:
            process.kill()


def test_two_nodes_train_the_model_of_one(project, tmp_path):
    nodes = [Node(tmp_path / name, project) for name in ("first", "second")]
    running = together(nodes)
    checkpoints = nodes[0].folder / ".reelign/trees/reward/.reelign/state/reward"
    deadline = time.monotonic() + 180
    while not list(checkpoints.glob("*/*.pt")):
        if any(process.poll() is not None for process in running) or time.monotonic() > deadline:
            pytest.fail("\n".join(said for _, said in ended(running)))
        time.sleep(0.05)
    for process in [*psutil.Process(running[1].pid).children(recursive=True), running[1]]:  # as a pod ends
        process.kill()
    began = time.monotonic()
    (code, said), _ = ended(running)
    assert time.monotonic() - began < 30
    assert code == 4 and said.rstrip().endswith(LOST), said
    assert not (nodes[0].folder / ".reelign/trees/reward/models/video_reward").exists()

    (code, said), (other, answer) = ended(together(nodes))
    assert (code, other) == (0, 0), said + answer
    assert re.search(r"train: resumes at step [1-9]", said), said
    for name in ("model.safetensors", "head.safetensors"):
        trees = [project, nodes[0].folder / ".reelign/trees/reward"]
        one, two = (load_file(tree / "models/video_reward" / name) for tree in trees)
        assert one.keys() == two.keys()
        for key, weight in one.items():
            torch.testing.assert_close(two[key], weight, atol=1e-4, rtol=1e-4)
    assert not (nodes[1].folder / ".reelign/trees/reward.node-1/models/video_reward").exists()

    again = ended(together(nodes))
    assert [code for code, _ in again] == [0, 0], again
    assert "was run before, restored" in again[0][1] and "was run before; node 0 restores it" in again[1][1]
