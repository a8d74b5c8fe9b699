"""Judges by name: KIND:ARGUMENT, as params.yaml and the command line have them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from components.errors import BadInput
from components.judges.protocol import Context, Judge

PARAM = "evaluate.judges"
Loader = Callable[["Spec", Context], Judge]


@dataclass(frozen=True)
class Spec:
    """A judge's name in parts; `argument` is empty for a kind without one."""

    kind: str
    argument: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.argument}" if self.argument else self.kind

    @property
    def key(self) -> str:
        """Its name in metrics and columns: gold, model-judge_reward, human-people."""
        if not self.argument:
            return self.kind
        name = PurePath(self.argument).name.removesuffix(".json").removesuffix(".py")
        return f"{self.kind}-{re.sub(r'[^A-Za-z0-9_.]+', '-', name).strip('-')}"


def _gold(spec: Spec, context: Context) -> Judge:
    from components.judges.gold import GoldJudge

    return GoldJudge(spec.key, context)


def _model(spec: Spec, context: Context) -> Judge:
    from components.judges.model import ModelJudge

    return ModelJudge(str(spec), spec.key, Path(spec.argument), context)


def _human(spec: Spec, context: Context) -> Judge:
    from components.judges.human import HumanJudge

    return HumanJudge(str(spec), spec.key, Path(spec.argument), context)


def _vbench(spec: Spec, context: Context) -> Judge:
    from components.judges.vbench_results import VBenchJudge

    return VBenchJudge(str(spec), spec.key, Path(spec.argument), context)


def _command(spec: Spec, context: Context) -> Judge:
    from components.judges.command import CommandJudge
    from components.reward.program import split

    return CommandJudge(str(spec), spec.key, split(spec.argument, str(spec)), context)


def _vlm(spec: Spec, context: Context) -> Judge:
    from components.judges.vlm import load

    return load(spec, context)


# Kind -> what its argument is (empty: it has none), and its loader.
JUDGES: dict[str, tuple[str, Loader]] = {
    "gold": ("", _gold),
    "model": ("FOLDER", _model),
    "human": ("FILE", _human),
    "vbench": ("FOLDER", _vbench),
    "command": ("PROGRAM", _command),
    "vlm": ("NAME", _vlm),
}


def parse(name: str) -> Spec:
    """The parts of a judge's name. ValueError names the kinds, or the argument that is missing or too many."""
    kind, _, argument = name.partition(":")
    if kind not in JUDGES:
        raise ValueError(f"'{name}' is no judge; there are {', '.join(map(usage, JUDGES))}")
    wanted = JUDGES[kind][0]
    if bool(argument) != bool(wanted):
        raise ValueError(f"'{name}': {f'write {usage(kind)}' if wanted else f'{kind} has no argument'}")
    return Spec(kind, argument)


def usage(kind: str) -> str:
    """A kind as it is written: gold, model:FOLDER."""
    argument = JUDGES[kind][0]
    return f"{kind}:{argument}" if argument else kind


def load_judges(names: Iterable[str], context: Context) -> dict[str, Judge]:
    """The judges of params.yaml by key. BadInput as of load_judge, and where two have one key in metrics."""
    found: dict[str, Judge] = {}
    for name in names:
        judge = load_judge(name, context)
        if (key := judge.facts.key) in found:
            why = f"'{name}' and '{found[key].facts.name}' are both {key} in metrics: rename a file or folder"
            raise BadInput("params.yaml", why, key=PARAM)
        found[key] = judge
    return found


def load_judge(name: str, context: Context, where: str = "params.yaml", key: str | None = PARAM) -> Judge:
    """A judge by its name. BadInput, of `where` and `key`, for a name that is none, and as of the judge's own loader."""
    try:
        spec = parse(name)
    except ValueError as error:
        raise BadInput(where, str(error), key=key) from error
    return JUDGES[spec.kind][1](spec, context)
