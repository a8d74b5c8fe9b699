"""`make up` and `make down`: the stack of infra/compose.yaml as processes of this checkout, on the loopback, for local use.

`--light` starts MLflow and Airflow on SQLite and Triton alone. For permanent services, see infra/.
"""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from components.config.operation import ServingParams
from components.config.params import load_params
from components.contracts import MODEL_REPOSITORY
from components.errors import BadInput, exit_codes
from components.files.locks import sole_writer
from components.orchestration.backup import DATABASES, back_up, check_backup, fill, put_credentials
from components.orchestration.light import HOME as LIGHT_HOME
from components.orchestration.light import STORE_FILE, light_services
from components.orchestration.service import (
    FOLDER,
    LIGHT,
    SETUP,
    STACK,
    START_SECONDS,
    Service,
    age,
    end_leftovers,
    not_started,
    record,
    running,
    start,
    stop,
)
from components.orchestration.stack import CREDENTIALS, DATA, OBJECTS, VARIABLES, Ports, stack_services
from components.pipeline.mlflow_store import relocate
from components.serving.server import is_free

HUNG_SECONDS = 90.0  # of a service that has had START_SECONDS
STARTS = 3  # of a service in one `up`
LAST = ("postgres", "s3")
# The order of the stop, the others before these: each group has clients in those before it, whose connections hold it up.
STOPPED = (("triton", "mlflow", "airflow-api-server"), LAST)
Port = Annotated[int, typer.Option(min=1, max=65528, help="Port.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def up(
    mlflow: Port = 5000,
    airflow: Port = 8080,
    triton: Annotated[int, typer.Option(help="Port of HTTP; gRPC and metrics get the next two.")] = 8000,
    postgres: Port = 5432,
    s3: Annotated[int, typer.Option(help="Port of S3; its inner ones are the next seven.")] = 8333,
    gateway: Port = 8090,
    light: Annotated[bool, typer.Option("--light", help="MLflow and Airflow on SQLite, and Triton, alone.")] = False,
) -> None:
    """Start the services that are not running, and return when all are ready; a failed start stops those just started."""
    begun, params = time.monotonic(), load_params()
    make_folder()
    with sole_writer(FOLDER / "up"):
        end_leftovers(SETUP)  # of an `up` that was killed
        form = LIGHT if light else STACK
        refuse_other_form(form)
        if light:
            chosen = light_form(mlflow, airflow, triton)
        else:
            ports = Ports(mlflow, airflow, triton, postgres, s3, gateway)
            chosen = stack_services(ports, params.orchestration.serving)
        if not any(service.name == "triton" for service in chosen):
            say(f"triton left out: {MODEL_REPOSITORY} is missing, `dvc repro package` makes it")
        start_all(chosen, form)
        for service in chosen:
            page = f"{service.about}{runs_page(mlflow, params.profile)}" if service.name == "mlflow" else service.about
            say(f"{service.name:{max(len(one.name) for one in chosen)}} {address(service, chosen)}  {page}")
    if not light:
        say(f"All are ready after {time.monotonic() - begun:.0f} s.")
        say_first_task(params.orchestration.serving, airflow, triton)


@app.command()
def down() -> None:
    """Stop the services that `up` started, and what a killed `up` left."""
    if not FOLDER.is_dir():
        return
    with sole_writer(FOLDER / "up"):
        names = sorted(file.stem for file in FOLDER.glob("*.json"))
        first = {*names}.difference(*STOPPED)
        with ThreadPoolExecutor() as threads:
            for group in (first, *STOPPED):
                list(threads.map(stop, [name for name in names if name in group]))
        end_leftovers()
    for name in names:
        say(f"{name} stopped")


@app.command()
def backup(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Copy the databases and objects of the running stack, and its credentials, into a folder."""
    ports = []
    for name in LAST:
        known = record(name) if running(name) is not None else None
        if known is None:
            raise BadInput(name, "does not run; `make up` starts it")
        ports.append(known["ports"][0])
    count, held = back_up(folder, *ports)
    say(f"{folder}: databases {' and '.join(DATABASES)}, {count} objects of {held:,} bytes, and credentials")


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder of `backup`.")], postgres: Port = 5432, s3: Port = 8333
) -> None:
    """Fill a checkout that has no data of a stack from a backup; `up` then starts with it."""
    make_folder()
    with sole_writer(FOLDER / "up"), ExitStack() as undo:
        end_leftovers(SETUP)
        secrets = check_backup(folder)
        undo.callback(remove_data)
        put_credentials(folder)
        serving, ports = load_params().orchestration.serving, Ports(5000, 8080, 8000, postgres, s3, 8090)
        chosen = [service for service in stack_services(ports, serving) if service.name in LAST]
        start_all(chosen, STACK)
        try:
            count, held = fill(folder, chosen, secrets)
        finally:
            for service in chosen:
                stop(service.name)
        undo.pop_all()
    say(f"databases {' and '.join(DATABASES)} and {count} objects of {held:,} bytes; `make up` starts with them")


def remove_data() -> None:
    """Of a restoring that failed: nothing of it stays."""
    CREDENTIALS.unlink(missing_ok=True)
    for place in (DATA.parent, OBJECTS):
        shutil.rmtree(place, ignore_errors=True)


def make_folder() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.chmod(0o700)  # logs, and Airflow prints its admin's password


def light_form(mlflow: int, airflow: int, triton: int) -> list[Service]:
    LIGHT_HOME.mkdir(exist_ok=True)
    LIGHT_HOME.chmod(0o700)  # Airflow keeps its admin's password in a file
    relocate(STORE_FILE.absolute())
    chosen = light_services(mlflow, airflow, triton)
    return [service for service in chosen if service.name != "triton" or MODEL_REPOSITORY.exists()]


def refuse_other_form(form: str) -> None:
    """BadInput where services of the other form run: they have another database."""
    for file in FOLDER.glob("*.json"):
        known = record(file.stem) if running(file.stem) is not None else None
        if known is not None and known["form"] != form:
            raise BadInput("make up", f"{file.stem} of the form `{known['form']}` runs; `make down` stops it")


def start_all(chosen: list[Service], form: str) -> None:
    """Start what does not run, each after those that it needs, and wait for all.

    What ends meanwhile is started again, where it had been ready, or ran before, or a service that it needs was started
    after it: Airflow's parts end with Postgres, some seconds after it. So is what ran before and is not ready for
    HUNG_SECONDS: an Airflow scheduler that lost Postgres waits for its tasks before it ends, at times for ever.
    """
    missing = [service for service in chosen if running(service.name) is None]
    check_ports(chosen, missing)
    with ExitStack() as undo:
        start_in_order = Started({service.name: service for service in chosen}, form, undo)
        for service in missing:
            start_in_order.begin(service)
        start_in_order.await_all(chosen)
        undo.pop_all()


@dataclass
class Started:
    """Services that one `up` starts. order: names of those that it started, in that order; proven: of those, the ones that
    have been ready since."""

    by_name: dict[str, Service]
    form: str
    undo: ExitStack
    order: list[str] = field(default_factory=list)
    proven: set[str] = field(default_factory=set)
    starts: Counter[str] = field(default_factory=Counter)  # how often each was started

    def begin(self, service: Service) -> None:
        for other in service.after:
            self.await_ready(self.by_name[other])
        if service.prepare is not None:
            service.prepare()
        known = record(service.name) is not None  # an earlier `up` started it: it stays where this one fails
        start(service, self.form)
        self.starts[service.name] += 1
        if not known:
            self.undo.callback(stop, service.name)
        self.order = [*(name for name in self.order if name != service.name), service.name]
        self.proven.discard(service.name)

    def await_all(self, chosen: list[Service]) -> None:
        """Until a round over all found nothing to start or to wait for."""
        settled = False
        while not settled:
            before = self.starts.total()
            for service in chosen:
                if running(service.name) is None:
                    if not self.may_begin_again(service):
                        raise not_started(service)
                    self.begin(service)
                self.await_ready(service)
            settled = self.starts.total() == before and all(running(one.name) is not None for one in chosen)

    def await_ready(self, service: Service) -> None:
        """Return when the service is ready; BadInput with its last log lines where it ends or times out."""
        begun = time.monotonic()
        while not service.ready():
            for one in (*self.needed(service), service):
                if running(one.name) is None:
                    if not self.may_begin_again(one):
                        raise not_started(one)
                    self.begin(one)
                    begun = time.monotonic()
            waited = time.monotonic() - begun
            if service.name not in self.order and waited > HUNG_SECONDS and self.is_old(service):
                say(f"{service.name} runs, and is not ready after {waited:.0f} s: it is started again")
                stop(service.name)
                self.begin(service)
                begun = time.monotonic()
            elif waited > START_SECONDS:
                raise not_started(service)
            time.sleep(0.3)
        self.proven.add(service.name)

    def needed(self, service: Service) -> list[Service]:
        """All services that a service needs, those first that need no other."""
        found: list[Service] = []
        for name in service.after:
            other = self.by_name[name]
            found += [one for one in (*self.needed(other), other) if one not in found]
        return found

    def is_old(self, service: Service) -> bool:
        """Whether a service has had its time to start, under an earlier `up`."""
        process = running(service.name)
        return process is not None and age(process) > START_SECONDS

    def may_begin_again(self, service: Service) -> bool:
        if self.starts[service.name] >= STARTS:
            return False
        if service.name not in self.order or service.name in self.proven:
            return True
        later = self.order[self.order.index(service.name) + 1 :]
        return any(one.name in later for one in self.needed(service))


def check_ports(chosen: list[Service], missing: list[Service]) -> None:
    """BadInput where a port is taken, two services have the same one, or a service runs on others."""
    uses = Counter(port for service in chosen for port in service.ports)
    for service in chosen:
        option = f"--{service.name.removesuffix('-api-server')}"
        if twice := [port for port in service.ports if uses[port] > 1]:
            raise BadInput(option, f"port {twice[0]} is another service's too; choose another one")
        if service in missing:
            end_leftovers(service.name)  # a server whose parent was killed
            taken = [port for port in service.ports if not is_free(port)]
            if taken:
                raise BadInput(option, f"another process listens on port {taken[0]}; choose another one")
        elif (known := record(service.name)) is not None and known["ports"] != service.ports:
            raise BadInput(option, f"runs on {known['ports']}; `make down` stops it")


def address(service: Service, chosen: list[Service]) -> str:
    scheme = "postgresql" if service.name == "postgres" else "http"
    widest = max(len(f"{one.ports[0]}") for one in chosen if one.ports) + len("postgresql://127.0.0.1:")
    return f"{scheme}://127.0.0.1:{service.ports[0]}" if service.ports else " " * (widest - 8)


def runs_page(port: int, profile: str) -> str:
    """MLflow's page of a profile's runs. Without the query, MLflow 3.17 opens the page on traces of language models for any
    experiment."""
    address, runs = f"http://127.0.0.1:{port}", ""
    asked = f"{address}/api/2.0/mlflow/experiments/get-by-name?experiment_name=reelign-{profile}"
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(asked, timeout=30) as answer:  # 404: nothing has run yet
        runs = f"/{json.load(answer)['experiment']['experiment_id']}/runs"
    return f"{address}/#/experiments{runs}?workflowType=machine_learning"


def say_first_task(serving: ServingParams, airflow: int, triton: int) -> None:
    say(f"In a shell: source {VARIABLES}   (reelign and dvc then use these services)")
    page = f"http://127.0.0.1:{airflow}"
    say(f"First task: at {page} unpause `retrain` and `deploy`, and trigger `retrain` with profile smoke.")
    if serving.url != f"http://127.0.0.1:{triton}":
        say(f"params.yaml has Triton at {serving.url}, key orchestration.serving.url: `deploy` goes there")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    with exit_codes():
        app()
