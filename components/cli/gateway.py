"""The command `reelign gateway`."""

from pathlib import Path
from typing import Annotated

import typer

from components.cli.serving import say


def gateway(
    triton: Annotated[str, typer.Option(help="Triton's address: http://127.0.0.1:8000, or grpc:// and its other port.")],
    host: Annotated[str, typer.Option(help="Address to listen at. Another than loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    root: Annotated[
        Path | None, typer.Option(help="Folder below which callers may name files.", show_default="paths are refused")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that callers must send.", show_default="REELIGN_GATEWAY_TOKEN, or none"),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Requests under way at a time; more get status 429.")] = 64,
    in_flight: Annotated[int, typer.Option(min=1, help="Videos with Triton at a time.")] = 8,
    max_megabytes: Annotated[
        int, typer.Option(min=1, max=2000, help="Of a request's body, and of a file below --root.")
    ] = 64,
    max_videos: Annotated[int, typer.Option(min=1, help="Videos in a request.")] = 64,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds for a video, its wait included.")] = 120.0,
    frame_rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Frames a second of clips of /compute, where a request has no kwargs.fps."),
    ] = None,
    reward: Annotated[
        str, typer.Option(help="Score that /compute returns, where a request has no kwargs.reward.")
    ] = "Overall",
    monitor: Annotated[
        Path | None, typer.Option(help="Record of `reelign monitor --out`, whose verdict /metrics shows.")
    ] = None,
) -> None:
    """Answer plain HTTP in front of Triton until Ctrl-C or SIGTERM: forms, JSON, and the formats of UniRL and Flow-Factory.

    POST /v1/score, /score and /compute; GET /health, /metrics, /docs and /openapi.json. A video that cannot be scored gets
    the reason and no number. Exit code 4 where Triton does not answer.
    """
    from components.serving.access import gateway_token, need_token
    from components.serving.gateway.options import GatewayOptions
    from components.serving.gateway.run import run_gateway

    token = gateway_token(token_file)
    need_token(host, token)
    if root is not None and not root.is_dir():
        from components.errors import BadInput

        raise BadInput(root, "no such folder", key="--root")
    options = GatewayOptions(
        root=root and root.resolve(),
        token=token,
        queue=queue,
        in_flight=in_flight,
        most_bytes=max_megabytes << 20,
        most_items=max_videos,
        deadline=deadline,
        frame_rate=frame_rate,
        reward=reward,
        monitor=monitor,
    )
    run_gateway(triton, host, port, options, say)
