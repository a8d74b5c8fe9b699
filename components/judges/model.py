"""Judge `model:FOLDER`: a VideoReward that alignment did not use, ours or in the published layout.

The published layout has no prompt template: here it lies in the folder as template.txt.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.errors import BadInput
from components.files.digests import file_digest, files_below
from components.judges.card import CARD as JUDGE_CARD
from components.judges.protocol import REASON, Context, JudgedClip, JudgeFacts, in_order
from components.pipeline.stage import how_to_get
from components.reward.card import CARD, read_card
from components.reward.inputs import Clip
from components.reward.learnt import read_learnt
from components.reward.published import is_published, published_version
from components.reward.score import RewardModel
from components.reward.scores import Unscored, score_names

TEMPLATE = "template.txt"


class ModelJudge:
    """Normalised scores of a VideoReward."""

    def __init__(self, name: str, key: str, folder: Path, context: Context):
        if not folder.is_dir():
            raise BadInput(folder, f"no such folder of a judge; {how_to_get(folder)}")
        identity = identity_of(folder)
        if context.reward is not None:
            refuse_kin(folder, context.reward)
        template = folder / TEMPLATE if is_published(folder) else None
        self.model = RewardModel.load(folder, template=template, limits=context.limits)
        self.context = context
        self.facts = JudgeFacts(
            name=name,
            key=key,
            title=f"the held-out VideoReward {folder.name}",
            identity=identity,
            dimensions=in_order(score_names(self.model.dimensions)),
            unit="standard deviations of its validation clips",
            tie_width=1e-9,
        )

    def score(self, clips: Sequence[JudgedClip]) -> pd.DataFrame:
        def items(clip: JudgedClip) -> tuple[Any, str]:
            return clip.video if clip.frames is None else Clip(clip.frames, clip.fps or 1.0), clip.prompt

        scores = self.model.score(
            [items(clip) for clip in clips], lambda videos: self.context.progress(videos, "judge", len(clips))
        )
        rows = [
            {REASON: found.reason} if isinstance(found, Unscored) else {**found.normalised, "Overall": found.overall}
            for found in scores
        ]
        return pd.DataFrame(rows, columns=[*self.facts.dimensions, REASON])


def identity_of(folder: Path) -> str:
    """Digest of the model without its judge's card, which names it: folder_digest of a folder that has no such card."""
    if is_published(folder):
        return published_version(folder, folder / TEMPLATE)
    total = hashlib.sha256()
    for file in files_below(folder):
        if file.suffix != ".pyc" and file.name != JUDGE_CARD:
            total.update(f"{file.relative_to(folder)}:{file_digest(file)}".encode())
    return total.hexdigest()[:16]


def refuse_kin(folder: Path, reward: Path) -> None:
    """BadInput where a judge is the reward model that aligned the generators, or has learnt from it or from the same labels,
    as far as their cards tell: alignment was trained to please it."""
    own, other = records(folder), records(reward)
    told = "alignment was trained to please it, so it cannot judge the result"
    if own["digest"] == other["digest"]:
        raise BadInput(folder, f"is {reward}: {told}")
    if own["base"] == other["digest"] or other["base"] == own["digest"]:
        raise BadInput(folder, f"one of it and {reward} was trained on from the other: {told}")
    if own["pairs"] is not None and own["pairs"] == other["pairs"]:
        raise BadInput(folder, f"learnt from the labels that {reward} learnt from (pairs {own['pairs']}): {told}")
    if (labels := read_learnt(folder)) is not None and (others := read_learnt(reward)) is not None:
        shared = len(np.intersect1d(labels, others, assume_unique=True))
        if shared:
            raise BadInput(folder, f"learnt from {shared} of its {len(labels)} labels as {reward} did: {told}")
    if own["base"] is not None and own["base"] == other["base"] and is_reward(own["base_folder"]):
        raise BadInput(folder, f"was trained on from a VideoReward, {own['base_folder']}, as {reward} was: {told}")


def records(folder: Path) -> dict[str, Any]:
    """Lineage in a model's card: digest, base (digest), base_folder, pairs (digest); null where it has
    none, as in the published layout."""
    found: dict[str, Any] = {"digest": identity_of(folder), "base": None, "base_folder": None, "pairs": None}
    if not is_published(folder):
        provenance = read_card(folder).provenance
        found |= {"base": provenance.get("base_digest"), "base_folder": provenance.get("base")}
        found |= {"pairs": provenance.get("pairs_digest")}
    return found


def is_reward(folder: str | None) -> bool:
    """Whether a base is there and is itself a VideoReward; a plain backbone has learnt from nobody's preferences."""
    return folder is not None and ((Path(folder) / CARD).exists() or is_published(Path(folder)))
