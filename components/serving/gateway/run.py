"""Run the gateway: one process, until SIGINT or SIGTERM."""

import socket
from collections.abc import Callable

import uvicorn
import uvloop

from components.errors import BadInput
from components.serving.client import ClientOptions, RewardClient
from components.serving.gateway.app import create_app
from components.serving.gateway.options import GatewayOptions

LAST_SECONDS = 30  # that requests under way have to end after a signal


def run_gateway(triton: str, host: str, port: int, options: GatewayOptions, say: Callable[[str], None]) -> None:
    """Serve until a signal; requests under way are answered first. BadInput for an address that is taken or none, and as
    of RewardClient; Unreachable where no Triton answers."""
    uvloop.run(serve(triton, host, port, options, say))


async def serve(triton: str, host: str, port: int, options: GatewayOptions, say: Callable[[str], None]) -> None:
    client_options = ClientOptions(in_flight=options.in_flight, deadline=options.deadline)
    async with RewardClient(triton, client_options) as client:
        with listen(host, port) as listening:
            config = uvicorn.Config(
                create_app(client, options),
                http="httptools",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=LAST_SECONDS,
            )
            address = listening.getsockname()
            say(f"http://{f'[{address[0]}]' if ':' in address[0] else address[0]}:{address[1]}  in front of {triton}")
            await uvicorn.Server(config).serve(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise BadInput(f"{host}:{port}", f"no place to listen: {error.strerror}", key="--host") from error
