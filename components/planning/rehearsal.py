"""`reelign rehearse --profile P`: every stage of a profile once, with models of the true sizes, few examples and two steps.

Models that are not here are made with random weights (stand_ins.py), and so are a few labelled pairs. Precision, LoRA,
checkpointing, microbatches and solver are the profile's. `dvc repro` runs in a copy of the tracked files. A rehearsal that
was killed, or failed, continues at the stage where it stopped.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from components.config.data import FolderSource
from components.config.params import Params
from components.errors import BadInput
from components.files.atomic import atomic_write, discard, whole_folder
from components.generator.parts import read_object
from components.methods import trained
from components.pipeline.stage import SCRATCH
from components.planning.budget import budget
from components.planning.expected import expected_bytes, operations_of
from components.planning.stand_ins import make_backbone, make_generator, make_pairs

PLACE = SCRATCH / "rehearsal"
SEEN, LOG, PREFERENCES = "rehearsed.json", "repro.log", "preferences"
PAIRS, PROMPTS, STEPS = 40, 3, 2
EVERY = 0.2  # seconds between samples of memory
LEFT_OUT = ("tests/", ".dvc/", "metrics/", "dvc.lock")  # the checkout's own results are not this run's
Clip = tuple[int, int, int]  # height, width, frames


@dataclass(frozen=True)
class Rehearsed:
    """A stage that ran: seconds, of them those of its imports, peak resident bytes of its processes, of them those of mapped
    files (weights, which the kernel can read again), and bytes that it wrote."""

    seconds: float
    loading: float
    peak: int
    mapped: int
    written: int


def rehearse(params: Params, clip: Clip | None, last: str, say: Callable[[str], None] = print) -> dict[str, Rehearsed]:
    """Run the stages up to `last`; by name, what each took. clip: size in place of the profile's.

    Reads the models of the profile where they are. Writes .reelign/rehearsal/<profile>. BadInput where a stage fails, for a
    profile without `infra/architectures` entry, and for a source that is no folder of pairs.
    """
    if not isinstance(params.source, FolderSource):
        raise BadInput(f"profile {params.profile}", "its source makes its own clips: `dvc repro` is the rehearsal")
    work = (PLACE / params.profile).absolute()
    cut = cut_params(params, clip)
    copy_tracked_files(work, cut)
    prepare(work, params, say)
    if not (work / PREFERENCES).exists():
        with whole_folder(work / PREFERENCES) as partial:
            make_pairs(partial, params.source.csv, Params.model_validate(cut), PAIRS)
    seen = seen_before(work / SEEN)
    code = watched(["dvc", "repro", last], work, seen, say)
    seen = {name: found | {"written": written_by(work, name)} for name, found in seen.items()}
    atomic_write(work / SEEN, json.dumps(seen, indent=1))
    if code:
        why = f"`dvc repro {last}` ended with {code}; its last lines tell why, and the next rehearsal goes on from there"
        raise BadInput(work / LOG, why)
    return {name: Rehearsed(**found) for name, found in seen.items()}


def seen_before(file: Path) -> dict[str, Any]:
    """What stages of an earlier try took; nothing where the file is damaged."""
    try:
        found = read_object(file) if file.exists() else {}
        return {name: asdict(Rehearsed(**row)) for name, row in found.items()}
    except (BadInput, TypeError) as error:  # no JSON, or rows with other keys
        discard(file, error)
        return {}


def cut_params(params: Params, clip: Clip | None) -> dict[str, Any]:
    """The profile with few prompts, clips and steps."""
    cut = params.model_dump(mode="json")
    cut["split"] |= {"validation": 0.2, "test": 0.2}
    cut["source"] |= {"folder": PREFERENCES}
    cut["base_generator"] |= {"digest": cut["base_generator"]["digest"] if there(params.base_generator.folder) else None}
    cut["sampling"] |= {"steps": STEPS}
    if clip is not None:
        cut["sampling"] |= dict(zip(("height", "width", "frames"), clip, strict=True))
    cut["candidates"] = {"prompts": PROMPTS, "per_prompt": 2}
    cut["relabel"] |= {"min_margin": 0.0, "example_pairs": 1}
    cut["align"] |= {"draws": 1, "compile": cut["align"]["compile"] and clip is None, "rounds": {}}
    cut["align"]["dpo"] |= {"validation": 0.0, "patience": None}
    cut["online"] |= {"rounds": {}}
    cut["latent_reward"]["min_margin"] = 0.0
    cut["best_of_n"] |= {"n": 2, "rank_step": 1}
    cut["sample"] |= {"prompts": 2}
    cut["tradeoff"] |= {"clips": 2, "weights": cut["tradeoff"]["weights"][:1]}
    cut["evaluate"] |= {"report_prompts": 2, "resamples": 50}
    cut["reward_bench"]["bootstrap"] = 50
    methods = [cut["align"][own.params] for own in trained().values()]
    short = {"steps": STEPS, "accumulation": 1, "warmup_steps": 1, "log_every": 1, "validate_every": STEPS}
    for section in (cut["reward"], cut["latent_reward"], *methods):
        section["training"] |= short | ({} if clip is None else {"batch_size": 1})
    return cut


def there(folder: str) -> bool:
    return Path(folder).is_dir() and any(Path(folder).iterdir())


def copy_tracked_files(work: Path, cut: dict[str, Any]) -> None:
    """The files of the checkout as they are, and the params; what a rehearsal has done so far stays."""
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0"):
        if name and Path(name).exists() and not name.startswith(LEFT_OUT):
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, work / name)
    (work / "params.yaml").write_text(yaml.safe_dump(cut, sort_keys=False))
    if not (work / ".dvc").exists():
        subprocess.run(["dvc", "init", "--no-scm", "--quiet"], cwd=work, check=True)
        subprocess.run(["dvc", "config", "cache.type", "hardlink,copy"], cwd=work, check=True)


def prepare(work: Path, params: Params, say: Callable[[str], None]) -> None:
    """Models below `work`: links to the real folders, or stand-ins."""
    wanted = {params.base_generator.folder: make_generator, params.reward.base: make_backbone}
    for folder, make in wanted.items():
        place = work / folder
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if there(folder):
            place.symlink_to(Path(folder).absolute())
            say(f"{folder}: the folder itself")
            continue
        say(f"{folder}: not here; a model of its size with random weights is made")
        with whole_folder(place) as partial:
            make(partial, params)


def watched(command: list[str], work: Path, seen: dict[str, Any], say: Callable[[str], None]) -> int:
    """Run the command; its exit code. What a stage took goes into `seen`, and into SEEN as soon as the stage ends. Output
    goes to LOG."""
    environment = os.environ | {"PYTHONPATH": str(work), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    peaks: dict[str, tuple[int, int]] = {}
    begun, ended = 0, 0
    with (
        open(work / LOG, "w") as log,
        subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        try:
            running = True
            while running:
                time.sleep(EVERY)
                running = process.poll() is None
                printed = (work / LOG).read_text()
                stages = re.findall(r"^Running stage '([^']+)'", printed, re.MULTILINE)
                for stage in stages[begun:]:
                    say(f"{stage} ...")
                if stages:
                    peaks[stages[-1]] = max(peaks.get(stages[-1], (0, 0)), resident(process.pid))
                done = took(printed)
                if len(done) > ended:
                    seen |= {name: asdict(Rehearsed(*times, *peaks.get(name, (0, 0)), 0)) for name, times in done.items()}
                    atomic_write(work / SEEN, json.dumps(seen, indent=1))
                begun, ended = len(stages), len(done)
        except KeyboardInterrupt:
            process.send_signal(2)
            process.wait()
            raise
    return process.returncode


def took(printed: str) -> dict[str, tuple[float, float]]:
    """Seconds of the stages that have ended, and of their imports, by what the stages print."""
    loading = dict(re.findall(r"^\[([^\]]+)\] loaded in ([\d.]+) s", printed, re.MULTILINE))
    done = re.findall(r"^\[([^\]]+)\] done in ([\d.]+) s", printed, re.MULTILINE)
    return {name: (float(seconds), float(loading.get(name, 0.0))) for name, seconds in done}


def resident(parent: int) -> tuple[int, int]:
    """Resident bytes of all child processes of `parent`, and how many of them are of mapped files."""
    total, mapped = 0, 0
    try:
        for child in psutil.Process(parent).children(recursive=True):
            used = child.memory_info()
            total, mapped = total + used.rss, mapped + used.shared
    except psutil.NoSuchProcess:  # ended just now
        pass
    return total, mapped


def written_by(work: Path, name: str) -> int:
    """Bytes of a stage's outputs."""
    lock = work / "dvc.lock"  # none before the first stage has ended
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.exists() else {}
    outs = stages.get(name, {}).get("outs", [])
    return sum(out.get("size", 0) for out in outs)


