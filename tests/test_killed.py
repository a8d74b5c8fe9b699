"""`reelign run-stage` and `reelign score` killed at 20 seeded moments each: run again they make the same bytes, and nothing
else is left. `make test-kill`."""

import random
import signal
import subprocess
import time

import pytest

from tests.test_run_stage import Machine, project  # noqa: F401 - a fixture
from tests.test_twice import COMMANDS, content, folder, start  # noqa: F401 - a fixture

pytestmark = pytest.mark.kill
MOMENTS = 20


def killed(process: subprocess.Popen, moment: float) -> bool:
    """Whether SIGKILL came before the process had ended."""
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_score_killed_at_any_moment_makes_the_same_table(folder):  # noqa: F811
    words = ("components.cli", *COMMANDS["score"])
    begun = time.monotonic()
    first = start(folder, *words)
    assert first.wait() == 0, first.communicate()
    took, whole = time.monotonic() - begun, content(folder / "out")
    draw, kills = random.Random(0), 0
    for _ in range(MOMENTS):
        (folder / "out/scores.csv").unlink()
        moment = draw.uniform(0.2, 1.0) * took
        kills += killed(start(folder, *words), moment)
        again = start(folder, *words)
        _, error = again.communicate()
        assert again.returncode == 0, error
        assert content(folder / "out") == whole, f"killed after {moment:.2f} s"
    assert kills > MOMENTS // 4
    print(f"score: killed {kills} times within {took:.1f} s")


def test_run_stage_killed_at_any_moment_makes_the_same_output(project, tmp_path):  # noqa: F811
    machine = Machine(tmp_path / "one", project, str(tmp_path / "remote"))
    machine.run("first")  # makes the tree, which later ones have
    (machine.folder / "params.yaml").write_text("seed: 1000\n")
    begun = time.monotonic()
    machine.run("first")
    took, draw, kills = time.monotonic() - begun, random.Random(1), 0
    for place in range(MOMENTS):
        moment = draw.uniform(0.05, 1.0) * took
        # Each time with another seed, which is another run: nothing of it is in the cache.
        (machine.folder / "params.yaml").write_text(f"seed: {place + 2}\n")
        kills += killed(machine.start("first"), moment)
        said = machine.run("first")
        assert machine.made("first") == "in first", f"killed after {moment:.2f} s: {said}"
        assert "Traceback" not in said
    assert kills > MOMENTS // 4
    print(f"run-stage: killed {kills} times within {took:.1f} s")
