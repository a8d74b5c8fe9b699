"""`make backup` and `make restore`: the databases and the objects of the stack of `make up`, as files of a folder.

A backup is taken while the services run. The databases come first: an object is written before a record names it, and is
never changed, so each object that the dumps name is there when the objects are copied. A restoring fills a checkout that has
no data of a stack, with the credentials of the backup.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from components.errors import BadInput
from components.files.atomic import atomic_write, whole_folder
from components.orchestration import postgres
from components.orchestration.credentials import read_credentials
from components.orchestration.service import Service, set_up
from components.orchestration.stack import BUCKET, CREDENTIALS, DATA, OBJECTS, clean_environment

DATABASES = ("mlflow", "airflow")
KEPT = "credentials.env"


def back_up(folder: Path, database_port: int, objects_port: int) -> tuple[int, int]:
    """Copy databases, objects and credentials into `folder`, whole or not at all; the number of objects and their bytes.

    BadInput where the folder is there already, or a key of an object is no path.
    """
    if folder.exists():
        raise BadInput(folder, "is there already; give a new folder")
    secrets = read_credentials(CREDENTIALS)
    with whole_folder(folder.absolute()) as partial:
        partial.mkdir(mode=0o700)
        atomic_write(partial / KEPT, CREDENTIALS.read_bytes(), private=True)
        for name in DATABASES:
            words = ["pg_dump", "--format=custom", f"--file={partial}/{name}.dump", f"--dbname={name}"]
            set_up(words, connection(name, database_port, secrets), f"pg_dump of {name}")
        client, count, held = objects_client(objects_port, secrets), 0, 0
        for key, size in keys(client):
            place = partial / "objects" / path_of(key)
            place.parent.mkdir(parents=True, exist_ok=True)
            client.download_file(BUCKET, key, str(place))
            if place.stat().st_size != size:
                raise BadInput(key, f"has {place.stat().st_size} bytes here, and {size} in the bucket")
            count, held = count + 1, held + size
    return count, held


def check_backup(folder: Path) -> Mapping[str, str]:
    """The credentials of a backup. BadInput where a part of it is missing, or this checkout has data of a stack."""
    for name in (KEPT, *(f"{name}.dump" for name in DATABASES)):
        if not (folder / name).is_file():
            raise BadInput(folder / name, "missing: no backup of `make backup`")
    for place in (DATA, OBJECTS, CREDENTIALS):
        if place.is_file() or (place.is_dir() and any(place.iterdir())):
            raise BadInput(place, "is there already: a backup is restored where no stack was; move it away first")
    return read_credentials(folder / KEPT)


def put_credentials(folder: Path) -> None:
    CREDENTIALS.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(CREDENTIALS, (folder / KEPT).read_bytes(), private=True)


def fill(folder: Path, services: list[Service], secrets: Mapping[str, str]) -> tuple[int, int]:
    """Put a backup into a running Postgres and S3, both new; as back_up."""
    ports = {service.name: service.ports[0] for service in services}
    for name in DATABASES:
        words = [
            "pg_restore",
            "--exit-on-error",
            "--single-transaction",
            "--no-owner",
            f"--dbname={name}",
            f"{folder}/{name}.dump",
        ]
        set_up(words, connection(name, ports["postgres"], secrets), f"pg_restore of {name}")
    client, count, held = objects_client(ports["s3"], secrets), 0, 0
    files = [file for file in sorted((folder / "objects").rglob("*")) if file.is_file()]
    for file in files:
        client.upload_file(str(file), BUCKET, file.relative_to(folder / "objects").as_posix())
        count, held = count + 1, held + file.stat().st_size
    return count, held


def connection(name: str, port: int, secrets: Mapping[str, str]) -> dict[str, str]:
    """Variables for Postgres's programs, as the owner of a database."""
    clean = clean_environment()
    own = postgres.client(port, name, secrets[f"{name.upper()}_DB_PASSWORD"])
    return clean | own | {"PATH": f"{postgres.programs(DATA)}:{clean['PATH']}"}


def objects_client(port: int, secrets: Mapping[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1",
        aws_access_key_id=secrets["S3_ADMIN_ACCESS_KEY"], aws_secret_access_key=secrets["S3_ADMIN_SECRET_KEY"],
    )  # fmt: skip


def keys(client: Any) -> Iterator[tuple[str, int]]:
    """Keys of the bucket's objects, with their bytes."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            yield entry["Key"], entry["Size"]


def path_of(key: str) -> PurePosixPath:
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or str(path) != key:
        raise BadInput(key, "the key of this object is no path of a file")
    return path
