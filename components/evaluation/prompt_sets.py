"""The prompts that methods are compared on: the test split of the source's own, or a CSV such as a benchmark's.

A prompt set is a CSV whose row is a prompt, in one or more forms: `prompt`, `prompt_shorter`, `prompt_zh`, as VideoAlign
has them. What anything was trained or tuned on cannot be evaluated on: a set with such a prompt in it is refused.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from components.alignment.candidates import chosen_prompts
from components.csv_files import read_rows
from components.errors import BadInput
from components.params import NO_PROMPT_SET, Params, SplitParams
from components.preferences.near import near_groups
from components.preferences.schema import read_prompt, read_prompts
from components.preferences.split import prompt_key, split_prompts
from components.simulation.world import scene_of
from components.stage import Stage

SOURCE = "data/source/prompts.csv"
COLUMNS = ("prompt", "prompt_shorter", "prompt_zh")


@dataclass(frozen=True)
class Prompt:
    """`prompt_id` is a digest of the text as prompt_key has it: rows may move, and two rows of one prompt have the same."""

    row: int  # line of the file
    prompt_id: str
    text: str
    forms: dict[str, str]  # by column, those that the row has


def evaluation_prompts(stage: Stage) -> list[tuple[str, str]]:
    """(prompt_id, prompt) of the `sample.prompts` that are evaluated on, all where it is null or there are fewer. A choice
    is made by the run's seed, each prompt by itself: a set of 120 is part of one of 200."""
    params = stage.params.sample
    if params.prompt_set == NO_PROMPT_SET:
        if params.column != "prompt":
            raise BadInput("params.yaml", "the source's own prompts have the column prompt alone", key="sample.column")
        return chosen_prompts(stage, "test", params.prompts)
    file = Path(params.prompt_set)
    rows = read_prompt_set(file, params.column)
    refuse_seen(file, rows, stage.params.split)
    if stage.params.evaluate.judge == "gold":  # a check before hours of sampling: the clips do not depend on the judge
        refuse_foreign(file, rows, params.column)
    prompts: dict[str, Prompt] = {}
    for prompt in rows:
        first = prompts.setdefault(prompt.prompt_id, prompt)
        if first is not prompt:
            # Intervals are over prompts: one that counted twice would make them too narrow.
            stage.say(f"{file}, row {prompt.row}: the prompt of row {first.row} again, taken once")
    if len(prompts) < (params.prompts or 0):
        stage.say(f"{params.prompts} prompts wanted, {file} has {len(prompts)}: all are used")
    chosen = set(sorted(prompts, key=lambda prompt_id: stage.shared_seed("prompt set", prompt_id))[: params.prompts])
    return [(prompt_id, prompt.text) for prompt_id, prompt in prompts.items() if prompt_id in chosen]


def read_prompt_set(file: Path, column: str) -> list[Prompt]:
    """The rows of a CSV, their text that of `column`. BadInput names a prompt that cannot be used, a missing column, an
    empty file."""
    prompts = []
    for row, cells in read_rows(file, [column], COLUMNS):
        text = read_prompt(file, row, cells, column)
        prompt_id = sha256(prompt_key(text).encode()).hexdigest()[:16]
        prompts.append(Prompt(row, prompt_id, text, {name: cells[name] for name in COLUMNS if cells.get(name)}))
    if not prompts:
        raise BadInput(file, "no prompts", key=column)
    return prompts


def refuse_seen(file: Path, prompts: list[Prompt], split: SplitParams) -> None:
    """BadInput for a prompt that in any of its forms is one of the source's training or validation prompts, or a
    near-duplicate of one, by the rule that keeps those on one side of the split."""
    sides = split_prompts(read_prompts(SOURCE), split)
    seen = [prompt for prompt, side in sides.items() if side != "test"]
    forms = [(prompt, column, text) for prompt in prompts for column, text in prompt.forms.items()]
    groups = near_groups([prompt_key(text) for text in (*seen, *(text for *_, text in forms))])
    group_of = dict(zip(groups, seen, strict=False))
    for (prompt, column, _), group in zip(forms, groups[len(seen) :], strict=True):
        if group in group_of:
            known = group_of[group]
            why = f"'{known}' is in the {sides[known]} split of {SOURCE}: no method can be evaluated on it, or nearly it"
            raise BadInput(file, why, row=prompt.row, key=column)


def refuse_foreign(file: Path, prompts: list[Prompt], column: str) -> None:
    """BadInput for a prompt that the gold judge, which knows the shapes world alone, could not judge clips of."""
    for prompt in prompts:
        try:
            scene_of(prompt.text)
        except ValueError as error:
            why = f"{error}; the gold judge cannot judge its clips: set evaluate.judge to none"
            raise BadInput(file, why, row=prompt.row, key=column) from error


def count_prompts(params: Params) -> int:
    """How many prompts are evaluated on, at most. BadInput where all are, and their file is not there."""
    sample = params.sample
    if sample.prompts is not None:
        return sample.prompts
    if sample.prompt_set != NO_PROMPT_SET:
        return len({prompt.prompt_id for prompt in read_prompt_set(Path(sample.prompt_set), sample.column)})
    return list(split_prompts(read_prompts(SOURCE), params.split).values()).count("test")
