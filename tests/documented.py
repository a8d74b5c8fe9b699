"""The commands that pages show, and whether the program, the Makefile, DVC and the checkout have what they name."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.exceptions import TyperException

from components.cli.main import app
from components.methods import ONLINE
from components.pipeline.graph import stage_names

PAGES = sorted(
    path
    for pattern in ("*.md", "NOTICE", "docs/**/*.md", "examples/*.md", "infra/**/*.md", ".github/**/*.md", "benchmarks/*.md")
    for path in Path().glob(pattern)
)
FENCE = re.compile(r"(<!-- run -->\n)?^( *)```(\w*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("reelign", "make", "dvc", "python", "accelerate", "docker")
VARIABLE = re.compile(r"[A-Z][A-Z_]*=")
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|\.\.\.")  # NAME, or "and so on"
OWN_FOLDERS = (
    "components",
    "dags",
    "docker",
    "docs",
    "examples",
    "infra",
    "benchmarks",
    "tests",
    "findings",
    "pretrained",
    ".ci",
)
FILLED_IN = ("infra/compose.env",)  # made by the user
FROZEN = ["pretrain_generator", "pretrain_ltx", "pretrain_vlm"]


def blocks(text: str, language: str) -> Iterator[tuple[bool, str]]:
    """(marked to be run, text) of each fenced block of a language."""
    for run, indent, own, body in FENCE.findall(text):
        if own == language:
            yield bool(run), re.sub(rf"(?m)^{indent}", "", body)


def commands(text: str) -> Iterator[tuple[bool, list[str]]]:
    """(whole, words) of each command in a page: whole where it is a line of a block, and may else be a mention."""
    for _, body in blocks(text, "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            yield from ((True, words) for words in simple_commands(line))
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text)):
        yield from ((False, words) for words in simple_commands(span))


def simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of one line of shell that are of PROGRAMS, without what stands before and after them."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # an apostrophe: prose, or a table of names
        return
    own: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", ";", "&"):
            while own and VARIABLE.match(own[0]):
                own = own[1:]
            if own and own[0] in PROGRAMS and len(own) > 1:
                yield own
            own = []
        else:
            own.append(word.rstrip(";"))


def trouble(whole: bool, words: list[str]) -> str | None:
    """What a command names that is not there; None where all is."""
    name, *rest = words
    check = {"reelign": reelign_trouble, "make": make_trouble, "dvc": dvc_trouble}.get(name, file_trouble)
    return check(rest, whole)


@cache
def program() -> Any:
    return typer.main.get_command(app)


@cache
def dvc_parser() -> Any:
    from dvc.cli.parser import get_main_parser

    return get_main_parser()


def reelign_trouble(words: list[str], whole: bool) -> str | None:
    command, path = program(), "reelign"
    while getattr(command, "commands", None) and words and not words[0].startswith("-"):
        name, *words = words
        if PLACEHOLDER.fullmatch(name):
            return None
        if name not in command.commands:
            return f"{path} has no command {name}"
        command, path = command.commands[name], f"{path} {name}"
    if getattr(command, "commands", None):
        return options_trouble(command, words, path)
    if path == "reelign run-with" and len(words) > 1:
        place = next(at for at in range(1, len(words)) if not words[at].startswith("-"))
        return reelign_trouble(words[place:], whole)
    if (found := options_trouble(command, words, path)) or not whole or "--help" in words:
        return found
    try:
        command.make_context(path, [word for word in words if word != "..."])
    except TyperException as error:
        return f"{path}: {error.format_message()}"
    return None


def options_trouble(command: Any, words: list[str], path: str) -> str | None:
    known = {name for option in command.params for name in [*option.opts, *option.secondary_opts]} | {"--help"}
    missing = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{path} has no option {missing[0]}" if missing else None


def make_trouble(words: list[str], whole: bool) -> str | None:
    makefile = Path("Makefile").read_text()
    targets = set(re.findall(r"^([\w.-]+):", makefile, re.MULTILINE))
    for word in words:
        name, is_set, _ = word.partition("=")
        if is_set and f"$({name})" not in makefile and f"$({name}:" not in makefile:
            return f"the Makefile has no variable {name}"
        if not is_set and name not in targets and not PLACEHOLDER.fullmatch(name):
            return f"the Makefile has no target {name}"
    return None


def dvc_trouble(words: list[str], whole: bool) -> str | None:
    from dvc.cli import DvcParserError

    try:
        given = dvc_parser().parse_args(words)
    except DvcParserError:
        return f"dvc has no command {' '.join(words)}" if whole else None
    stages = {
        *stage_names(),
        *FROZEN,
        *(name.partition("@")[0] for name in stage_names()),
        "round@2",
        *(f"online@{name}" for name in ONLINE),
    }
    targets = getattr(given, "targets", None) or []
    if given.cmd in ("repro", "freeze", "unfreeze", "commit") or words[:2] == ["exp", "run"]:
        for target in targets:
            if target not in stages and not PLACEHOLDER.fullmatch(target):
                return f"dvc.yaml has no stage {target}"
    for change in getattr(given, "set_param", None) or []:
        found = yaml.safe_load(Path("params.yaml").read_text())
        for part in change.partition("=")[0].split("."):
            if not isinstance(found, dict) or part not in found:
                return f"params.yaml has no key {change}"
            found = found[part]
    return None


def file_trouble(words: list[str], whole: bool) -> str | None:
    """Of `python`, `accelerate` and `docker`: the modules and files of this project that the words name."""
    script = next((word for word in words if word.endswith(".py")), None)
    for before, word in zip(["", *words], words, strict=False):
        if before == "-m" and word.startswith("components") and "AREA" not in word:
            if not Path(word.replace(".", "/") + ".py").exists():
                return f"no module {word}"
        elif word.startswith(tuple(f"{folder}/" for folder in OWN_FOLDERS)) and not exists(word) and word not in FILLED_IN:
            return f"no file {word}"
        elif script and word.startswith("--") and words.index(word) > words.index(script):
            name = word.partition("=")[0].strip("-").replace("-", "_")
            if not re.search(rf"\b{name}: |\b{name}\b.*Option|\"--{name}\"", Path(script).read_text()):
                return f"{script} has no option {word}"
    return None


def exists(path: str) -> bool:
    """Whether a path of the checkout is there: a file, a folder, or what a pattern matches."""
    return Path(path).exists() or any(Path().glob(path.rstrip("/")))
