"""Several machines that run one stage together, and the line between them: who is there, what is decided, who failed.

Node 0 listens, the others connect before they restore inputs. Messages are lines of JSON. Each node sends a sign of life every
BEAT seconds; one whose connection ends, or that is silent for SILENCE seconds, is lost. torch's own connections carry no
cause: a killed node is a broken pipe there, and one without power is half an hour of waiting.
"""

import json
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from components.config.nodes import only_shared, shared
from components.errors import EXIT_CODES, INTERRUPTED, BadInput, Unreachable, disk_error
from components.pipeline.launched import Launched

BEAT = 5  # seconds
SILENCE = 60  # seconds
SETTLE = 5  # seconds after a failure in which an earlier one may still be reported
LOST = EXIT_CODES[Unreachable]
Message = dict[str, Any]


@dataclass(frozen=True)
class Nodes:
    """This machine's place among `count`, and the address of node 0. patience: seconds to wait for the others."""

    count: int
    rank: int
    host: str
    port: int
    patience: float

    def name(self, rank: int) -> str:
        return f"node {rank} of {self.count}"


def nodes_of(name: str, count: int, rank: int | None, master: str | None, patience: float) -> Nodes | None:
    """The nodes that options or variables describe; None for one. BadInput names what is missing or impossible."""
    if count == 1:
        return None
    if not shared(name):
        raise BadInput("params.yaml", only_shared(name), key=f"orchestration.stages.{name}.nodes")
    if rank is None or not 0 <= rank < count:
        raise BadInput("--node-rank", f"is {'missing' if rank is None else rank}; {count} nodes have 0 to {count - 1}")
    host, _, port = (master or "").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise BadInput("--master", f"'{master or ''}' is no HOST:PORT of node 0")
    return Nodes(count, rank, host.strip("[]"), int(port), patience)


@dataclass(frozen=True)
class Failure:
    """Why a node ended: a line, and its exit code."""

    node: int
    line: str
    code: int

    @property
    def order(self) -> int:
        """Causes before effects: an error that this project reports, a killed process, a lost node, any other end. Without
        one of its nodes a stage ends like the last."""
        if self.line.startswith("error: ") and self.code in EXIT_CODES.values():
            return 2 if self.code == LOST else 0
        return 1 if self.code > 128 else 3


class NodeFailed(Exception):
    def __init__(self, failure: Failure):
        super().__init__(failure)
        self.failure = failure


