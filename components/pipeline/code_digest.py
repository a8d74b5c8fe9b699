"""The code that a result depends on: the modules that a module imports, and their digest.

`dvc.yaml` lists the imports of a stage by this rule, which tests/test_graph.py checks. Caches that outlive a stage have the
digest in their keys, so that results of other code are never reused.
"""

import ast
import functools
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from components.files.digests import file_digest

ROOT = Path(__file__).parents[2]
# Shared by all stages and without influence on results: reading params, tracking runs, writing tables, names of outputs.
# What the stages take from the table of methods is in their entries of dvc.yaml.
INFRASTRUCTURE = (
    "components/__init__.py",
    "components/errors.py",
    "components/contracts.py",
    "components/schemas.py",
    "components/methods.py",
    "components/files/",
    "components/config/",
    "components/pipeline/",
)
# Modules that sample clips, judge them, score them, and decode videos.
DRAWING, JUDGING = (
    ("components.generator.sampler", "components.generator.folder"),
    ("components.simulation.judge", "components.video.decode"),
)
SCORING, DECODING = ("components.reward.score",), ("components.video.decode", "components.video.frames")


def reached(modules: Iterable[str], root: Path = ROOT) -> set[str]:
    """Files of `modules` (dotted names) and of all project modules that they import, directly or not, below `root`; without
    INFRASTRUCTURE."""
    todo = [f"{module.replace('.', '/')}.py" for module in modules]
    seen = set(todo)
    while todo:
        for file in imported(root, todo.pop())[0] - seen:
            seen.add(file)
            todo.append(file)
    return {file for file in seen if not file.startswith(INFRASTRUCTURE)}


def imported(root: Path, file: str) -> tuple[set[str], set[str]]:
    """Files below `root` that a file imports, at any place in it, and names of imported libraries."""
    files, libraries = set(), set()
    for node in ast.walk(ast.parse((root / file).read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            top = module.partition(".")[0]
            path = f"{module.replace('.', '/')}.py"
            if top != "components":
                libraries.add(top)
            elif (root / path).exists():
                files.add(path)
    return files, libraries - sys.stdlib_module_names


@functools.cache
def sources_digest(modules: tuple[str, ...], root: Path = ROOT) -> str:
    """16 hex digits of SHA-256 over the sources of all modules that `modules` reach."""
    files = [[file, file_digest(root / file)] for file in sorted(reached(modules, root))]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


@functools.cache
def code_digest(modules: tuple[str, ...], root: Path = ROOT) -> str:
    """The same with the versions of imported libraries, as a new version may change the last bits."""
    known = importlib.metadata.packages_distributions()
    libraries = set().union(*(imported(root, file)[1] for file in reached(modules, root)))
    packages = {package for library in libraries for package in known.get(library, [])}
    versions = [[package, importlib.metadata.version(package)] for package in sorted(packages)]
    return hashlib.sha256(json.dumps([sources_digest(modules, root), versions]).encode()).hexdigest()[:16]
