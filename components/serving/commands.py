"""`reelign serve`: the reward model on Triton, on this machine."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="[default: a free one]")]


def serve(
    repository: Annotated[
        Path, typer.Argument(help="A model repository, as stage `package` makes it or `reelign deploy` keeps it.")
    ] = Path("serving/model_repository"),
    http_port: Port = None,
    grpc_port: Port = None,
    metrics_port: Port = None,
    log: Annotated[Path, typer.Option(help="File for all that server and models print.")] = Path(".reelign/triton.log"),
    install: Annotated[bool, typer.Option("--install", help="Install Triton first where it is missing (55 MB).")] = False,
) -> None:
    """Serve the reward model on loopback until Ctrl-C or SIGTERM.

    Prints the addresses when the model is ready to be asked. A model process that dies is replaced; requests that were in it
    fail by name, and `reelign score --triton` asks again.
    """
    from components.serving.install import install_triton
    from components.serving.server import ServingError, serving
    from components.serving.watch import watch

    for number in END_SIGNALS:
        signal.signal(number, end)
    if install:
        install_triton()
    try:
        with serving(repository, log, ports=(http_port, grpc_port, metrics_port)) as server:
            say(f"http://{server.http}  grpc://{server.grpc}  metrics http://{server.metrics}/metrics  log {log}")
            watch(server, repository, say)
    except ServingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


def end(*_: object) -> None:
    """Leave, once: a second signal while the server is being stopped would leave it behind."""
    for number in END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(0)


def say(text: str) -> None:
    print(text, flush=True)
