"""Stage `relabel`: VideoReward scores the candidates; the best and the worst of a prompt become a pair.

The paper relabels offline with its reward model, by the mean of the three dimensions. `relabel.sources` adds scorers that
run elsewhere (components/reward/external.py), whose dimensions `relabel.weights` names NAME.DIMENSION. Scores of all
candidates are kept beside the pairs: thresholds and weights can change without decoding a video again. A few pairs are
copied with their clips to data/example_pairs, for inspection.
"""

import shutil
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from components.config.params import RelabelParams
from components.contracts import ALIGNMENT_PAIRS, CANDIDATE_SCORES, CANDIDATES, EXAMPLE_PAIRS, VIDEO_REWARD
from components.errors import BadInput
from components.files.tables import read_table, spread, write_table
from components.pipeline.stage import Stage, stage_main
from components.reward.external import source_names, source_scores
from components.reward.score import RewardModel, score_table
from components.schemas import CANDIDATES_SCHEMA, alignment_pairs_schema, candidate_scores_schema
from components.video.limits import Limits


def relabel(stage: Stage) -> None:
    """Reads data/candidates and models/video_reward. Writes data/candidate_scores.parquet, data/alignment_pairs.parquet and
    data/example_pairs.

    Fails with BadInput for a clip without a score, a dimension that the model lacks, and where no pair is left. A killed run
    scores anew.
    """
    scores, pairs, dimensions = label(stage, CANDIDATES)
    write_table(stage.output(CANDIDATE_SCORES), scores, candidate_scores_schema(dimensions))
    write_table(stage.output(ALIGNMENT_PAIRS), pairs, alignment_pairs_schema(dimensions))
    paths = {row["candidate_id"]: row["path"] for row in read_table(CANDIDATES / "candidates.parquet", CANDIDATES_SCHEMA)}
    set_apart(stage.output(EXAMPLE_PAIRS), pairs, paths, stage.params.relabel.example_pairs, dimensions)


def label(stage: Stage, folder: Path) -> tuple[list[dict], list[dict], list[str]]:
    """Scores of the candidates in `folder`, the pairs they make, and the names of the scores."""
    scores, dimensions = score_candidates(stage, folder)
    pairs = choose_pairs(scores, stage.params.relabel)
    if not pairs:
        raise BadInput(folder, "no pair has a margin above the minimum", key="relabel.min_margin")
    margins = [pair["margin"] for pair in pairs]
    ties = sum(pair["tied"] for pair in pairs)
    stage.log({"pairs": len(pairs), "ties": ties, "mean_margin": sum(margins) / len(margins)})
    stage.say(f"{len(pairs)} pairs, {ties} of them ties, mean margin {sum(margins) / len(margins):.2f}")
    return scores, pairs, dimensions


def score_candidates(stage: Stage, folder: Path) -> tuple[list[dict], list[str]]:
    """Scores of the candidates in `folder`, and their names: the reward model's dimensions, then those of other sources.
    BadInput for a clip without a score."""
    params = stage.params.relabel
    model = RewardModel.load(VIDEO_REWARD, limits=Limits.of(stage.params.limits))
    names = [*model.dimensions, *source_names(params.sources)]
    unknown = sorted(set(params.weights) - set(names))
    if unknown:
        why = f"the reward model has only {', '.join(names)}"
        raise BadInput("params.yaml", why, key=f"relabel.weights.{unknown[0]}")
    rows = pd.DataFrame(read_table(folder / "candidates.parquet", CANDIDATES_SCHEMA))
    table = score_table(stage, model, rows, root=folder)
    failed = table[table.status != "ok"]
    if len(failed):
        raise BadInput(folder / failed.path.iloc[0], failed.reason.iloc[0])
    others = source_scores(stage, params.sources, rows, folder)

    clips: Iterable[Any] = rows.itertuples()
    scores = []
    for place, row in enumerate(clips):
        found = {name: float(table[name].iloc[place]) for name in model.dimensions}
        found |= {name: float(values[place]) for name, values in others.values.items()}
        scores.append(
            {
                "candidate_id": row.candidate_id,
                "prompt_id": row.prompt_id,
                "prompt": row.prompt,
                **found,
                "reward": reward(found, params),
                "reward_model": model.version,
                "frame_plan": str(model.plan),
                **({"sources": others.stamp} if others.values else {}),
            }
        )
    return scores, names


def reward(scores: dict[str, float], params: RelabelParams) -> float:
    """Weighted mean of normalised scores: it ranks the clips of a pair and sets Flow-RWR's weights."""
    total = sum(params.weights.values())
    return float(sum(weight * scores[name] for name, weight in params.weights.items()) / total)


def choose_pairs(scores: list[dict], params: RelabelParams) -> list[dict]:
    """Pairs of candidates of one prompt, the one with the higher reward chosen. "tied": their difference is within the
    margin and ties are kept; "weight": the pair's loss weight."""
    pairs = []
    for _, group in pd.DataFrame(scores).groupby("prompt_id", sort=True):
        ranked = group.sort_values(["reward", "candidate_id"], ascending=[False, True]).to_dict("records")
        couples = [(ranked[0], ranked[-1])] if params.choose == "best_worst" else combinations(ranked, 2)
        pairs += [pair_of(better, worse) for better, worse in couples]
    for pair in pairs:
        pair["tied"] = pair["margin"] <= params.min_margin
    pairs = [pair for pair in pairs if params.ties == "keep" or not pair["tied"]]
    margins = [pair["margin"] for pair in pairs if not pair["tied"]]
    for pair in pairs:
        by_margin = params.choose == "margin_weighted" and not pair["tied"]
        pair["weight"] = pair["margin"] * len(margins) / sum(margins) if by_margin else 1.0
    return pairs if margins else []


def pair_of(better: dict, worse: dict) -> dict:
    shared = [key for key in ("prompt_id", "prompt", "reward_model", "frame_plan", "sources") if key in better]
    ids = {"chosen": better["candidate_id"], "rejected": worse["candidate_id"]}
    scores = {}
    for side, row in (("chosen", better), ("rejected", worse)):
        scores |= {f"{side}_{key}": value for key, value in row.items() if isinstance(value, float)}
    return {key: better[key] for key in shared} | ids | scores | {"margin": better["reward"] - worse["reward"]}


def set_apart(folder: Path, pairs: list[dict], paths: dict[str, str], wanted: int, dimensions: list[str]) -> None:
    """Clips and a table of some pairs, evenly spaced from the narrowest margin to the widest."""
    folder.mkdir(parents=True)
    ranked = sorted(pairs, key=lambda pair: (pair["margin"], pair["chosen"], pair["rejected"]))
    example_pairs = []
    for at in spread(len(ranked), wanted):
        files = {}
        for side in ("chosen", "rejected"):
            files[f"{side}_path"] = f"{len(example_pairs):02d}-{side}.mp4"
            shutil.copyfile(CANDIDATES / paths[ranked[at][side]], folder / files[f"{side}_path"])
        example_pairs.append(ranked[at] | files)
    schema = alignment_pairs_schema(dimensions)
    for side in ("chosen", "rejected"):
        schema = schema.append(pa.field(f"{side}_path", pa.string()))  # below data/example_pairs
    write_table(folder / "example_pairs.parquet", example_pairs, schema)


if __name__ == "__main__":
    stage_main("relabel", relabel)
