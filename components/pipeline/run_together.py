"""One stage on several nodes: each runs `reelign run-stage NAME --nodes N --node-rank R --master HOST:PORT`.

Every node restores the stage's inputs. Node 0 finds out whether the stage has to run, and all start torch's launcher then
(components/runtime/launch.py). Only node 0 keeps outputs, once all nodes have ended well. The state of a killed run is that
of node 0: `fit` sends its checkpoint to the others (components/runtime/processes.py).
"""

import shlex
import socket
import sys

import psutil

from components.errors import BadInput
from components.pipeline.dvc_internals import digest_inputs, lock_entry, stages_of
from components.pipeline.graph import stage_definition
from components.pipeline.launched import Launched
from components.pipeline.meeting import meet
from components.pipeline.nodes import Nodes, Team
from components.pipeline.run_stage import InPlace, in_place, keep, reproduce
from components.pipeline.work_tree import say


def run_together(nodes: Nodes, name: str, commit: str | None, profile: str | None, force: bool) -> None:
    """Run this node's part of the stage `name`, as run_stage runs all of it.

    Raises what run_stage raises, for this node; for another one SystemExit with its exit code. Unreachable where nodes do
    not come together.
    """
    say(name, f"{nodes.name(nodes.rank)}, node 0 at {nodes.host}:{nodes.port}")
    with meet(nodes, name) as team, in_place(name, commit, profile, force or nodes.rank > 0, nodes.rank) as stage:
        go = team.agree({"run": not stage.made, "port": free_port()}, inputs_of(stage))
        if not go["run"]:
            if nodes.rank:
                say(name, "was run before; node 0 restores it")
            else:
                reproduce(stage, force=False)
            return
        team.work(launch(stage, team, go["port"]))
        if nodes.rank == 0:
            stage.repo.commit(name, force=True)
            keep(stage, ran=True)


def launch(stage: InPlace, team: Team, port: int) -> Launched:
    """torch's launcher with the stage's program."""
    nodes = team.nodes
    python, flag, *program = shlex.split(stage_definition(stage.name)["cmd"])
    if (python, flag) != ("python", "-m"):
        raise BadInput("dvc.yaml", "several nodes run `python -m MODULE` alone", key=f"{stage.name}.cmd")
    words = ["--nnodes", str(nodes.count), "--node-rank", str(nodes.rank)]
    words += ["--master-addr", nodes.host, "--master-port", str(port)]
    environment = {"DVC_ROOT": str(stage.tree), "DVC_STAGE": stage.name}  # as DVC marks its commands (end_orphans)
    if interface := interface_of(team.address):
        environment |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    return Launched([sys.executable, "-m", "components.runtime.launch", *words, "-m", *program], stage.tree, environment)


def inputs_of(stage: InPlace) -> dict[str, str]:
    """Digests of the stage's inputs and values of its params, by name."""
    one = stages_of(stage.repo)[stage.name]
    digest_inputs(one, {out["path"]: out for entry in stage.known.values() for out in entry["outs"]})
    entry = lock_entry(one)
    found = {dep["path"]: str(dep.get("md5")) for dep in entry.get("deps", [])}
    for file, params in entry.get("params", {}).items():
        found |= {f"{file}, {key}": repr(value) for key, value in params.items()}
    return found | {"command": str(entry["cmd"])}


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def interface_of(address: str) -> str | None:
    """The network interface with this address. gloo would take the one that the machine's name leads to, often the
    loopback."""
    found = (name for name, own in psutil.net_if_addrs().items() if address in {one.address for one in own})
    return next(found, None)
