"""Common parts of all stages: start-up, seeding, atomic outputs, resumable state, progress, tracking, exit code.

A stage is a function of one `Stage`; `stage_main` is its `__main__`. DVC, Airflow, a container and a person all run the same
`python -m components.<area>.<stage>`.
"""

import gc
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import yaml

from components.config.params import Params, load_params
from components.errors import BadInput, Unreachable, exit_codes
from components.files.atomic import atomic_write, put_in_place
from components.files.digests import file_digest, files_below
from components.files.locks import sole_writer
from components.pipeline.graph import stage_definition, stage_names
from components.pipeline.lock import keep_copy
from components.pipeline.logged_models import Package
from components.pipeline.memory import keep_freed_memory
from components.pipeline.pipeline_run import hold_params, progress, refuse_change
from components.pipeline.tracking import ChildRun, chosen_params

OWNERS = {  # on the model hub, by prefix of model names
    **{"Wan": "Wan-AI", "Qwen": "Qwen", "VideoReward": "KwaiVGI", "LTX": "Lightricks", "mochi": "genmo"},
    "Hunyuan": "hunyuanvideo-community",  # in diffusers' layout
}
SCRATCH = Path(".reelign")  # beside the outputs, so that a rename is atomic; ignored by git and DVC
MEASURED = SCRATCH / "measured"  # a JSON file per stage with local measurements, see Stage.measured


class Stage:
    """One run of one stage: its params, its digest, its unfinished outputs.

    If it is launched as several processes (components/runtime/training.py), all run the same body. Only the first logs,
    tracks and commits; the others' outputs are discarded.
    """

    def __init__(self, name: str):
        self.name = name
        self.params: Params = load_params()
        self.definition = stage_definition(name)
        self.inputs = input_digests(name, self.definition)
        self.digest = stage_digest(name, self.definition, self.inputs)
        self.rank = rank()
        self._partial = build_folder(name)
        shutil.rmtree(self._partial, ignore_errors=True)
        self._outputs: dict[Path, Path] = {}
        self._measured: dict[str, float] = {}
        self._run: ChildRun | None = None
        self._started = time.monotonic()

    def output(self, path: str | Path) -> Path:
        """Temporary path for the file or folder `path`; it is moved to `path` only when the whole stage has succeeded."""
        final = Path(path)
        partial = self._partial / final
        partial.parent.mkdir(parents=True, exist_ok=True)
        self._outputs[final] = partial
        return partial

    def state(self) -> Path:
        """Folder of state from which a killed run resumes. It belongs to exactly these inputs, code and params."""
        folder = SCRATCH / "state" / self.name / self.digest
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seed(self, *key: object) -> int:
        """A seed of 63 bits from params.seed, the stage's name and `key`; equal on every machine."""
        return self.shared_seed(self.name, *key)

    def shared_seed(self, *key: object) -> int:
        """A seed that is the same in every stage: comparisons of methods need a common basis."""
        return seed_of(self.params.seed, *key)

    def rng(self, *key: object) -> np.random.Generator:
        return np.random.default_rng(self.seed(*key))

    def shared_rng(self, *key: object) -> np.random.Generator:
        return np.random.default_rng(self.shared_seed(*key))

    def progress(self, items: Iterable[Any], what: str, total: int | None = None) -> Iterator[Any]:
        """Iterate with a bar on a terminal and a plain line every ten seconds in a log."""
        from tqdm import tqdm

        if self.rank:
            yield from items
            return
        terminal = sys.stderr.isatty()
        if total is None and isinstance(items, Sized):
            total = len(items)
        if terminal:
            yield from tqdm(items, desc=what, total=total, leave=False)
            return
        begun = said = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - said > 10:
                self.say(f"{what}: {done}/{total or '?'}, {done / (now - begun):.1f}/s")
                said = now

    def say(self, text: str) -> None:
        if not self.rank:
            print(f"[{self.name}] {text}", file=sys.stderr, flush=True)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics to the stage's MLflow run."""
        if self._run is not None:  # of the first process
            self._run.log(metrics, step)

    def measured(self, facts: Mapping[str, float]) -> None:
        """Record measurements of a run on this machine: seconds, downloaded bytes. They differ from run to run, so they are
        not in outputs, whose digests dvc.lock pins. They go to MLflow and, once the stage has succeeded, to MEASURED."""
        self._measured |= facts
        self.log(facts)

    def register(self, model: str, folder: str | Path, tags: dict[str, str], package: Package | None = None) -> None:
        """Register `folder` (an output of this stage) as a new version of the model, once the stage has succeeded; as an
        MLflow model where `package` writes one."""
        if self._run is not None:
            self._run.registrations.append((model, Path(folder), tags, package))

    def run(self, body: Callable[["Stage"], None]) -> None:
        if self.rank:
            try:
                body(self)
            finally:
                shutil.rmtree(self._partial, ignore_errors=True)
            return
        hold_params(self.params)
        self._run = ChildRun(self.name, self.digest, self.definition, self.params, self.inputs)
        try:
            body(self)
            self._refuse_change()
            self._commit()
        except BaseException:
            try:
                self._run.close("FAILED", self._seconds(), {})
            except Unreachable as error:  # the stage's own failure is more important
                self.say(f"the failure could not be recorded: {error}")
            raise
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
        self._run.close("FINISHED", self._seconds(), {str(path): folder_digest(path) for path in self._outputs})
        shutil.rmtree(SCRATCH / "state" / self.name, ignore_errors=True)
        self.say(f"done in {self._seconds():.1f} s")

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _refuse_change(self) -> None:
        """BadInput where the stage's params changed in params.yaml: DVC would write the new ones into dvc.lock."""
        before, now = (chosen_params(params, self.definition["params"]) for params in (self.params, load_params()))
        refuse_change(self.name, before, now)

    def _commit(self) -> None:
        missing = [str(final) for final, partial in self._outputs.items() if not partial.exists()]
        if missing:
            raise FileNotFoundError(f"stage {self.name} did not make {', '.join(missing)}")
        for final, partial in self._outputs.items():
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.is_dir():
                shutil.rmtree(final)
            put_in_place(partial, final)
        if self._measured:
            write_json(MEASURED / f"{self.name}.json", self._measured)


