"""The graph of dvc.yaml: stages, their inputs and outputs, and their order.

It imports little on purpose: stages, tests and the Airflow DAGs all read the graph through this file.
"""

import json
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from components.errors import BadInput

TEMPLATE = re.compile(r"\$\{([\w.]+)\}")
STAGE_NAME = "[a-z_]+(@[a-z0-9_]+)?"
# What the stages of dvc.yaml, before their `@`, are for; schedulers draw a group as one box.
GROUPS = {
    "data": ("pretrain_generator", "pretrain_ltx", "pretrain_vlm", "source", "measure", "curate", "pairs"),
    "reward_models": ("reward", "reward_bench", "judge_reward", "latent_reward"),
    "alignment": ("base_generator", "candidates", "relabel", "round", "align", "online"),
    "evaluation": ("sample", "tradeoff", "evaluate"),
    "release": ("package",),
}


def stage_names() -> list[str]:
    """All stages by DVC's names ("align@dpo"), without frozen ones, in the order of dvc.yaml."""
    names = []
    for name, entry in _stages().items():
        if entry.get("frozen"):
            continue
        names += [f"{name}@{key}" for key in _items(entry)] if "foreach" in entry else [name]
    return names


def stage_definition(name: str) -> dict[str, Any]:
    """The entry of a stage with templates resolved: {"cmd", "desc", "deps": [...], "params": [...], "outs": [...]}."""
    stages = _stages()
    base, _, key = name.partition("@")
    if base not in stages:
        raise BadInput("dvc.yaml", "no such stage", key=name)
    entry = stages[base]
    context = _params()
    if "foreach" in entry:
        context |= {"key": key, "item": _items(entry)[key]}
        entry = entry["do"]

    def fill(match: re.Match) -> str:
        value = context
        for part in match[1].split("."):
            value = value[part]
        return TEMPLATE.sub(fill, str(value))  # an item may contain a template

    entry = json.loads(TEMPLATE.sub(fill, json.dumps(entry)))

    def paths(kind: str) -> list[str]:
        found = (next(iter(path)) if isinstance(path, dict) else path for path in entry.get(kind, []))
        return list(dict.fromkeys(found))  # an item of a foreach may repeat a path

    outs = paths("outs") + paths("metrics") + paths("plots")
    about = {"cmd": entry["cmd"], "desc": entry.get("desc", "")}
    return about | {"deps": paths("deps"), "params": entry.get("params", []), "outs": outs}


def edges() -> list[tuple[str, str]]:
    """(before, after) for all stages where the second reads an output of the first, sorted."""
    definitions = {name: stage_definition(name) for name in stage_names()}
    made = {out: name for name, definition in definitions.items() for out in definition["outs"]}
    return sorted(
        {(made[dep], name) for name, definition in definitions.items() for dep in definition["deps"] if dep in made}
    )


def direct_edges() -> list[tuple[str, str]]:
    """`edges` without those that others imply: the same stages can be reached from each stage, by fewer arrows."""
    after: dict[str, set[str]] = {}
    for before, later in edges():
        after.setdefault(before, set()).add(later)

    @cache
    def reached(stage: str) -> frozenset[str]:
        own = after.get(stage, set())
        return frozenset(own).union(*(reached(one) for one in own))

    implied = {(stage, far) for stage, own in after.items() for one in own for far in reached(one)}
    return [edge for edge in edges() if edge not in implied]


def group_of(name: str) -> str:
    """The group of a stage ("align@dpo" is of alignment)."""
    base = name.partition("@")[0]
    return next(group for group, stages in GROUPS.items() if base in stages)


def _items(entry: dict[str, Any]) -> dict[str, Any]:
    """The items of a foreach stage, by key: listed in dvc.yaml, or from a section of params.yaml that it names."""
    items = entry["foreach"]
    if isinstance(items, str):
        found = _params()
        for part in items.removeprefix("${").removesuffix("}").split("."):
            found = found[part]
        return found
    return items


def _params() -> dict[str, Any]:
    return yaml.load(Path("params.yaml").read_text(), yaml.CSafeLoader)


def _stages() -> dict[str, Any]:
    return _parsed(Path("dvc.yaml").read_text())["stages"]


@lru_cache(maxsize=1)
def _parsed(text: str) -> dict[str, Any]:
    """Cached, as the graph is read for every stage and parsing YAML is slow."""
    return yaml.load(text, yaml.CSafeLoader)


def upstream(name: str) -> list[str]:
    """All stages that `name` depends on, in topological order."""
    before: dict[str, list[str]] = {}
    for earlier, later in edges():
        before.setdefault(later, []).append(earlier)
    order: list[str] = []

    def visit(stage: str) -> None:
        for earlier in before.get(stage, []):
            if earlier not in order:
                visit(earlier)
                order.append(earlier)

    visit(name)
    return order
