"""Stage pairs: annotations and clips become labelled pairs, split by prompt."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.contracts import CLIPS, DIMENSIONS, JUDGE, PAIRS, PAIRS_METRICS, SOURCE_ANNOTATIONS, SOURCE_PROMPTS
from components.errors import BadInput
from components.files.tables import read_table, write_table
from components.pipeline.stage import Stage, stage_main, write_json
from components.preferences.agreement import agreement, decide, decide_part, shares
from components.preferences.judge_half import judge_annotators, judge_prompts
from components.preferences.schema import REVIEWER, Annotation, group_by_pair, read_annotations, read_prompts
from components.preferences.split import SPLITS, Split, split_prompts
from components.schemas import PAIRS_SCHEMA, VERDICTS_SCHEMA


def pairs(stage: Stage) -> None:
    """Reads data/source/annotations.csv, prompts.csv and data/clips.parquet. Writes data/pairs, a table a split, and
    metrics/pairs.json. With `judge_reward.held_out`, pairs of a share of the prompts are in data/pairs/judge alone, or
    labels of a share of the annotators are.

    Fails with BadInput for an annotation of a missing or broken clip, annotators who contradict themselves, a dimension
    without labels, and a split without pairs. It takes seconds, and a killed run starts anew.
    """
    annotations = read_annotations(SOURCE_ANNOTATIONS)
    need_labels(annotations, stage.params.reward.dimensions)
    views, dropped = group_by_pair(SOURCE_ANNOTATIONS, annotations)
    if dropped:
        stage.say(f"{dropped} rows dropped: they repeat an earlier row of the same annotator and pair")
    clips = {clip["clip"]: clip for clip in read_table(CLIPS, VERDICTS_SCHEMA)}
    usable = [pair for pair in views if usable_clips(clips, pair)]
    if len(usable) < len(views):
        stage.say(f"{len(views) - len(usable)} of {len(views)} pairs have a clip that the rules of curate rejected")
    rows = [labelled_pair(pair) for pair in usable]
    folder = stage.output(PAIRS)
    folder.mkdir()
    # The split covers all prompts of the source, so that prompts of later stages fall on the same sides.
    split = split_prompts([*read_prompts(SOURCE_PROMPTS), *(row["prompt"] for row in rows)], stage.params.split)
    held_out = stage.params.judge_reward.held_out
    own, judges = rows, []
    if share := held_out.get("prompts"):
        aside = judge_prompts(split, stage.params.split, share)
        own, judges = ([row for row in rows if (row["prompt"] in aside) == theirs] for theirs in (False, True))
    elif share := held_out.get("annotators"):
        people = judge_annotators({view.annotator for pair in usable for view in pair}, stage.params.split.seed, share)
        own, judges = (labelled_by(usable, people, theirs) for theirs in (False, True))
    counts = write_splits(folder, own, split)
    report: dict[str, Any] = {
        "splits": counts,
        "pairs": len(rows),
        "prompts": len({row["prompt"] for row in rows}),
        "duplicate_rows_dropped": dropped,
        "pairs_rejected_by_rules": len(views) - len(usable),
        "decided_by": dict(Counter(row["decided_by"] for row in rows)),
        "dimensions": {dimension: shares([row[dimension] for row in rows]) for dimension in DIMENSIONS},
        "generators": by_generator(rows),
        "krippendorff_alpha": agreement(usable),
    }
    if held_out:
        (folder / JUDGE).mkdir()
        report["judge_splits"] = write_splits(folder / JUDGE, judges, split)
    write_json(stage.output(PAIRS_METRICS), report)
    stage.log({"pairs": len(rows)} | {f"tie_share/{key}": value["tie_share"] for key, value in known(report).items()})
    stage.say(f"{len(rows)} pairs over {report['prompts']} prompts: {sizes(counts)}")
    if held_out:
        stage.say(f"the judge's alone: {sizes(report['judge_splits'])}")


def write_splits(folder: Path, rows: list[dict], split: Mapping[str, Split]) -> dict[str, dict[str, int]]:
    """Write rows of PAIRS_SCHEMA to a table a split; by split, numbers of pairs and prompts. BadInput for an empty one."""
    counts = {}
    for name in SPLITS:
        chosen = [row for row in rows if split[row["prompt"]] == name]
        if not chosen:  # later stages would compute metrics over nothing
            whose = " for the judge (judge_reward.held_out)" if folder.name == JUDGE else ""
            raise BadInput(SOURCE_ANNOTATIONS, f"no pair falls into split '{name}'{whose} (of {len(rows)})", key=name)
        write_table(folder / f"{name}.parquet", chosen, PAIRS_SCHEMA)
        counts[name] = {"pairs": len(chosen), "prompts": len({row["prompt"] for row in chosen})}
    return counts


def sizes(counts: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{name} {count['pairs']}" for name, count in counts.items())


def need_labels(annotations: list[Annotation], dimensions: list[str]) -> None:
    """BadInput where a dimension that the reward model is to learn has neither labels nor ratings."""
    there = {name for view in annotations for name in DIMENSIONS if view.labels[name] is not None}
    rated = {name for view in annotations for name in DIMENSIONS if view.ratings_A[name] is not None}
    for dimension in dimensions:
        if dimension not in there | rated:
            labelled = ", ".join(name for name in DIMENSIONS if name in there)
            why = f"no labels of this dimension of reward.dimensions; there are labels of {labelled}"
            raise BadInput(SOURCE_ANNOTATIONS, why, key=dimension)


def usable_clips(clips: dict[str, dict], views: list[Annotation]) -> bool:
    """Whether both clips of a pair passed the rules. BadInput when one is missing or broken."""
    first = views[0]
    for column, path in (("path_A", first.path_A), ("path_B", first.path_B)):
        if path not in clips:
            raise BadInput(SOURCE_ANNOTATIONS, f"no such video: {path}", row=first.row, key=column)
        if clips[path]["status"] == "broken":
            raise BadInput(SOURCE_ANNOTATIONS, f"video {path}: {clips[path]['reason']}", row=first.row, key=column)
    return all(clips[path]["status"] == "ok" for path in (first.path_A, first.path_B))


def labelled_by(pairs: list[list[Annotation]], people: set[str], theirs: bool) -> list[dict]:
    """Rows of PAIRS_SCHEMA by the annotators among `people`, or by all others; without pairs that these left undecided."""
    rows = []
    for views in pairs:
        part = [view for view in views if (view.annotator in people) == theirs]
        if any(view.annotator != REVIEWER for view in part):
            row = pair_row(part, *decide_part(part))
            rows += [row] if any(row[dimension] is not None for dimension in DIMENSIONS) else []
    return rows


def labelled_pair(views: list[Annotation]) -> dict:
    """A row of PAIRS_SCHEMA from all annotations of one pair."""
    return pair_row(views, *decide(SOURCE_ANNOTATIONS, views))


def pair_row(views: list[Annotation], labels: dict[str, int | None], decided_by: str) -> dict:
    """A row of PAIRS_SCHEMA with these labels."""
    first = views[0]
    return {
        # The id does not depend on which side each clip is on.
        "pair_id": hashlib.sha256("\n".join(first.pair).encode()).hexdigest()[:16],
        "prompt": first.prompt,
        "path_A": first.path_A,
        "path_B": first.path_B,
        "model_A": first.model_A,
        "model_B": first.model_B,
        **labels,
        **mean_ratings(views),
        "decided_by": decided_by,
        "annotators": [view.annotator for view in views],
        "rows": [view.row for view in views],
    }


def mean_ratings(views: list[Annotation]) -> dict[str, float | None]:
    """Mean opinion scores, the rating columns of PAIRS_SCHEMA: over the given ratings, None without any."""
    means = {}
    ratings = [view.ratings for view in views]
    for column in ratings[0]:
        given = [rating for rated in ratings if (rating := rated[column]) is not None]
        means[column] = sum(given) / len(given) if given else None
    return means


def by_generator(rows: list[dict]) -> dict[str, dict]:
    """Per generator, where pairs name theirs: number of pairs, share of them on side A, and per dimension the win rate
    against others, a tie one half. Labels are only as balanced as these shares."""
    found: dict[str, dict] = {}
    for name in sorted({row[f"model_{side}"] for row in rows for side in "AB"} - {None}):
        own = [row for row in rows if name in (row["model_A"], row["model_B"]) and row["model_A"] != row["model_B"]]
        signs = [1 if row["model_A"] == name else -1 for row in own]
        wins = {}
        for dimension in DIMENSIONS:
            labels = [sign * row[dimension] for sign, row in zip(signs, own, strict=True) if row[dimension] is not None]
            wins[dimension] = 0.5 + sum(labels) / len(labels) / 2 if labels else None
        found[name] = {"pairs": len(own), "A_share": signs.count(1) / len(own) if own else None, "win_rate": wins}
    return found


def known(report: dict) -> dict[str, dict]:
    """Dimensions with labels."""
    return {key: value for key, value in report["dimensions"].items() if value["labelled"]}


if __name__ == "__main__":
    stage_main("pairs", pairs)
