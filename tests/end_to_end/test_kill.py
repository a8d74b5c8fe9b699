"""Every stage killed once at a random moment: the next `dvc repro` gives what an unbroken run gave. `make test-kill`."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.pipeline.graph import stage_names
from tests.end_to_end.smoke import environment, run

pytestmark = pytest.mark.kill
START_UP = 4.0  # seconds of `dvc repro` around a stage's own time, about


def outputs(folder: Path, stage: str) -> dict[str, str]:
    """Path to md5 of all that the stage made, as dvc.lock has it."""
    entry = yaml.safe_load((folder / "dvc.lock").read_text())["stages"][stage]
    return {out["path"]: out["md5"] for out in entry["outs"]}


@pytest.mark.parametrize("stage", stage_names())
def test_killed_and_run_again_it_makes_the_same(finished, stage):
    unbroken, lock = outputs(finished, stage), finished / "dvc.lock"
    whole = lock.read_bytes()
    took = float(re.search(rf"\[{re.escape(stage)}\] done in ([\d.]+) s", (finished / "repro.log").read_text())[1])
    moment = random.uniform(1.0, START_UP + took)
    with subprocess.Popen(
        ["dvc", "repro", "--single-item", "--force", "--no-run-cache", stage], cwd=finished, env=environment(finished),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode in (0, -signal.SIGKILL), f"{stage} failed by itself before {moment:.2f} s"
    said = f"{stage} killed after {moment:.2f} s" if process.returncode else f"{stage} was done before {moment:.2f} s"
    run(finished, sys.executable, "-m", "components.pipeline.lock")  # the kill may have come while DVC wrote dvc.lock
    run(finished, "dvc", "repro", "--single-item", "--force", "--no-run-cache", stage)
    assert outputs(finished, stage) == unbroken, said
    lock.write_bytes(whole)  # a lock that was cut just at a line's end has lost other stages
    print(said)
