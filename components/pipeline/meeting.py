"""How the nodes of a stage come together, and what a failure within their common work ends with."""

import json
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from components.errors import EXIT_CODES, INTERRUPTED, BadInput, Unreachable, disk_error
from components.pipeline.nodes import SILENCE, Failure, Message, NodeFailed, Nodes, Team


@contextmanager
def meet(nodes: Nodes, stage: str) -> Iterator[Team]:
    """All nodes of a stage, once they are there. A failure of one ends the block on all: SystemExit with the exit code of
    that node, after a line with its reason. Unreachable where nodes do not come together."""
    team = _listen(nodes, stage) if nodes.rank == 0 else _call(nodes, stage)
    team.open()
    try:
        yield team
    except NodeFailed as error:
        failure = team.cause(error.failure)
        if failure.node != nodes.rank:
            print(f"error: {nodes.name(failure.node)}: {failure.line.removeprefix('error: ')}", file=sys.stderr, flush=True)
        raise SystemExit(failure.code) from None
    except BaseException as error:
        team.tell({"failed": asdict(_failure_of(error, nodes.rank))})
        raise
    finally:
        if team.own:
            team.own.end()
        team.close()


def _failure_of(error: BaseException, rank: int) -> Failure:
    for known, code in EXIT_CODES.items():
        if isinstance(error, known):
            return Failure(rank, f"error: {error}", code)
    if found := disk_error(error):
        return Failure(rank, f"error: {found[0]}", found[1])
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank, "interrupted", INTERRUPTED)
    return Failure(rank, f"{type(error).__name__}: {error}", 1)


def _listen(nodes: Nodes, stage: str) -> Team:
    """Node 0: wait for the others."""
    both = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(("", nodes.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise BadInput("--master", f"port {nodes.port} cannot be opened here: {error.strerror}") from error
    peers: dict[int, socket.socket] = {}
    address, end = "", time.monotonic() + nodes.patience
    with server:
        while len(peers) < nodes.count - 1:
            missing = sorted({*range(1, nodes.count)} - peers.keys())
            server.settimeout(max(0.1, end - time.monotonic()))
            try:
                peer, _ = server.accept()
            except TimeoutError:
                why = f"did not come to {nodes.host}:{nodes.port} within {nodes.patience:g} seconds"
                raise Unreachable(nodes.name(missing[0]), why) from None
            peer.settimeout(10)
            hello = _line(peer)
            rank = hello.get("node", 0)
            if hello != {"node": rank, "of": nodes.count, "stage": stage} or rank not in range(1, nodes.count):
                why = f"node 0 runs {stage} on {nodes.count} nodes and takes no other"
                with suppress(OSError):
                    peer.sendall(json.dumps({"refused": why}).encode() + b"\n")
                peer.close()
                continue
            if before := peers.get(rank):  # it was started again
                before.close()
            peers[rank] = peer
            address = peer.getsockname()[0]
    team = Team(nodes, address.removeprefix("::ffff:"), peers)
    team.tell({"welcome": True})
    return team


def _call(nodes: Nodes, stage: str) -> Team:
    """Another node: connect with node 0, which may start later or have no name yet."""
    end = time.monotonic() + nodes.patience
    place = f"{nodes.host}:{nodes.port}"
    while True:
        try:
            peer = socket.create_connection((nodes.host, nodes.port), timeout=10)
            break
        except OSError as error:
            if time.monotonic() > end:
                why = f"node 0 did not answer within {nodes.patience:g} seconds ({error})"
                raise Unreachable(place, why) from error
            time.sleep(0.5)
    peer.settimeout(nodes.patience + SILENCE)  # node 0 waits for the others, too
    with suppress(OSError):
        peer.sendall(json.dumps({"node": nodes.rank, "of": nodes.count, "stage": stage}).encode() + b"\n")
    answer = _line(peer)
    if "welcome" not in answer:
        if why := answer.get("refused"):
            raise BadInput("--nodes", f"{nodes.name(nodes.rank)} is not taken: {why}")
        raise Unreachable(place, "node 0 ended before all nodes were there")
    return Team(nodes, peer.getsockname()[0], {0: peer})


def _line(peer: socket.socket) -> Message:
    """The first message of a connection; {} for what is none, such as a port scanner's. Byte by byte: the next belongs to
    the reader."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 10_000 and (byte := peer.recv(1)):
            line += byte
        message = json.loads(line)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