def seed_of(seed: int, *key: object) -> int:
    """A seed of 63 bits from params.seed and `key`."""
    text = json.dumps([seed, *key], default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rank() -> int:
    """The number of this process among those that accelerate or torchrun launched together."""
    return int(os.environ.get("RANK", "0"))


def build_folder(name: str) -> Path:
    """Where this process builds the outputs of a stage."""
    return SCRATCH / "partial" / (f"{name}.{rank()}" if rank() else name)


def stage_main(name: str, body: Callable[[Stage], None]) -> NoReturn:
    """Run `body` as the stage `name` and exit: 0 success, 2 bad input or a stage that runs here already, 3 a non-finite
    number, 4 a service that does not answer, 1 anything else."""
    import psutil

    loading = time.time() - psutil.Process().create_time()  # interpreter and libraries
    keep_freed_memory()
    with exit_codes(), sole_writer(build_folder(name)):
        keep_copy()
        stage = Stage(name)
        stage.say(f"loaded in {loading:.1f} s")
        if line := progress(name, stage.params.profile):
            stage.say(line)
        gc.freeze()  # libraries stay to the end: collections leave them out
        stage.run(body)
    gc.freeze()  # saves the collection at exit over all objects: a second, with torch and diffusers loaded
    sys.exit(0)


def input_digests(name: str, definition: dict[str, Any]) -> dict[str, str]:
    """Digest of each of a stage's deps, by path; BadInput names one that is missing.

    A bucket (`s3://...`) has none: its objects are cached one by one (components/curation/s3.py).
    """
    digests = {}
    for dep in definition["deps"]:
        if dep.startswith("s3://"):
            continue
        if not Path(dep).exists():
            maker = next((stage for stage in stage_names() if dep in stage_definition(stage)["outs"]), None)
            makes = f"dvc repro {maker} makes it" if maker else how_to_get(dep)
            raise BadInput(dep, f"missing; stage {name} needs it ({makes})")
        digests[dep] = folder_digest(dep)
    return digests


def how_to_get(folder: str | Path) -> str:
    """How to get a folder that params.yaml names: the command for a model of the hub, else a hint."""
    name = Path(folder).name
    for start, owner in OWNERS.items():
        if name.startswith(start):
            return f"`reelign fetch {owner}/{name} --to {folder}` downloads it"
    return f"put it there, or name another in params.yaml (`reelign fetch OWNER/{name} --to {folder}` downloads a model)"


def stage_digest(name: str, definition: dict[str, Any], inputs: dict[str, str]) -> str:
    """Digest of everything that a stage's result depends on by dvc.yaml: its command, params (which name a bucket) and the
    bytes of its deps, with `inputs` from input_digests."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    chosen = {}
    for key in definition["params"]:
        value = values
        for part in key.split("."):
            value = value[part]
        chosen[key] = value
    total = hashlib.sha256(json.dumps([name, definition["cmd"], chosen], sort_keys=True).encode())
    for dep, digest in inputs.items():
        total.update(f"{dep}:{digest}".encode())
    return total.hexdigest()[:16]


def folder_digest(path: str | Path) -> str:
    """First 16 hex digits of SHA-256 over the names and bytes of a file or of all files below a folder.

    It identifies a model or data version. Compiled Python files do not count. Links are followed
    (components/files/digests.py).
    """
    path = Path(path)
    files = [path] if path.is_file() else [file for file in files_below(path) if file.suffix != ".pyc"]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path)}:{file_digest(file)}".encode())
    return total.hexdigest()[:16]


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON with sorted keys, atomically; NaN and infinities are refused, as JSON has no such numbers."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    atomic_write(path, text + "\n")


def rounded(value: Any, digits: int = 6) -> Any:
    """A nested value with floats rounded to `digits` decimals: the last digits of a mean differ between processors."""
    if isinstance(value, dict):
        return {key: rounded(inner, digits) for key, inner in value.items()}
    return round(value, digits) if isinstance(value, float) else value
