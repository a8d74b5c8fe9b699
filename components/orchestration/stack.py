"""The stack of `make up`: the services of infra/compose.yaml, with its settings, as processes on the loopback."""

import json
import os
import shlex
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from http.client import HTTPException
from pathlib import Path

from components.config.operation import ServingParams
from components.contracts import MODEL_REPOSITORY
from components.errors import BadInput
from components.files.atomic import atomic_write
from components.orchestration import postgres
from components.orchestration.compose import Compose, read_compose, secrets_of
from components.orchestration.credentials import make_credentials
from components.orchestration.light import airflow_environment, airflow_program, triton_ports
from components.orchestration.service import Service, record, set_up
from components.serving.server import answers

HOME = Path(".reelign/stack")
CREDENTIALS, VARIABLES = HOME / "credentials.env", HOME / "environment.sh"
DATA, OBJECTS, IDENTITIES, AIRFLOW = HOME / "postgres/data", HOME / "s3", HOME / "identities.json", HOME / "airflow"
RETRAINED = Path(".reelign/trees/package") / MODEL_REPOSITORY  # of DAG `retrain`
WEED = Path(".seaweedfs/bin/weed")
BUCKET = "reelign"
INNER = ("master.port", "volume.port", "filer.port")  # of the S3 server, on the ports after its own
SERVICES = ["postgres", "s3", "s3-init", "mlflow", "triton", "gateway", "airflow-init", "airflow-scheduler"]
# What a shell may have for services elsewhere.
OTHERS = ("AIRFLOW_", "AWS_", "MLFLOW_", "REELIGN_", "PG")


@dataclass(frozen=True)
class Ports:
    """`s3` and seven after it, and `triton` and two after it."""

    mlflow: int
    airflow: int
    triton: int
    postgres: int
    s3: int
    gateway: int


def stack_services(ports: Ports, serving: ServingParams) -> list[Service]:
    """All services in the order of their start; what they need on the disk is made."""
    for folder, mode in ((HOME, 0o711), (OBJECTS, 0o700), (AIRFLOW, 0o700)):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    secrets = make_credentials(CREDENTIALS, secrets_of(SERVICES), DATA)
    here = {
        "0.0.0.0": "127.0.0.1",
        "postgres:5432": f"127.0.0.1:{ports.postgres}",
        "http://s3:8333": f"http://127.0.0.1:{ports.s3}",
        "http://mlflow:5000": f"http://127.0.0.1:{ports.mlflow}",
        "http://triton:8000": f"http://127.0.0.1:{ports.triton}",
        "http://airflow-api-server:8080": f"http://127.0.0.1:{ports.airflow}",
        "=/served": f"={Path(serving.served).absolute()}",
    }
    compose = read_compose(secrets, here)
    clean = clean_environment()
    write_variables(compose, ports)
    triton, gateway = scoring(compose, clean, ports, serving)
    return [
        database(clean, secrets, ports.postgres),
        objects(compose, clean, ports.s3),
        *triton,
        tracking(compose, clean, ports.mlflow),
        *scheduling(compose, clean, secrets, ports.airflow),
        *gateway,
    ]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(OTHERS)}


def write_variables(compose: Compose, ports: Ports) -> None:
    """A file to source: with it, `reelign` and `dvc` in a shell use the services."""
    names = ("MLFLOW_TRACKING_URI", "REELIGN_", "AWS_")
    given = {name: text for name, text in compose.environment("airflow-scheduler").items() if name.startswith(names)}
    lines = [f"export {name}={shlex.quote(text)}\n" for name, text in given.items()]
    atomic_write(VARIABLES, "".join(lines), private=True)


def database(clean: Mapping[str, str], secrets: Mapping[str, str], port: int) -> Service:
    make = partial(postgres.make_cluster, DATA.absolute(), port, clean, secrets)
    return Service(
        "postgres",
        # The programs are those that made the data, which may not be there yet.
        postgres.server(DATA.absolute(), port),
        [port],
        partial(postgres.answers, DATA, port, secrets["AIRFLOW_DB_PASSWORD"]),
        "databases mlflow and airflow",
        clean,
        signal.SIGINT,  # SIGTERM would wait for its clients
        prepare=make,
        user=postgres.USER,
    )


def objects(compose: Compose, clean: Mapping[str, str], port: int) -> Service:
    if not WEED.exists():
        raise BadInput(WEED, "missing; `make up` installs it")
    identities = compose.environment("s3")["S3_IDENTITIES"]
    atomic_write(IDENTITIES, identities, private=True)
    # Of gRPC by its own options, as they would be 10,000 above.
    names = ["s3.port", *INNER, *(f"{name}.grpc" for name in ("s3.port", *INNER))]
    here = {"-dir=/data": f"-dir={OBJECTS.absolute()}", "/tmp/identities.json": str(IDENTITIES.absolute())}
    _, *words = compose.command("s3", **here)
    taken = [port + place for place in range(len(names))]
    listen = [f"-{name}={number}" for name, number in zip(names, taken, strict=True)]
    return Service(
        "s3",
        [str(WEED.absolute()), *words, *listen],
        taken,
        partial(takes_objects, compose.environment("s3-init")),
        f"bucket {BUCKET}; keys in {CREDENTIALS}",
        clean,
        umask=0o077,
        prepare=partial(remove_sockets, taken),
    )


