"""`reelign run-stage` killed at 20 seeded moments: run again it makes the same bytes, and nothing is lost. `make test-kill`;
`score` and `promote` are in tests/registry/test_interrupted.py, `deploy` and its roll-back in tests/serving."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import dvc.repo.reproduce  # noqa: F401 - loaded once for all processes
import pytest

import components.pipeline.run_stage  # noqa: F401
from components.cli.main import main
from tests.test_run_stage import Machine, project, times  # noqa: F401 - a fixture

pytestmark = pytest.mark.kill
MOMENTS = 20
# A server with all modules loaded, of which each process is a fork: loading takes seconds, in which nothing is at stake.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def reelign(folder: Path, environ: dict[str, str], said: Path, *words: str) -> None:
    """`reelign WORDS...` as a process of its own: its folder, environment and output."""
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(environ)
    os.chdir(folder)
    sys.argv = ["reelign", *words]
    main()


def start(machine: Machine, said: Path) -> multiprocessing.Process:
    process = PROCESSES.Process(target=reelign, args=(machine.folder, machine.environ, said, "run-stage", "first"))
    process.start()
    return process


def finished(machine: Machine, said: Path) -> float:
    """Seconds of a run to its end."""
    begun, process = time.monotonic(), start(machine, said)
    process.join()
    assert process.exitcode == 0, said.read_text()
    assert "Traceback" not in said.read_text()
    return time.monotonic() - begun


def test_run_stage_killed_at_any_moment_makes_the_same_output(project, tmp_path):  # noqa: F811
    machine, said = Machine(tmp_path / "one", project, str(tmp_path / "remote")), tmp_path / "said"
    finished(machine, said)  # makes the tree, which later ones have
    (machine.folder / "params.yaml").write_text("seed: 1000\n")
    took, draw, kills, inside = finished(machine, said), random.Random(1), 0, 0
    for place in range(MOMENTS):
        # Each time with another seed, which is another run: nothing of it is in the cache.
        (machine.folder / "params.yaml").write_text(f"seed: {place + 2}\n")
        process, moment, before = start(machine, said), draw.uniform(0.05, 1.0) * took, times(project, "first")
        process.join(moment)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), said.read_text()
        kills += process.exitcode != 0
        inside += process.exitcode != 0 and times(project, "first") > before
        took = finished(machine, said)  # moments keep up with the machine's pace
        assert machine.made("first") == "in first", f"killed after {moment:.2f} s"
        kept = {file.parent for file in (tmp_path / "remote").rglob("runs/*/*/*")}
        assert len(kept) == place + 3, "a record of each run is in the remote"
    assert kills > MOMENTS // 4
    print(f"run-stage: killed {kills} times of {MOMENTS} within {took:.1f} s, {inside} after the command began")