def table(params: Params, cut: Params, seen: dict[str, Rehearsed]) -> list[dict[str, Any]]:
    """A row a stage: seconds, GiB at the peak, of it those of mapped files, GiB planned and written, and hours for the
    profile's own counts, where the plan counts the stage's operations. Seconds grow as operations do, but for those of the
    imports."""
    tried = budget(cut)
    planned = expected_bytes(tried)
    now, whole = operations_of(tried), operations_of(budget(params))
    rows = []
    for name, found in seen.items():
        ratio = whole[name] / now[name] if now.get(name) else None
        hours = None if ratio is None else (found.loading + (found.seconds - found.loading) * ratio) / 3600
        rows.append(
            {
                "stage": name,
                "seconds": found.seconds,
                "peak_gib": found.peak / 2**30,
                "mapped_gib": found.mapped / 2**30,
                "planned_gib": planned[name] / 2**30 if name in planned else None,
                "written_gib": found.written / 2**30,
                "hours": hours,
            }
        )
    return rows


def as_lines(rows: list[dict[str, Any]]) -> list[str]:
    memory = f"{'peak GiB':>9} {'mapped':>8} {'planned':>8} {'written':>8}"
    lines = [f"{'stage':<18} {'seconds':>9} {memory} {'hours for the profile':>22}"]
    for row in rows:
        used = f"{row['peak_gib']:>9.2f} {row['mapped_gib']:>8.2f}"
        memory = f"{used} {figure(row['planned_gib']):>8} {row['written_gib']:>8.2f}"
        lines.append(f"{row['stage']:<18} {row['seconds']:>9.1f} {memory} {figure(row['hours']):>22}")
    return lines


def figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def remove(params: Params) -> None:
    """Remove a rehearsal's folder: tens of gigabytes of stand-ins."""
    shutil.rmtree(PLACE / params.profile, ignore_errors=True)


def not_tried(params: Params, clip: Clip | None) -> list[str]:
    """What a rehearsal leaves untried, a line each."""
    lines = [f"labels of {params.source.folder}: the pairs were made up"]
    for folder in (params.base_generator.folder, params.reward.base):
        if not there(folder):
            lines.append(f"weights of {folder}: random ones were used")
    if clip is not None:
        own = params.sampling
        drawn = "x".join(map(str, clip))
        lines.append(f"clips of {own.height}x{own.width}x{own.frames}: {drawn} were drawn")
        lines.append("batch sizes of the profile: batches of 1 were trained on")
        if params.align.compile:
            lines.append("compiled layers: torch.compile was off")
    if not torch.cuda.is_available():
        lines.append("a GPU: seconds and memory are this machine's")
    return lines
