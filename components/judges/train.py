"""Stage `judge_reward`: a second VideoReward that judges generators, and its card of agreement with people.

It has the settings of `reward`, and learns from the pairs that stage `pairs` keeps for it. Reward and alignment read none of
them, so the judge's errors are not those that alignment learnt to please.
"""

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from components.config.params import RewardParams
from components.contracts import JUDGE, JUDGE_REWARD, NO_LABEL, PAIRS, SOURCE_VIDEOS
from components.errors import BadInput
from components.judges.card import CARD, write_card
from components.judges.check import Settings, as_lines, check_judge
from components.judges.judges import parse
from components.judges.model import ModelJudge, is_reward
from components.judges.protocol import Context
from components.pipeline.stage import Stage, stage_main
from components.reward.layouts import VIDEOGEN, Labelled
from components.reward.pairs import Pairs, read_pairs
from components.reward.scores import score_names
from components.reward.train import train
from components.video.limits import Limits


def judge_reward(stage: Stage) -> None:
    """Reads the backbone `reward.base`, data/pairs/judge and their videos. Writes models/judge_reward with judge_card.json.

    Fails with BadInput where `reward.base` is a VideoReward, and as stage `reward` does. Resumes from the frame cache and
    the last checkpoint of `fit`; the card is measured anew.
    """
    params: RewardParams = stage.params.reward
    if is_reward(params.base):
        why = f"{params.base} is a VideoReward, which the reward model learns from too: a judge must start from a backbone"
        raise BadInput("params.yaml", why, key="reward.base")
    folder = stage.output(JUDGE_REWARD)
    train(stage, params, PAIRS / JUDGE).save(folder)
    spec = parse(f"model:{JUDGE_REWARD}")

    def progress(items: Iterable[Any], what: str, total: int) -> Iterable[Any]:
        return stage.progress(items, what, total=total)

    limits = Limits.of(stage.params.limits)
    judge = ModelJudge(str(spec), spec.key, folder, Context(limits, progress=progress))
    people = labelled(read_pairs(f"{JUDGE}/test", score_names(params.dimensions)), score_names(params.dimensions))
    settings = Settings(repeat_pairs=0, rounds=stage.params.reward_bench.bootstrap)
    card, leads = check_judge(judge, people, SOURCE_VIDEOS, limits, settings)
    if card.failures:
        place = int(np.flatnonzero(~leads.judged)[0])
        raise BadInput(people.file, f"the judge has no score: {leads.reasons[place]}", row=people.rows[place])
    write_card(folder / CARD, card)
    for line in as_lines(card):
        stage.say(line)


def labelled(pairs: Pairs, questions: list[str]) -> Labelled:
    """Pairs of the pipeline as a benchmark has them: each question has the score of its name. `rows` are those of the
    annotations."""
    labels = {name: pairs.labels[:, column] for column, name in enumerate(questions)}
    return Labelled(
        file=pairs.file,
        layout=VIDEOGEN,
        rows=pairs.rows,
        prompts=pairs.prompts,
        paths=(pairs.paths_a, pairs.paths_b),
        models=(pairs.models_a, pairs.models_b),
        labels={name: column for name, column in labels.items() if (column != NO_LABEL).any()},
        score_of={name: name for name, column in labels.items() if (column != NO_LABEL).any()},
        votes={},
        repeats=0,
    )


if __name__ == "__main__":
    stage_main(f"judge_reward@{sys.argv[1]}", judge_reward)
