"""The line between nodes that share a stage: who comes, what is decided, and whose failure ends all."""

import json
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from components.errors import BadInput, Unreachable
from components.orchestration.kubeflow import Cluster, specification
from components.pipeline import nodes as line
from components.pipeline.launched import Launched
from components.pipeline.meeting import meet
from components.pipeline.nodes import Failure, Nodes, nodes_of
from components.pipeline.run_together import free_port, interface_of

WELL = "pass"
SLOW = "import time; time.sleep(60)"
BAD = "import sys; print('error: clip.mp4: no video\\nend', file=sys.stderr); sys.exit(2)"
BROKEN = "import time; time.sleep(0.3); raise RuntimeError('connection closed by peer')"
KILLED = "import os; os.kill(os.getpid(), 9)"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(line, "SETTLE", 2)
    monkeypatch.setattr(line, "BEAT", 0.2)


def places(count: int = 2, patience: float = 20) -> list[Nodes]:
    port = free_port()
    return [Nodes(count, rank, "127.0.0.1", port, patience) for rank in range(count)]


def together(all_nodes: list[Nodes], *work) -> list[BaseException | None]:
    """What the nodes end with, each after its part of the work on the team."""
    ends: list[BaseException | None] = [None] * len(all_nodes)

    def run(nodes: Nodes, work) -> None:
        try:
            with meet(nodes, "reward") as team:
                work(team)
        except BaseException as error:
            ends[nodes.rank] = error

    threads = [threading.Thread(target=run, args=pair) for pair in zip(all_nodes, work, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return ends


def program(code: str):
    return lambda team: team.work(Launched([sys.executable, "-c", code], Path.cwd(), {}))


def test_node_0_ends_well_once_all_have():
    ended = {}

    def noted(code: str):
        def work(team) -> None:
            program(code)(team)
            ended[team.nodes.rank] = time.monotonic()

        return work

    assert together(places(3), noted(WELL), noted("import time; time.sleep(1)"), noted(WELL)) == [None, None, None]
    assert ended[0] - ended[2] > 0.5, "node 0 waits for all"


@pytest.mark.parametrize(
    ("programs", "codes", "reason"),
    [
        ((BROKEN, BAD), (2, 2), "error: node 1 of 2: clip.mp4: no video"),
        ((BAD, BROKEN), (2, 2), "error: node 0 of 2: clip.mp4: no video"),
        ((BROKEN, SLOW), (1, 1), "error: node 0 of 2: RuntimeError: connection closed by peer"),
        ((SLOW, KILLED), (137, 137), "error: node 1 of 2: process of the stage ended by signal 9"),
        ((KILLED, SLOW), (137, 137), "error: node 0 of 2: process of the stage ended by signal 9"),
    ],
)
def test_a_failure_ends_all_with_its_own_reason(programs, codes, reason, capfd):
    began = time.monotonic()
    ends = together(places(), *map(program, programs))
    assert [type(end) for end in ends] == [SystemExit, SystemExit]
    assert tuple(end.code for end in ends) == codes
    assert capfd.readouterr().err.splitlines().count(reason) == 1, "the node itself has printed it already"
    assert time.monotonic() - began < 15


def test_causes_come_before_effects():
    broken, lost, bad = Failure(0, "RuntimeError: broken pipe", 1), Failure(1, "error: lost", 4), Failure(2, "error: x", 2)
    killed = Failure(3, "process of the stage ended by signal 9", 137)
    assert sorted([broken, lost, killed, bad], key=lambda failure: failure.order) == [bad, killed, lost, broken]


def test_what_ends_a_node_before_its_program_ends_all(capfd):
    def refuse(team) -> None:
        raise BadInput("data/pairs", "missing")

    first, second = together(places(), lambda team: team.agree({}, {}), refuse)
    assert isinstance(first, SystemExit) and first.code == 2 and isinstance(second, BadInput)
    assert "error: node 1 of 2: data/pairs: missing" in capfd.readouterr().err


def test_node_0_decides_for_all_with_the_same_inputs():
    heard = {}

    def agree(decision: dict, inputs: dict):
        return lambda team: heard.update({team.nodes.rank: team.agree(decision, inputs)})

    assert together(places(), agree({"run": True}, {"a": "1"}), agree({"run": False}, {"a": "1"})) == [None, None]
    assert heard == {0: {"run": True}, 1: {"run": True}}
    first, second = together(places(), agree({}, {"a": "1", "b": "1"}), agree({}, {"a": "2", "b": "1"}))
    assert str(first) == "node 1 of 2: a: not as on node 0" and isinstance(second, SystemExit) and second.code == 2


def test_a_silent_node_is_lost(monkeypatch, capfd):
    monkeypatch.setattr(line, "SILENCE", 1)
    nodes = places()
    ends: list[BaseException] = []

    def first() -> None:
        with pytest.raises(SystemExit) as found, meet(nodes[0], "reward") as team:
            team.agree({}, {})
        ends.append(found.value)

    thread = threading.Thread(target=first)
    thread.start()
    with connected(nodes[0]) as silent:
        silent.sendall(json.dumps({"node": 1, "of": 2, "stage": "reward"}).encode() + b"\n")
        thread.join(20)
    assert ends[0].code == 4
    assert "error: node 1 of 2: lost, no sign of life for 1 seconds; its own log" in capfd.readouterr().err


def connected(nodes: Nodes) -> socket.socket:
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((nodes.host, nodes.port), timeout=10)
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_strangers_are_passed_over_and_other_stages_refused():
    nodes = places()
    said = []

    def strange() -> None:
        for hello in (b"GET / HTTP/1.0\r\n\r\n", b'{"node": 1, "of": 2, "stage": "align@dpo"}\n', b'["node"]\n', b""):
            with suppress(OSError), connected(nodes[0]) as stranger:  # not all of it is read before the end
                stranger.sendall(hello)
                stranger.shutdown(socket.SHUT_WR)
                said.append(stranger.makefile().read())

    thread = threading.Thread(target=strange)
    thread.start()

    ends: list[BaseException | None] = []
    first = threading.Thread(target=lambda: ends.extend(together(nodes[:1], program(WELL))))
    first.start()
    thread.join(20)
    assert together_one(nodes[1]) is None
    first.join(20)
    assert ends == [None] and any("node 0 runs reward on 2 nodes and takes no other" in answer for answer in said)


def together_one(nodes: Nodes) -> BaseException | None:
    try:
        with meet(nodes, "reward") as team:
            program(WELL)(team)
    except BaseException as error:
        return error
    return None


def test_who_does_not_come_is_named():
    first, *_ = places(3, patience=0.5)
    with (
        pytest.raises(Unreachable, match=r"node 1 of 3: did not come to 127\.0\.0\.1:\d+ within 0\.5 seconds"),
        meet(first, "reward"),
    ):
        pass
    with pytest.raises(Unreachable, match=r"node 0 did not answer within 0\.5 seconds"), meet(places(2, 0.5)[1], "reward"):
        pass
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BadInput, match=f"key '--master'|port {port} cannot be opened"),
            meet(Nodes(2, 0, "h", port, 1), "reward"),
        ):
            pass


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("reward", 2, None, "h:1", 9), "--node-rank: is missing; 2 nodes have 0 to 1"),
        (("reward", 2, 2, "h:1", 9), "--node-rank: is 2; 2 nodes have 0 to 1"),
        (("reward", 2, 0, None, 9), "--master: '' is no HOST:PORT of node 0"),
        (("reward", 2, 0, "h:0", 9), "--master: 'h:0' is no HOST:PORT of node 0"),
        (("curate", 2, 0, "h:1", 9), "params.yaml, key 'orchestration.stages.curate.nodes': stage curate runs on one node"),
    ],
)
def test_nodes_that_cannot_be(words, why):
    with pytest.raises(BadInput) as found:
        nodes_of(*words)
    assert str(found.value).startswith(why)


def test_kubeflow_refuses_nodes(tmp_path, monkeypatch):
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["orchestration"] |= {"runner": "kubernetes", "stages": {"align": {"nodes": 2}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    shutil.copy("dvc.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"orchestration\.stages\.align@sft\.nodes': Kubeflow's pipeline starts one pod"):
        specification(Cluster())


def test_nodes_of_options():
    assert nodes_of("curate", 1, None, None, 9) is None
    assert nodes_of("align@dpo", 2, 1, "[fd00::1]:29500", 9) == Nodes(2, 1, "fd00::1", 29500, 9)


def test_the_interface_of_an_address():
    assert interface_of("127.0.0.1") == "lo" and interface_of("203.0.113.1") is None
