"""Several machines that run one stage together, and the line between them: who is there, what is decided, who failed.

Node 0 listens, the others connect before they restore inputs. Messages are lines of JSON. Each node sends a sign of life
every BEAT seconds; one whose connection ends, or that is silent for SILENCE seconds, is lost. torch's own connections carry
no cause: a killed node is a broken pipe there, and one without power is half an hour of waiting.
"""

import json
import queue
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from components.config.nodes import only_shared, shared
from components.errors import EXIT_CODES, BadInput, Unreachable
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
        """The cause of a failure, which may be reported after its effects: node 0 decides, and sends it to the others."""
        if self.nodes.rank:
            return self._verdict(first)
        found, end = [first], time.monotonic() + SETTLE
        while time.monotonic() < end and {failure.node for failure in found} != {0, *self.peers}:
            own = self.own_failure()
            if own and all(failure.node for failure in found):
                found.append(own)
            try:
                self.hear(0.2)
            except queue.Empty:
                continue
            except NodeFailed as error:
                found.append(error.failure)
        cause = min(found, key=lambda failure: failure.order)  # the first of its kind
        self.tell({"failed": asdict(cause)})
        return cause

    def _verdict(self, first: Failure) -> Failure:
        """What node 0 answers to a failure of this node; a failure of another has come from there."""
        if first.node != self.nodes.rank:
            return first
        self.tell({"failed": asdict(first)})
        end = time.monotonic() + 2 * SETTLE
        while time.monotonic() < end:
            try:
                self.hear(0.2)
            except queue.Empty:
                continue
            except NodeFailed as error:
                return min(error.failure, first, key=lambda failure: failure.order)
        return first

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
