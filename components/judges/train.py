"""Stage `judge_reward`: a second VideoReward that judges generators, and its card of agreement with people.

It has the settings of `reward`, and learns from the pairs that stage `pairs` keeps for it. Reward and alignment read none of
them, so the judge's errors are not those that alignment learnt to please.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.config.params import RewardParams
from components.contracts import JUDGE, JUDGE_REWARD, NO_LABEL, PAIRS, SOURCE_VIDEOS
from components.errors import BadInput
from components.judges.card import CARD, write_card
from components.judges.check import Settings, as_lines, check_judge
from components.judges.judges import parse
from components.judges.model import ModelJudge, is_reward
from components.judges.protocol import Context
from components.pipeline.stage import Stage, folder_digest, stage_main
from components.reward.card import Norm, PlanCard, RewardCard
from components.reward.frame_cache import cached_clips
from components.reward.layouts import VIDEOGEN, Labelled
from components.reward.losses import NEED_RATINGS
from components.reward.pairs import Pairs, need_ratings, read_pairs
from components.reward.score import with_overall
from components.reward.scores import score_names
from components.reward.train import (
    build,
    distinct_scores,
    normalisation,
    pair_inputs,
    pair_lengths,
    pair_loss_fn,
    parameter_groups,
    prepare,
    reference,
    score_pairs,
)
from components.runtime.training import fit, write_rows
from components.statistics.accuracy import fit_tie_threshold
from components.video.frames import FramePlan
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
    train(stage, params, folder)
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


def train(stage: Stage, params: RewardParams, folder: Path) -> None:
    """Train on the judge's pairs and save the model with its card, as stage `reward` does on its own."""
    torch.manual_seed(stage.seed("weights") % 2**32)  # of LoRA
    model = build(params)
    plan = FramePlan(**params.frames.model_dump(), factor=model.patch_shape.factor)
    learnt, validation = (read_pairs(f"{JUDGE}/{split}", params.dimensions) for split in ("train", "validation"))
    judged = read_pairs(f"{JUDGE}/validation", score_names(params.dimensions))
    if params.loss in NEED_RATINGS:
        need_ratings(learnt, params.dimensions)
    clips = cached_clips(stage, [learnt, validation], plan, params.decode_threads)

    prepare(model, params)
    inputs = pair_inputs(model, learnt, clips)
    loss_fn = pair_loss_fn(model, inputs, learnt, params)
    groups, lengths = parameter_groups(model, params), pair_lengths(inputs)
    rows = fit(stage, model, loss_fn, len(learnt), params.training, groups=groups, lengths=lengths, offload=params.offload)
    model.merge(params.dtype)

    scores = score_pairs(model, validation, clips, params.token_budget)  # [2, N, D]
    distinct = distinct_scores(scores, validation)
    mean, std = normalisation(distinct, validation)
    differences = with_overall((scores[0] - scores[1]) / std, params.dimensions)
    thresholds = {}
    for column, name in enumerate(score_names(params.dimensions)):
        known = judged.labels[:, column] != NO_LABEL
        found = fit_tie_threshold(judged.labels[known, column], differences[known, column])[0] if known.any() else None
        thresholds[name] = found
    card = RewardCard(
        dimensions=params.dimensions,
        readout=params.readout,
        head=params.head,
        head_trained=True,
        loss=params.loss,
        theta=params.theta,
        positions=params.positions,
        template=model.prompts.template,
        dtype=params.dtype,
        frame_plan=PlanCard(**params.frames.model_dump(), factor=plan.factor),
        normalisation={
            name: Norm(mean=float(m), std=float(s)) for name, m, s in zip(params.dimensions, mean, std, strict=True)
        },
        reference=reference((distinct - mean) / std, params.dimensions),
        tie_thresholds=thresholds,
        provenance={
            "base": params.base,
            "base_digest": folder_digest(params.base) if Path(params.base).exists() else None,
            "pairs_digest": folder_digest(PAIRS / JUDGE),
            "train_pairs": len(learnt),
            "validation_pairs": len(validation),
            "steps": params.training.steps,
            "stage_digest": stage.digest,
        },
    )
    model.save(folder, card)
    write_rows(folder / "training.csv", rows)


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
