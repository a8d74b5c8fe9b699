"""The prompts of a split, as many as a stage uses."""

from components.contracts import SOURCE_PROMPTS
from components.errors import BadInput
from components.pipeline.stage import Stage
from components.preferences.schema import read_prompts
from components.preferences.split import split_prompts


def sampled_prompts(stage: Stage, split: str, count: int | None) -> list[tuple[str, str]]:
    """(prompt_id, prompt) of `count` prompts of a split of SOURCE_PROMPTS, sampled by the run's seed; None is all.

    Where the split has fewer, all are used, with a log line. The id is the prompt's index in the file.
    """
    prompts = read_prompts(SOURCE_PROMPTS)
    sides = split_prompts(prompts, stage.params.split)
    pool = [(f"p{place:05d}", prompt) for place, prompt in enumerate(prompts) if sides[prompt] == split]
    if not pool:
        raise BadInput(SOURCE_PROMPTS, f"no prompt falls into the {split} split")
    if len(pool) < (count or 0):
        stage.say(f"{count} prompts requested, the {split} split has {len(pool)}: all are used")
    # One order for all stages: a prompt set of 120 is part of one of 200.
    order = stage.shared_rng("prompts", split).permutation(len(pool))[:count]
    return [pool[i] for i in sorted(order)]
