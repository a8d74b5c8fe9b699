"""Secrets as a machine has them, and a search for them in all that a run leaves behind."""

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

# What a run may use and never write down, by variable: cloud and hub, MLflow, Label Studio, Triton's management, Airflow.
VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "LABEL_STUDIO_API_KEY",
    "HF_TOKEN",
    "REELIGN_TRITON_KEY",
    "AIRFLOW_ADMIN_PASSWORD",
)
SECRETS = {variable: f"hush-{variable.lower()}" for variable in VARIABLES}


def leaks(folder: Path, secrets: Mapping[str, str], private: tuple[str, ...] = ()) -> list[str]:
    """Each file below `folder` that holds a secret, and names that do: "PATH: NAME of the secret". Those that end as one of
    `private` are where a secret is kept: they may, where their owner alone can read them."""
    return sorted(
        f"{path.relative_to(folder)}: {name}"
        for path, content in contents(folder)
        for name, secret in secrets.items()
        if secret.encode() in content or secret in path.name
        if not (str(path).endswith(private) and stat.S_IMODE(path.stat().st_mode) == 0o600)
    )


def contents(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """All files below a folder, each once, however many links it has."""
    seen = set()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        state = path.stat()
        if (state.st_dev, state.st_ino) not in seen:
            seen.add((state.st_dev, state.st_ino))
            yield path, path.read_bytes()


def open_to_all(folder: Path) -> list[str]:
    """What everybody can write."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o002 and not stat.S_ISSOCK(path.stat().st_mode)
    )
