"""`reelign serve`, `deploy` and `monitor`: the reward model on Triton, on this machine, new versions of it, and what it has
served."""

import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.cli.output import AsJson, print_json
from components.contracts import MODEL_REPOSITORY, PAIRS, SOURCE_VIDEOS, VIDEO_REWARD

if TYPE_CHECKING:
    from components.config.params import PackageParams

END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
SERVED = Path(".reelign/served")
Port = Annotated[int | None, typer.Option(min=1, max=65535, show_default="a free one")]


def serve(
    repository: Annotated[
        Path, typer.Argument(help="A model repository, as stage `package` makes it or `reelign deploy` keeps it.")
    ] = MODEL_REPOSITORY,
    live: Annotated[
        Path | None,
        typer.Option(help="Serve this copy of the repository, made if it is not there: `reelign deploy` changes it."),
    ] = None,
    http_port: Port = None,
    grpc_port: Port = None,
    metrics_port: Port = None,
    log: Annotated[Path, typer.Option(help="File for all that server and models print.")] = Path(".reelign/triton.log"),
    served: Annotated[
        Path, typer.Option(help="Folder for the log of served requests, which `reelign monitor` reads.")
    ] = SERVED,
    install: Annotated[bool, typer.Option("--install", help="Install Triton first where it is missing (55 MB).")] = False,
) -> None:
    """Serve the reward model on loopback until Ctrl-C or SIGTERM.

    Prints the addresses when the model is ready. A model process that dies is replaced: its requests fail with an error, and
    `reelign score --triton` repeats them.
    """
    from components.serving.install import install_triton
    from components.serving.server import ServingError, serving
    from components.serving.watch import watch

    for number in END_SIGNALS:
        signal.signal(number, end)
    if install:
        install_triton()
    if live is not None:
        copy_once(repository, live)
        repository = live
    mend(repository)
    try:
        with serving(repository, log, ports=(http_port, grpc_port, metrics_port), served=served) as server:
            say(f"http://{server.http}  grpc://{server.grpc}  metrics http://{server.metrics}/metrics  log {log}")
            watch(server, repository, say)
    except ServingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def mend(repository: Path) -> None:
    """Let the configurations name verified versions only, where a killed deployment left it otherwise."""
    from components.config.params import load_params
    from components.files.locks import sole_writer
    from components.serving.layout import check_layout
    from components.serving.record import DEPLOYMENT, is_consistent, read_deployment, repair

    check_layout(repository, [])
    if not (repository / DEPLOYMENT).exists() or is_consistent(repository, read_deployment(repository)):
        return  # without a record, nothing was ever deployed here
    with sole_writer(repository / DEPLOYMENT):
        record = read_deployment(repository)
        repair(repository, record, load_params().package)
    say(f"what a killed deployment left was mended: version {record.serving} is to serve")


def copy_once(repository: Path, live: Path) -> None:
    """Copy a model repository, whole or not at all, unless it was copied before."""
    from components.errors import BadInput
    from components.files.atomic import whole_folder
    from components.files.locks import sole_writer
    from components.serving.layout import check_layout

    with sole_writer(live, waits=lambda holder: say(f"waiting for {live}, which is being copied by {holder}")):
        if live.exists():
            return
        if not repository.exists():
            raise BadInput(repository, "missing; `dvc repro package` makes it")
        check_layout(repository, [])
        with whole_folder(live) as partial:
            shutil.copytree(repository, partial)


@contextmanager
def rejected_exits() -> Iterator[None]:
    """One line and exit code 1 where a deployment is refused."""
    from components.serving.deploy import Rejected

    try:
        yield
    except Rejected as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


