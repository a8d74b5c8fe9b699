"""Exit codes and one line, for what users can mend; every other exception keeps its traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from components.errors import BadInput, NonFinite, Unreachable, disk_error, exit_codes, without_passwords
from tests.running import heed_interrupts

ERRORS = [
    (BadInput("a.csv", "no such label", row=3, key="VQ"), 2, "error: a.csv, row 3, key 'VQ': no such label"),
    (NonFinite("loss", 7), 3, "error: loss is not finite at step 7; the last checkpoint before it is kept"),
    (Unreachable("http://here", "no answer"), 4, "error: http://here: no answer"),
    (OSError(errno.ENOSPC, "", "clip.mp4"), 4, "error: clip.mp4: No space left on device"),
    (PermissionError(errno.EACCES, "", "clip.mp4"), 2, "error: clip.mp4: Permission denied"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize("error, code, line", ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS])
def test_one_line_and_its_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as left, exit_codes():
        raise error
    assert (left.value.code, capsys.readouterr().err) == (code, line + "\n")


def test_what_no_user_can_mend_keeps_its_traceback():
    for error in (ValueError("a bug"), FileNotFoundError(errno.ENOENT, "", "forgotten.json")):
        with pytest.raises(type(error)), exit_codes():
            raise error


def test_a_full_disk_is_known_below_another_error():
    try:
        try:
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        except RuntimeError as first:
            raise ValueError("could not save") from first
    except ValueError as error:
        assert disk_error(error)[1] == 4


def test_ctrl_c_while_workers_run_is_one_line(tmp_path):
    """A whole group is interrupted, as a terminal does it."""
    (tmp_path / "slow.py").write_text(
        "import time\ndef wait(row):\n    print('begun', flush=True)\n    time.sleep(2)\n    return row\n"
    )
    (tmp_path / "run.py").write_text(
        "from pathlib import Path\n"
        "from components.runtime.engine import map_rows\n"
        "from components.errors import exit_codes\n"
        "import slow\n"
        "if __name__ == '__main__':\n"
        "    with exit_codes():\n"
        "        map_rows(slow.wait, [{}] * 4, 2, 1, Path('.'), lambda items, what, total: items)\n"
    )

    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}"}
    running = subprocess.Popen(
        [sys.executable, "run.py"], cwd=tmp_path, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heed_interrupts,
    )  # fmt: skip
    assert [running.stdout.readline() for _ in range(2)] == ["begun\n"] * 2, "both workers"
    os.killpg(running.pid, signal.SIGINT)
    _, printed = running.communicate(timeout=60)
    assert (running.returncode, printed) == (130, "interrupted\n")
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://u:pw@h:5000/a, row 3", "http://h:5000/a, row 3"),
        ("http:/u:pw@h/a", "http:/h/a"),
        ("http//u:pw@h/a", "http//h/a"),
        ("postgresql://u:pa/ss@h/db", "postgresql://h/db"),
        ("s3://bucket/a@b.mp4", "s3://bucket/a@b.mp4"),
        ("http://h:9000/bucket/a@b.mp4", "http://h:9000/bucket/a@b.mp4"),
        ("image:tag@sha256:0123", "image:tag@sha256:0123"),
    ],
)
def test_passwords_of_addresses_are_taken_out(text, shown):
    assert without_passwords(text) == shown
