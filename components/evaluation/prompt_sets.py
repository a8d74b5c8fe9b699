"""The evaluation prompts: the test split of the source's prompts, or a CSV such as a benchmark's.

A prompt set is a CSV with one prompt per row, in one or more forms: `prompt`, `prompt_shorter`, `prompt_zh`, as in
VideoAlign. An `image` that the clip begins with is named by its path from the CSV's folder. A set with a prompt of training
or validation is refused.
"""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from components.config.params import NO_PROMPT_SET, Params, SplitParams
from components.contracts import SOURCE_PROMPTS
from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.pipeline.stage import Stage
from components.preferences.first_frames import FirstFrame, read_first_frames
from components.preferences.near import near_groups
from components.preferences.prompts import sampled_prompts
from components.preferences.schema import read_prompt, read_prompts
from components.preferences.split import prompt_key, split_prompts
from components.simulation.world import scene_of

COLUMNS = ("prompt", "prompt_shorter", "prompt_zh")


@dataclass(frozen=True)
class Prompt:
    """`prompt_id` is a digest of the text's prompt_key: independent of the row, equal for two rows of one prompt."""

    row: int  # line of the file
    prompt_id: str
    text: str
    forms: dict[str, str]  # by column, where the row has one


def evaluation_prompts(stage: Stage) -> list[tuple[str, str]]:
    """(prompt_id, prompt) of the `sample.prompts` evaluation prompts; all where it is null or there are fewer. The run's
    seed ranks each prompt independently: a set of 120 is part of one of 200."""
    params = stage.params.sample
    if params.prompt_set == NO_PROMPT_SET:
        if params.column != "prompt":
            raise BadInput("params.yaml", "the source's prompts have only the column prompt", key="sample.column")
        return sampled_prompts(stage, "test", params.prompts)
    file = Path(params.prompt_set)
    rows = read_prompt_set(file, params.column)
    refuse_seen(file, rows, stage.params.split)
    if "gold" in stage.params.evaluate.judges:  # checked before hours of sampling
        refuse_foreign(file, rows, params.column)
    prompts: dict[str, Prompt] = {}
    for prompt in rows:
        first = prompts.setdefault(prompt.prompt_id, prompt)
        if first is not prompt:
            # Intervals are over prompts: a duplicate would make them too narrow.
            stage.say(f"{file}, row {prompt.row}: the prompt of row {first.row} again, used once")
    if len(prompts) < (params.prompts or 0):
        stage.say(f"{params.prompts} prompts requested, {file} has {len(prompts)}: all are used")
    chosen = set(sorted(prompts, key=lambda prompt_id: stage.shared_seed("prompt set", prompt_id))[: params.prompts])
    return [(prompt_id, prompt.text) for prompt_id, prompt in prompts.items() if prompt_id in chosen]


def evaluation_images(stage: Stage) -> dict[str, FirstFrame]:
    """The image of each evaluation prompt that has one, by its text."""
    params = stage.params.sample
    if params.prompt_set == NO_PROMPT_SET:
        return read_first_frames(SOURCE_PROMPTS, None)
    file = Path(params.prompt_set)
    return read_first_frames(file, file.parent, params.column)


def read_prompt_set(file: Path, column: str) -> list[Prompt]:
    """The rows of a CSV, with the text of `column`. BadInput for an unusable prompt, a missing column or an empty file."""
    prompts = []
    for row, cells in read_rows(file, [column], COLUMNS):
        text = read_prompt(file, row, cells, column)
        prompt_id = sha256(prompt_key(text).encode()).hexdigest()[:16]
        prompts.append(Prompt(row, prompt_id, text, {name: cells[name] for name in COLUMNS if cells.get(name)}))
    if not prompts:
        raise BadInput(file, "no prompts", key=column)
    return prompts


def refuse_seen(file: Path, prompts: list[Prompt], split: SplitParams) -> None:
    """BadInput for a prompt of which any form is a training or validation prompt of the source, or a near-duplicate of one
    by the rules of the split."""
    sides = split_prompts(read_prompts(SOURCE_PROMPTS), split)
    seen = [prompt for prompt, side in sides.items() if side != "test"]
    forms = [(prompt, column, text) for prompt in prompts for column, text in prompt.forms.items()]
    groups = near_groups([prompt_key(text) for text in (*seen, *(text for *_, text in forms))])
    group_of = dict(zip(groups, seen, strict=False))
    for (prompt, column, _), group in zip(forms, groups[len(seen) :], strict=True):
        if group in group_of:
            known = group_of[group]
            where = f"the {sides[known]} split of {SOURCE_PROMPTS}"
            why = f"'{known}' is in {where}: it and near-duplicates cannot be evaluated on"
            raise BadInput(file, why, row=prompt.row, key=column)


def refuse_foreign(file: Path, prompts: list[Prompt], column: str) -> None:
    """BadInput for a prompt outside the shapes world, which the gold judge cannot judge."""
    for prompt in prompts:
        try:
            scene_of(prompt.text)
        except ValueError as error:
            why = f"{error}; the gold judge cannot judge its clips: take gold out of evaluate.judges"
            raise BadInput(file, why, row=prompt.row, key=column) from error


def count_prompts(params: Params) -> int:
    """Upper bound of the number of evaluation prompts. BadInput where it is all prompts and their file is missing."""
    sample = params.sample
    if sample.prompts is not None:
        return sample.prompts
    if sample.prompt_set != NO_PROMPT_SET:
        return len({prompt.prompt_id for prompt in read_prompt_set(Path(sample.prompt_set), sample.column)})
    return list(split_prompts(read_prompts(SOURCE_PROMPTS), params.split).values()).count("test")