@dataclass
class Team:
    """The nodes of one run of a stage, seen from one: node 0 is connected with all others, these with node 0.

    address: of this machine, as the others reach it. own: what runs the stage here.
    """

    nodes: Nodes
    address: str
    peers: dict[int, socket.socket]
    own: Launched | None = None
    events: queue.Queue[tuple[int, Message]] = field(default_factory=queue.Queue)
    finished: set[int] = field(default_factory=set)  # peers that ended well
    closed: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)

    def agree(self, decision: Message, inputs: dict[str, str]) -> Message:
        """Node 0's decision, on every node once all are ready. inputs: digests of what the stage reads, by name; BadInput
        where a node has others than node 0."""
        if self.nodes.rank:
            self.tell({"ready": inputs})
            while True:
                _, message = self.hear()
                if "go" in message:
                    return message["go"]
        waiting = set(self.peers)
        while waiting:
            rank, message = self.hear()
            if (theirs := message.get("ready")) is not None:
                waiting.discard(rank)
                unlike = sorted(key for key in inputs.keys() | theirs if inputs.get(key) != theirs.get(key))
                if unlike:
                    more = f" and {len(unlike) - 1} more" if len(unlike) > 1 else ""
                    raise BadInput(self.nodes.name(rank), f"{unlike[0]}{more}: not as on node 0")
        self.tell({"go": decision})
        return decision

    def work(self, own: Launched) -> None:
        """Wait for the end of this node's processes and, on node 0, of all nodes'. NodeFailed for the first failure."""
        self.own = own
        while True:
            if failure := self.own_failure():
                raise NodeFailed(failure)
            if own.code() == 0 and self.nodes.rank:
                self.tell({"done": True})
                return
            if own.code() == 0 and self.finished == set(self.peers):
                return
            with suppress(queue.Empty):
                self.hear(0.2)

    def own_failure(self) -> Failure | None:
        code = self.own.code() if self.own else None
        return Failure(self.nodes.rank, self.own.last_line(), code) if self.own and code else None

    def hear(self, seconds: float | None = None) -> tuple[int, Message]:
        """The next message with its sender, or queue.Empty. NodeFailed for a failure that it reports."""
        rank, message = self.events.get(timeout=seconds)
        if "failed" in message:
            raise NodeFailed(Failure(**message["failed"]))
        return rank, message

    def tell(self, message: Message) -> None:
        """Send to every peer."""
        line = json.dumps(message).encode() + b"\n"
        with self.turn:
            for peer in self.peers.values():
                with suppress(OSError):  # its reader reports the loss
                    peer.sendall(line)

    def cause(self, first: Failure) -> Failure:
        """The cause of a failure, which may be reported after its effects. Node 0 decides, and tells the others."""
        if first.node == self.nodes.rank and self.nodes.rank:
            self.tell({"failed": asdict(first)})
        found, end = [first], time.monotonic() + SETTLE * (2 if self.nodes.rank else 1)
        while (left := end - time.monotonic()) > 0:
            if self.nodes.rank and first.node != self.nodes.rank:
                break  # node 0 has decided, or is lost
            try:
                self.hear(min(left, 0.2))
            except queue.Empty:
                pass
            except NodeFailed as error:
                found.append(error.failure)
                if self.nodes.rank:
                    return error.failure
            if self.own_failure() and all(failure.node != self.nodes.rank for failure in found):
                found.append(self.own_failure() or first)
            if not self.nodes.rank and {failure.node for failure in found} == {0, *self.peers}:
                break
        cause = min(found, key=lambda failure: failure.order)  # the first of the most telling ones
        if not self.nodes.rank:
            self.tell({"failed": asdict(cause)})
        return cause

    def open(self) -> None:
        """Begin to listen to the peers, and to send signs of life."""
        for rank, peer in self.peers.items():
            threading.Thread(target=self._read, args=(rank, peer), daemon=True).start()
        threading.Thread(target=self._live, daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        for peer in self.peers.values():
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()

    def _read(self, rank: int, peer: socket.socket) -> None:
        peer.settimeout(SILENCE)
        why = "its connection ended"
        try:
            for line in peer.makefile("rb"):
                message = json.loads(line)
                if "done" in message:
                    self.finished.add(rank)
                elif "alive" not in message:
                    self.events.put((rank, message))
        except TimeoutError:
            why = f"no sign of life for {SILENCE} seconds"
        except (OSError, ValueError):
            pass
        if rank not in self.finished and not self.closed.is_set():
            lost = Failure(rank, f"error: lost, {why}; its own log may have the reason", LOST)
            self.events.put((rank, {"failed": asdict(lost)}))

    def _live(self) -> None:
        while not self.closed.wait(BEAT):
            self.tell({"alive": True})


@contextmanager
def meet(nodes: Nodes, stage: str) -> Iterator[Team]:
    """All nodes of a stage, once they are there. A failure of one ends the block on all: SystemExit with the exit code of that
    node, after a line with its reason. Unreachable where nodes do not come together."""
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
            if hello != {"node": hello.get("node"), "of": nodes.count, "stage": stage} or hello["node"] not in range(1, nodes.count):
                why = f"node 0 runs {stage} on {nodes.count} nodes and takes no other"
                with suppress(OSError):
                    peer.sendall(json.dumps({"refused": why}).encode() + b"\n")
                peer.close()
                continue
            if before := peers.get(hello["node"]):  # it was started again
                before.close()
            peers[hello["node"]] = peer
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
    """The first message of a connection; {} for what is none, such as a port scanner's. Byte by byte: the next belongs to the
    reader."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < 10_000 and (byte := peer.recv(1)):
            line += byte
        message = json.loads(line)
    except (OSError, ValueError):
        return {}
    return message if isinstance(message, dict) else {}
