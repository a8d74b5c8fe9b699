"""Pipeline runs of DVC in a checkout: the run of a stage, running ones, and the params that each began with.

DVC reads params.yaml anew for each stage, and writes the values after the stage into dvc.lock. A change during a run would
mix params, and the lock could pair new params with old outputs. A run is identified by its process, so that files left by a
killed run do not block others.
"""

import hashlib
import re
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from components.config.params import Params
from components.errors import BadInput
from components.pipeline.graph import stage_names

SECONDS = Path("infra/stage_seconds.yaml")
RUNS = Path(".reelign/runs")  # a file for each run: process, when it began, digest of the params
WITH_VALUE = {"-X", "-W", "--check-hash-based-pycs"}  # options of Python whose value is the next word
CODE = re.compile(r"-[^-XWcm]*([cm])(.*)")  # `-c` or `-m`, behind options of one letter that stand in the same word
ELSEWHERE = {"--temp", "--run-all", "--queue"}  # of `dvc exp run`: its stages run in trees of their own


def dvc_run() -> psutil.Process | None:
    """The `dvc` process above this one, if any."""
    for process in [psutil.Process(), *psutil.Process().parents()]:
        if is_dvc(process.cmdline()):
            return process
    return None


def is_dvc(words: list[str]) -> bool:
    """Whether a command line is `dvc ...`, as a script or a module of Python, whatever options Python has."""
    called = Path(words[0]).name if words else ""
    if not called.startswith("python"):
        return called == "dvc"
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-"):
            return Path(word).name == "dvc"
        if match := CODE.fullmatch(word):
            return match[1] == "m" and (match[2] or next(rest, "")) == "dvc"
        if word in WITH_VALUE:
            next(rest, None)
    return False


def under_way(checkout: Path) -> list[psutil.Process]:
    """Processes that run the pipeline of a checkout: `dvc repro`, `dvc exp run`, and stages started by DVC."""
    return [process for process in psutil.process_iter(["cmdline", "cwd", "environ"]) if runs_here(process.info, checkout)]


def runs_here(process: dict[str, Any], checkout: Path) -> bool:
    """Whether a process runs the pipeline of `checkout`, by its cmdline, cwd and environ, each None for another user's."""
    words = process["cmdline"] or []
    runs = is_dvc(words) and {"repro", "run"} & {*words} and not ELSEWHERE & {*words}
    if process["cwd"] is None or not (runs or "DVC_STAGE" in (process["environ"] or {})):  # DVC sets it for its commands
        return False
    folder = Path(process["cwd"])
    return next((place for place in (folder, *folder.parents) if (place / ".dvc").is_dir()), None) == checkout


def refuse_while_running(checkout: Path) -> None:
    """BadInput during a pipeline run, whose later stages would read other params."""
    if found := under_way(checkout):
        numbers = ", ".join(str(process.pid) for process in found)
        why = f"a pipeline run is under way here (process {numbers}); its later stages would read other params"
        raise BadInput("params.yaml", f"{why}; wait for its end, or end it")


def hold_params(params: Params) -> None:
    """BadInput where the pipeline run of this stage began with other params; a stage run alone is not checked."""
    if (run := dvc_run()) is None:
        return
    name, digest = f"{run.pid}-{run.create_time():.2f}", hashlib.sha256(params.model_dump_json().encode()).hexdigest()[:16]
    RUNS.mkdir(parents=True, exist_ok=True)
    began = [file for file in RUNS.iterdir() if file.name.startswith(f"{name}-")]
    if not began:
        forget_ended()
        (RUNS / f"{name}-{digest}").touch()
    elif began[0].name != f"{name}-{digest}":
        raise changed(f"since the start of `dvc` (process {run.pid}), whose stages would mix params")


def progress(stage: str, profile: str) -> str | None:
    """ "stage 7 of 22, 5 min so far, about 8 min to go" for a stage in a run of `dvc`, None for a stage run alone.

    The time to go is known for the profiles of SECONDS, scaled to this machine by the stages before this one.
    """
    names = stage_names()
    if (run := dvc_run()) is None or stage not in names:
        return None
    place = names.index(stage)
    elapsed = time.time() - run.create_time()
    known = yaml.safe_load(SECONDS.read_text()).get(profile, {}) if SECONDS.exists() else {}
    before, rest = (sum(known.get(name, 0) for name in part) for part in (names[:place], names[place:]))
    # A run that skipped most of what lies before is no measure of this machine.
    scale = elapsed / before if before and elapsed > before / 2 else 1
    to_go = f", about {minutes(rest * scale)} to go" if rest else ""
    return f"stage {place + 1} of {len(names)}, {minutes(elapsed)} so far{to_go}"


def minutes(seconds: float) -> str:
    """ "40 s", or "12 min"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def forget_ended() -> None:
    """Remove the files of ended runs."""
    for file in RUNS.iterdir():
        number = file.name.partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            file.unlink(missing_ok=True)


def changed(when: str) -> BadInput:
    return BadInput("params.yaml", f"was changed {when}; restore it, or run `dvc repro` again with the new params")


def refuse_change(stage: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """BadInput where the params of a stage changed while it ran."""
    if keys := [key for key in before.keys() | now.keys() if before.get(key) != now.get(key)]:
        raise changed(f"while stage {stage} ran (key '{min(keys)}')")