def remove_sockets(ports: list[int]) -> None:
    """SeaweedFS has sockets there for its own parts, which a killed one cannot remove."""
    for port in ports:
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)


def takes_objects(environment: Mapping[str, str]) -> bool:
    """Whether the bucket can be written, which the first call makes. The server listens before it can."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL_S3"], region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10),
    )  # fmt: skip
    try:
        if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=".ready", Body=b"")
        client.delete_object(Bucket=BUCKET, Key=".ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def tracking(compose: Compose, clean: Mapping[str, str], port: int) -> Service:
    return Service(
        "mlflow",
        [sys.executable, "-m", *compose.command("mlflow", **{"--port=5000": f"--port={port}"})],
        [port],
        partial(answers, f"http://127.0.0.1:{port}/health"),
        "runs and models: ",
        {**clean, **compose.environment("mlflow")},
        after=("postgres", "s3"),
    )


def scoring(
    compose: Compose, clean: Mapping[str, str], ports: Ports, serving: ServingParams
) -> tuple[list[Service], list[Service]]:
    """Triton, and the gateway; none before there is a model to serve."""
    live = Path(serving.live)
    packaged = next((place for place in (MODEL_REPOSITORY, RETRAINED) if place.exists()), None)
    if packaged is None and not live.exists():
        return [], []
    program = [sys.executable, "-m", "components.cli.main"]
    key = {name: text for name, text in compose.environment("triton").items() if name == "REELIGN_TRITON_KEY"}
    _, *gateway = compose.command("gateway", **{"--port=8080": f"--port={ports.gateway}"})
    where = f"http://127.0.0.1:{ports.triton}"
    repository = [str(packaged or MODEL_REPOSITORY), f"--live={live}", f"--served={serving.served}"]
    triton = Service(
        "triton",
        [*program, "serve", *repository, *triton_ports(ports.triton)],
        [ports.triton, ports.triton + 1, ports.triton + 2],
        partial(answers, f"{where}/v2/models/video_reward/ready"),
        f"reelign score clip.mp4 --prompt TEXT --triton {where}",
        {**clean, **key},
    )
    plain = Service(
        "gateway",
        [*program, *gateway],
        [ports.gateway],
        partial(answers, f"http://127.0.0.1:{ports.gateway}/health"),
        f"plain HTTP for scores; the token is GATEWAY_TOKEN in {CREDENTIALS}",
        {**clean, **compose.environment("gateway")},
        after=("triton",),
    )
    return [triton], [plain]


def scheduling(compose: Compose, clean: Mapping[str, str], secrets: Mapping[str, str], port: int) -> list[Service]:
    """Airflow's four programs. Before the first of them its tables are brought up to date, and its user is made."""
    airflow = airflow_program()
    health = f"http://127.0.0.1:{port}/api/v2/monitor/health"
    own = airflow_environment(AIRFLOW.absolute(), port)

    def environment(name: str) -> dict[str, str]:
        return {**clean, **own, **compose.environment(name)}

    def prepare() -> None:
        user = ["--username=admin", "--role=Admin", "--firstname=Reelign", "--lastname=Admin", "--email=admin@localhost"]
        where = environment("airflow-init")
        set_up([airflow, "db", "migrate"], where, "airflow db migrate")
        twice = f"{secrets['AIRFLOW_ADMIN_PASSWORD']}\n" * 2  # not as an argument, which others could list
        set_up([airflow, "users", "create", *user], where, "airflow users create", given=twice)

    def part(name: str, *words: str, about: str) -> Service:
        ready = partial(is_healthy, health, name.removeprefix("airflow-").replace("-", "_"), name)
        return Service(
            name, [airflow, *words], [], ready, about, environment(name), umask=0o077,
            after=("postgres", "airflow-api-server"),
        )  # fmt: skip

    return [
        Service(
            "airflow-api-server",
            [airflow, "api-server"],
            [port],
            partial(answers, health),
            f"DAGs; user admin, password AIRFLOW_ADMIN_PASSWORD in {CREDENTIALS}",
            environment("airflow-api-server"),
            umask=0o077,
            after=("postgres",),
            prepare=prepare,
        ),
        # The API server reads logs from the folder, so no log servers are needed.
        part("airflow-scheduler", "scheduler", "--skip-serve-logs", about="runs the tasks"),
        part("airflow-dag-processor", "dag-processor", about="reads dags/"),
        part("airflow-triggerer", "triggerer", "--skip-serve-logs", about="waits for deferred tasks"),
    ]


def is_healthy(address: str, part: str, name: str) -> bool:
    """Whether a program of Airflow has sent a sign of life since it was started, by the API server's health."""
    known = record(name)
    with (
        suppress(urllib.error.URLError, ConnectionError, TimeoutError, HTTPException, ValueError),  # of one that is killed
        urllib.request.urlopen(address, timeout=5) as answer,
    ):
        state = json.load(answer)[part]
        last = state[f"latest_{part}_heartbeat"]
        later = last is not None and known is not None and datetime.fromisoformat(last).timestamp() > known["created"]
        return state["status"] == "healthy" and later
    return False
