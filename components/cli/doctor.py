"""`reelign doctor`: checks of this installation, one line each."""

import configparser
import importlib.metadata
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from components.cli.output import print_json
from components.config.params import Params, load_params
from components.errors import BadInput, Unreachable
from components.files.links import way_of
from components.pipeline.mlflow_store import ARTIFACTS, await_server, embedded_store, redacted, relocate, store_uri

LOCK = Path("docker/locks/ml.txt")
CHECKED = ("torch", "transformers", "diffusers", "peft", "accelerate", "mlflow", "dvc", "av", "pydantic")


def examine(as_json: bool = False) -> bool:
    """Run all checks and print a line each, or one JSON object at the end; True when none failed."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("python", python),
        ("packages", packages),
        ("device", device),
        ("params", params),
        ("graph", graph),
        ("video", video),
        ("inputs", inputs),
        ("mlflow", mlflow),
        ("disk", disk),
        ("memory", memory),
    ]
    found, failures = [], set()  # a bad params.yaml fails several checks with the same line
    for name, check in checks:
        try:
            fine, words = True, check()
        except (Trouble, BadInput, Unreachable) as error:
            fine, words = False, str(error)
        found.append({"check": name, "ok": fine, "found": words})
        if not as_json and (fine or words not in failures):
            print(f"{'ok  ' if fine else 'FAIL'}  {name:<9} {words}", flush=True)
        if not fine:
            failures.add(words)
    if as_json:
        print_json({"ok": not failures, "checks": found})
    return not failures


class Trouble(Exception):
    """A failed check, with its remedy."""


def python() -> str:
    if sys.version_info[:2] != (3, 11):
        raise Trouble(f"Python {sys.version.split()[0]}; 3.11 is needed: `make setup` makes an environment with it")
    return sys.version.split()[0]


def packages() -> str:
    locked = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE)) if LOCK.exists() else {}
    found = {}
    for name in CHECKED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise Trouble(f"{name} is not installed: `make setup`") from error
        if name in locked and found[name] != locked[name]:
            raise Trouble(f"{name} is {found[name]}, the lock has {locked[name]}: `make setup`")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()} ({torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB)"
    return f"CPU, {torch.get_num_threads()} threads (the shapes and examples profiles need no more)"


def params() -> str:
    return f"params.yaml is valid, profile {load_params().profile}"


def graph() -> str:
    import yaml

    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    missing = [
        dep
        for entry in stages.values()
        for dep in entry.get("do", entry)["deps"]
        if dep.startswith("components/") and "${" not in dep and not Path(dep).exists()
    ]
    if missing:
        raise Trouble(f"dvc.yaml names {missing[0]}, which does not exist")
    return f"dvc.yaml, {len(stages)} stages"


def video() -> str:
    import numpy as np

    from components.video.decode import read_frames
    from components.video.encode import write_video

    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    clip = np.broadcast_to(ramp[None, :, None, None], (8, 64, 64, 3)).copy()
    with tempfile.TemporaryDirectory() as folder:
        write_video(Path(folder) / "clip.mp4", clip, fps=8)
        error = np.abs(read_frames(Path(folder) / "clip.mp4").astype(int) - clip).mean()
    if error > 3:
        raise Trouble(f"an H.264 round trip changes pixels by {error:.1f} levels on average")
    return f"H.264 written and read back, mean error {error:.2f} levels of 255"


def inputs() -> str:
    """Check that the profile's inputs exist."""
    current = load_params()
    for folder in (current.base_generator.folder, current.source.folder, current.reward.base):
        if folder.startswith("s3://"):
            from components.curation.s3 import Prefix

            Prefix(folder, workers=1, patience=5, say=print).listing()
    for folder, how in missing_inputs(current):
        raise Trouble(f"{folder} is not there; {how}")
    return ", ".join(dict.fromkeys((current.source.folder, current.base_generator.folder, current.reward.base)))


def missing_inputs(params: Params) -> list[tuple[str, str]]:
    """The missing or empty folders that params name, with the way to get each; buckets are left out."""
    from components.pipeline.stage import how_to_get

    folders = (params.base_generator.folder, params.source.folder, params.reward.base)
    local = [folder for folder in folders if not folder.startswith("s3://")]
    how = {folder: how_to_get(folder) for folder in local}
    if params.source.kind == "folder":
        how[params.source.folder] = "put clips and labels there, or name another folder in params.yaml, source.folder"
    return [(folder, how[folder]) for folder in local if not any(Path(folder).glob("*"))]


def make_missing_inputs() -> list[str]:
    """A line for each missing input. A folder inside the checkout is made, empty: DVC fails on a missing one before any
    stage runs, with an error number. With an empty one the stage fails with the way to get it."""
    missing = missing_inputs(load_params())
    for folder, _ in missing:
        if Path(folder).resolve().is_relative_to(Path.cwd()):
            Path(folder).mkdir(parents=True, exist_ok=True)
    return [f"{folder} is not there yet; {how}" for folder, how in missing]


def mlflow() -> str:
    """Check that the MLflow store responds and has its artifacts in this checkout."""
    file = embedded_store()
    if file is None:
        await_server()
        return f"{redacted(store_uri())} answers"
    relocate(file)
    return f"{file.name}, artifacts in {file.with_name(ARTIFACTS)}"


def disk() -> str:
    free = shutil.disk_usage(".").free / 2**30
    if free < 3:
        raise Trouble(f"{free:.1f} GiB free; the demo needs 3")
    return f"{free:.0f} GiB free; large files are shared by {way_of('.')}, in DVC's cache by {dvc_links()}"


def dvc_links() -> str:
    """Ways of cache.type in DVC's configuration; DVC's own where it names none."""
    found = configparser.ConfigParser(interpolation=None)
    found.read([".dvc/config", ".dvc/config.local"])
    return found.get("cache", "type", fallback="reflink,copy").strip('"').replace(",", ", ")


def memory() -> str:
    import psutil

    total = psutil.virtual_memory().total / 2**30
    if total < 8:
        raise Trouble(f"{total:.1f} GiB; the demo needs 8")
    return f"{total:.0f} GiB"
