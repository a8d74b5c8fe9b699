"""Stage `relabel`: VideoReward scores the candidates; the best and the worst of a prompt become a pair.

The paper relabels offline with its reward model, by the mean of the three dimensions. Scores of all candidates are kept
beside the pairs: thresholds and weights can change without decoding a video again. A few pairs are copied with their
clips to data/duels, for inspection.
"""

import shutil
from itertools import combinations
from pathlib import Path

import pandas as pd
import pyarrow as pa

from components.alignment.candidates import FOLDER
from components.alignment.candidates import SCHEMA as CANDIDATES
from components.errors import BadInput
from components.params import RelabelParams
from components.reward.score import RewardModel, score_table
from components.stage import Stage, run_stage
from components.tables import read_table, spread, write_table


def relabel(stage: Stage) -> None:
    scores, pairs, dimensions = label(stage, FOLDER)
    write_table(stage.output("data/candidate_scores.parquet"), scores, score_schema(dimensions))
    write_table(stage.output("data/alignment_pairs.parquet"), pairs, pair_schema(dimensions))
    paths = {row["candidate_id"]: row["path"] for row in read_table(FOLDER / "candidates.parquet", CANDIDATES)}
    set_apart(stage.output("data/duels"), pairs, paths, stage.params.relabel.duels, dimensions)


def label(stage: Stage, folder: Path) -> tuple[list[dict], list[dict], list[str]]:
    """Scores of the candidates in `folder`, the pairs they make, and the reward model's dimensions."""
    params = stage.params.relabel
    model = RewardModel.load("models/video_reward")
    unknown = sorted(set(params.weights) - set(model.dimensions))
    if unknown:
        why = f"the reward model has only {', '.join(model.dimensions)}"
        raise BadInput("params.yaml", why, key=f"relabel.weights.{unknown[0]}")
    rows = pd.DataFrame(read_table(folder / "candidates.parquet", CANDIDATES))
    table = score_table(stage, model, rows, root=folder)
    failed = table[table.status != "ok"]
    if len(failed):
        raise BadInput(folder / failed.path.iloc[0], failed.reason.iloc[0])

    scores = [
        {
            "candidate_id": row.candidate_id,
            "prompt_id": row.prompt_id,
            "prompt": row.prompt,
            **{name: float(table[name].iloc[place]) for name in model.dimensions},
            "reward": reward(table.iloc[place], params),
            "reward_model": model.version,
            "frame_plan": str(model.plan),
        }
        for place, row in enumerate(rows.itertuples())
    ]
    pairs = choose_pairs(scores, params)
    if not pairs:
        raise BadInput(folder, "no pair has a margin above the minimum", key="relabel.min_margin")
    margins = [pair["margin"] for pair in pairs]
    ties = sum(pair["tied"] for pair in pairs)
    stage.log({"pairs": len(pairs), "ties": ties, "mean_margin": sum(margins) / len(margins)})
    stage.say(f"{len(pairs)} pairs, {ties} of them ties, mean margin {sum(margins) / len(margins):.2f}")
    return scores, pairs, model.dimensions


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
    shared = ("prompt_id", "prompt", "reward_model", "frame_plan")
    ids = {"chosen": better["candidate_id"], "rejected": worse["candidate_id"]}
    scores = {}
    for side, row in (("chosen", better), ("rejected", worse)):
        scores |= {f"{side}_{key}": value for key, value in row.items() if isinstance(value, float)}
    return {key: better[key] for key in shared} | ids | scores | {"margin": better["reward"] - worse["reward"]}


def set_apart(folder: Path, pairs: list[dict], paths: dict[str, str], wanted: int, dimensions: list[str]) -> None:
    """Clips and a table of some pairs, evenly spaced from the narrowest margin to the widest."""
    folder.mkdir(parents=True)
    ranked = sorted(pairs, key=lambda pair: (pair["margin"], pair["chosen"], pair["rejected"]))
    duels = []
    for at in spread(len(ranked), wanted):
        files = {}
        for side in ("chosen", "rejected"):
            files[f"{side}_path"] = f"{len(duels):02d}-{side}.mp4"
            shutil.copyfile(FOLDER / paths[ranked[at][side]], folder / files[f"{side}_path"])
        duels.append(ranked[at] | files)
    schema = pair_schema(dimensions)
    for side in ("chosen", "rejected"):
        schema = schema.append(pa.field(f"{side}_path", pa.string()))  # below data/duels
    write_table(folder / "duels.parquet", duels, schema)


def score_schema(dimensions: list[str]) -> pa.Schema:
    numbers = [(name, pa.float64()) for name in (*dimensions, "reward")]
    text = [(name, pa.string()) for name in ("candidate_id", "prompt_id", "prompt", "reward_model", "frame_plan")]
    return pa.schema([*text[:3], *numbers, *text[3:]])


def pair_schema(dimensions: list[str]) -> pa.Schema:
    numbers = [f"{side}_{name}" for side in ("chosen", "rejected") for name in (*dimensions, "reward")] + ["margin"]
    text = ("prompt_id", "prompt", "chosen", "rejected", "reward_model", "frame_plan")
    fields = [(name, pa.string()) for name in text] + [(name, pa.float64()) for name in (*numbers, "weight")]
    return pa.schema([*fields, ("tied", pa.bool_())])


if __name__ == "__main__":
    run_stage("relabel", relabel)