@rejected_exits()
def deploy(
    url: Annotated[str, typer.Argument(help="The server's HTTP address, as `reelign serve --live` prints it.")],
    live: Annotated[Path, typer.Option(help="The repository that it serves.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="MODEL/VERSION or MODEL/ALIAS of the registry, or a folder; with --rollback, only if this is what serves.",
            show_default="video_reward/champion",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Videos to compare on, columns path and prompt.", show_default="clips of test pairs")
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="How many clips of test pairs.")] = 16,
    max_latency_ratio: Annotated[
        float, typer.Option(help="Longest median time of a request, relative to that of the serving version.")
    ] = 2.0,
    keep: Annotated[int, typer.Option(min=2, help="Versions to keep on disk, the two that are loaded among them.")] = 3,
    rollback: Annotated[bool, typer.Option("--rollback", help="Serve the previous version again.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Change nothing; check that clients get the model's own scores.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Deploy a new version to a running server without losing a request, or roll back to the previous one.

    It is loaded beside the serving version and scores the sample. It serves only if these are the scores of the same model
    offline, and come in time. Exit code 1 where it is refused: the old version keeps serving. A model that serves
    already is left alone. One deployment at a time: exit code 2 where another is under way. A roll-back returns the
    alias `champion` of the registry too, where it named the version that was rolled back.
    """
    from components.config.params import load_params
    from components.serving import deploy as deployment

    params = load_params().package
    if not (live / deployment.MODEL).exists():
        from components.errors import BadInput

        raise BadInput(live, "no model repository of a server; `reelign serve --live` makes one")
    if rollback:
        roll_back(url, live, params, model, as_json)
        return
    model = model or "video_reward/champion"
    folder = model_folder(model)
    if not verify and (number := deployment.serves_already(url, live, folder, params)):
        tell(
            {"state": "serves already", "version": number, "model": model},
            f"version {number} serves already: {model}",
            as_json,
        )
        return
    sample = sample_of(csv, clips)
    if verify:
        deployment.verify(url, folder, sample, params)
        told = {"state": "verified", "model": model, "compared": len(sample)}
        tell(told, f"{model} serves: {len(sample)} videos have its own scores", as_json)
        return
    number = deployment.deploy(url, live, folder, sample, params, max_latency_ratio, keep)
    told = {"state": "deployed", "version": number, "model": model, "compared": len(sample)}
    tell(told, f"version {number} serves: {model}, compared on {len(sample)} videos", as_json)


def tell(result: dict, words: str, as_json: bool) -> None:
    """Print a deployment's result, as JSON or as a line."""
    if as_json:
        print_json(result)
    elif words:
        say(words)


def roll_back(url: str, live: Path, params: "PackageParams", model: str | None, as_json: bool = False) -> None:
    """Let the version before serve, and put the registry's champion back. A second call does what is left of both."""
    from components.errors import BadInput
    from components.serving import deploy as deployment

    try:
        number = deployment.rollback(url, live, params, model_folder(model) if model else None)
    except BadInput:
        lines = put_champion_back(live)
        if not lines:
            raise
        tell({"state": "champion put back", "registry": lines}, "\n".join(lines), as_json)
        return
    if not as_json:  # now: the registry may not answer
        say(f"{model} does not serve: nothing to roll back" if number is None else f"version {number} serves again")
    lines = put_champion_back(live)
    state = "nothing to roll back" if number is None else "rolled back"
    tell({"state": state, "version": number, "registry": lines}, "\n".join(lines), as_json)


def put_champion_back(live: Path) -> list[str]:
    """Move the alias `champion` off a version that was rolled back; return a line on each move, none without one.

    A registry that does not answer, or has no such version, is a note on stderr.
    """
    from components.errors import BadInput
    from components.pipeline.mlflow_store import answering
    from components.registry.champion import put_back
    from components.registry.versions import connect
    from components.serving.record import front_digest, read_deployment

    bad = read_deployment(live).rolled_back
    if bad is None:
        return []
    try:
        with answering():
            return list(put_back(connect(), bad, front_digest(live)))
    except BadInput as error:
        print(f"note: the champion of a registry stays as it is: {error}", file=sys.stderr)
        return []


def monitor(
    model: Annotated[Path, typer.Option(help="Folder of the VideoReward that serves.")] = Path(VIDEO_REWARD),
    live: Annotated[
        Path | None, typer.Option(help="In place of --model: the repository that a server serves, `reelign serve --live`.")
    ] = None,
    served: Annotated[Path, typer.Option(help="The log of served requests, as `reelign serve` keeps it.")] = SERVED,
    out: Annotated[Path | None, typer.Option(help="Also write the record, as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw both distributions: a .png file.")] = None,
    require_drift: Annotated[
        bool,
        typer.Option(
            "--require-drift", help="Exit code 0 only where there is drift, 5 otherwise: for programs that act on drift."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check whether served scores have drifted from those of the validation clips. Limits: params.yaml, monitoring.

    Exit code 0: no drift; 5: drift; 6: too few requests to tell; 7: most requests are refused, also with --require-drift.
    """
    from datetime import UTC, datetime

    from components.config.params import load_params
    from components.errors import ALARM, NO, UNKNOWN, BadInput
    from components.pipeline.stage import write_json
    from components.serving import monitor as monitoring

    if plot is not None and plot.suffix != ".png":
        raise BadInput(plot, "the name of a plot must end in .png")
    if live is not None:
        from components.serving.deploy import serving_model

        if not live.is_dir():
            raise BadInput(live, "no model repository of a server; `reelign serve --live` makes one")
        model = serving_model(live)
    record, found, reference = monitoring.monitor(served, model, load_params().monitoring, datetime.now(UTC))
    if plot is not None:
        monitoring.draw(found, reference, plot)
    if out is not None:
        write_json(out, record)
    if as_json:
        print_json(record)
    else:
        print("\n".join(monitoring.as_lines(record)))
    code = {"no drift": 0, "drift": NO, "too few": UNKNOWN, "refused": ALARM}[record["verdict"]]
    if require_drift and code != ALARM:
        code = 0 if code == NO else NO
    raise typer.Exit(code)


def model_folder(model: str) -> Path:
    """The folder that `reelign deploy --model` means; of the registry, its files are brought here."""
    if Path(model).is_dir():
        return Path(model)
    from components.pipeline.mlflow_store import answering
    from components.registry.versions import connect, fetch, find, registered_name

    name, _, which = model.replace("@", "/").rpartition("/")
    with answering():
        client = connect()
        return fetch(find(client, registered_name(client, name), which)).folder


def sample_of(csv: Path | None, clips: int) -> list[tuple[Path, str]]:
    """(video, prompt) to compare on: those of the CSV, or `clips` of the test pairs, evenly spaced. BadInput for a video
    that is not there."""
    from components.errors import BadInput

    if csv is not None:
        from components.reward.score_list import read_list

        sample = read_list(csv)
    else:
        from components.files.tables import spread
        from components.reward.pairs import read_pairs

        sides = read_pairs("test", []).sides()
        sample = [(SOURCE_VIDEOS / path, prompt) for path, prompt in (sides[place] for place in spread(len(sides), clips))]
    for video, _ in sample:
        if not video.is_file():
            raise BadInput(csv or PAIRS, f"no such video: {video}", key="path")
    return sample


def end(*_: object) -> None:
    """Leave, once: a second signal while the server is being stopped would leave it behind."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


def say(text: str) -> None:
    print(text, flush=True)
