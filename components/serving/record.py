"""What a server's repository is to serve, written down: DEPLOYMENT, a file in it, beside the configurations.

The record is the word on which version serves, which served before it, and which were verified. A version is written there
only after its scores were compared, and Triton's configurations follow the record. So a killed command leaves one of three
things, which the next one mends (`repair`):

- a version that nothing names, which is removed;
- a configuration of the reward model that names one more version than the record, likewise;
- configurations that are behind the record, which are finished.

One command at a time works on a repository: `sole_writer` of the record.
"""

import re
import shutil
from pathlib import Path

from components.config.params import PackageParams
from components.errors import BadInput
from components.files.atomic import atomic_write
from components.files.text import Record, read_record, read_text
from components.serving.repository import FRONTS, MODEL, backend_config, front_config

DEPLOYMENT = "deployment.json"


class Deployment(Record):
    """Versions by number. `verified` are on disk, in the order in which they came. `rolled_back` is the digest of what
    served until the last roll-back, if nothing was deployed since."""

    serving: int
    before: int | None
    verified: list[int]
    rolled_back: str | None = None

    @property
    def loaded(self) -> list[int]:
        """Versions that a server keeps loaded."""
        return sorted({self.serving, self.before} - {None})


def read_deployment(repository: Path) -> Deployment:
    """The record; before the first deployment, that of the configurations. BadInput where a version is named that is not
    there."""
    file = repository / DEPLOYMENT
    if file.exists():
        record = read_record(file, Deployment)
    else:
        serving, named = front_version(repository, next(iter(FRONTS))), loaded_by_config(repository)
        earlier = [version for version in named if version < serving]  # a later one was never verified
        record = Deployment(serving=serving, before=max(earlier, default=None), verified=[*earlier, serving])
    for version in {*record.loaded, *record.verified}:
        if not version_folder(repository, version).is_dir():
            raise BadInput(file, f"names version {version}, which is not in {repository / MODEL}")
    return record


def write_deployment(repository: Path, record: Deployment) -> None:
    atomic_write(repository / DEPLOYMENT, record.model_dump_json(indent=1) + "\n")


def is_consistent(repository: Path, record: Deployment) -> bool:
    """Whether a server that starts now serves the version on record, and loads nothing that is not verified."""
    fronts = {front_version(repository, name) for name in FRONTS}
    return fronts == {record.serving} and loads_verified(repository, record)


def loads_verified(repository: Path, record: Deployment) -> bool:
    return {*record.loaded} <= {*loaded_by_config(repository)} <= {*record.verified}


def repair(repository: Path, record: Deployment, params: PackageParams) -> None:
    """Let the files follow the record: what a killed command left is finished or goes."""
    remove_unnamed(repository, record)  # first: it makes room
    if not loads_verified(repository, record):
        write_config(repository, MODEL, backend_config(repository, params, record.loaded))
    for name in FRONTS:
        if front_version(repository, name) != record.serving:
            write_config(repository, name, front_config(repository, name, params, record.serving))
    remove_unnamed(repository, record)


def remove_unnamed(repository: Path, record: Deployment) -> None:
    for version in unnamed(repository, record):
        shutil.rmtree(version_folder(repository, version))


def unnamed(repository: Path, record: Deployment) -> set[int]:
    """Versions on disk that neither the record nor a configuration names: what a killed command left."""
    named = {*record.verified, *loaded_by_config(repository)} | {front_version(repository, name) for name in FRONTS}
    return set(versions_there(repository)) - named


def write_config(repository: Path, name: str, config: str) -> None:
    atomic_write(repository / name / "config.pbtxt", config)


def version_folder(repository: Path, version: int) -> Path:
    return repository / MODEL / str(version)


def model_folder_of(repository: Path, version: int) -> Path:
    """The folder of a version's VideoReward."""
    return version_folder(repository, version) / "video_reward"


def versions_there(repository: Path) -> list[int]:
    """Versions on disk, verified or not."""
    return sorted(int(path.name) for path in (repository / MODEL).iterdir() if path.name.isdigit())


def front_version(repository: Path, name: str) -> int:
    """The version that one of the two models that clients ask sends them to."""
    return int(_only(repository / name / "config.pbtxt", r"model_version: (\d+)"))


def front_digest(repository: Path) -> str:
    """The digest of the model that clients are sent to, as it was when it came: files may have been damaged since."""
    pattern = r'key: "model_version" value \{ string_value: "(\w+)"'
    return _only(repository / next(iter(FRONTS)) / "config.pbtxt", pattern)


def loaded_by_config(repository: Path) -> list[int]:
    """The versions that the server keeps loaded, by the configuration."""
    found = _only(repository / MODEL / "config.pbtxt", r"versions: \[([\d, ]+)\]")
    return [int(version) for version in found.split(",")]


def _only(file: Path, pattern: str) -> str:
    if not file.exists():
        raise BadInput(file, "missing, so this is no model repository; stage `package` and `reelign serve --live` make one")
    found = re.search(pattern, read_text(file))
    if found is None:
        raise BadInput(file, "is not a configuration of stage package")
    return found[1]
