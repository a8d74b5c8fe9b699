"""Stage curate: measures become a verdict. Near-duplicates are found, a reward model's scores joined, rules applied.

No clip is decoded here: a changed threshold costs seconds.
"""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from components.curation.duplicates import find_duplicates
from components.curation.manifest import CLIPS_SCHEMA, MEASURES_SCHEMA, numbers
from components.errors import BadInput
from components.params import Rule
from components.preferences.paths import clip_path
from components.reward.score_rows import MADE_BY, score_in, score_rows
from components.stage import Stage, run_stage, write_json
from components.tables import read_table, write_table

MEASURES = Path("data/measures.parquet")
VIDEOS = "data/source/videos/"
NOT_SCORES = ("path", "prompt", "status", "reason", "frame_plan", "reward_model")


def curate(stage: Stage) -> None:
    params = stage.params.curate
    clips = read_table(MEASURES, MEASURES_SCHEMA)
    scores, columns = read_scores(Path(params.scores))
    unknown = scores.keys() - {clip["clip"] for clip in clips}
    if unknown:
        raise BadInput(params.scores, f"{len(unknown)} scores of no clip of {VIDEOS}, the first: {min(unknown)}", key="path")
    schema = pa.schema([*CLIPS_SCHEMA, *(pa.field(name, kind) for name, kind in columns.items())])
    check_rules(params.rules, numbers(schema))

    names = [clip["clip"] for clip in clips]
    groups = find_duplicates([clip["phash"] for clip in clips], [clip["phash_mirrored"] for clip in clips])
    for clip, group in zip(clips, groups, strict=True):
        for key in ("duplicate_of", "mirror_of"):
            clip[key] = None if group[key] is None else names[group[key]]
        clip["copy"] = group["copy"]
        clip |= scores.get(clip["clip"], dict.fromkeys(columns))
        clip["status"], clip["reason"] = verdict(clip, params.rules)
    write_table(stage.output("data/clips.parquet"), clips, schema)

    status = Counter(clip["status"] for clip in clips)
    readable = [clip for clip in clips if clip["status"] != "broken"]
    report = {
        "clips": len(clips),
        "status": {name: status[name] for name in ("ok", "rejected", "broken")},
        "rejected_by": dict(Counter(clip["reason"].split()[0] for clip in clips if clip["status"] == "rejected")),
        "near_duplicates": sum(clip["duplicate_of"] is not None for clip in clips),
        "mirrored": sum(clip["mirror_of"] is not None for clip in clips),
        "scored": len(scores),
        "seconds": sum(clip["duration"] for clip in readable),
        "sizes": len({(clip["width"], clip["height"]) for clip in readable}),
        "rates": len({clip["fps"] for clip in readable}),
    }
    write_json(stage.output("metrics/curate.json"), report)
    stage.log({key: report[key] for key in ("clips", "near_duplicates", "mirrored")} | report["status"])
    stage.say(
        f"{len(clips)} clips, {status['rejected']} rejected by rules, {status['broken']} broken;"
        f" {report['near_duplicates']} near-duplicates of another, {report['mirrored']} mirrored"
    )


def read_scores(file: Path) -> tuple[dict[str, dict], dict[str, pa.DataType]]:
    """Scores by clip from a table that `reelign score --out` wrote, and the columns they bring: reward_VQ and so on.

    Paths are relative to the source's videos, or to the checkout, or absolute. A video that could not be scored has no row
    here, so that no rule on a score lets it pass. BadInput when a clip is scored twice, or a score is no finite number.
    """
    scores: dict[str, dict] = {}
    columns: dict[str, pa.DataType] = {}
    for row, cells in score_rows(file, ("path", "status")):
        measured = [column for column in cells if column not in NOT_SCORES]
        if measured and "reward_model" not in cells:
            raise BadInput(file, f"missing column; {MADE_BY}", key="reward_model")
        columns = {f"reward_{column}": pa.float64() for column in measured}
        if measured:
            columns["reward_model"] = pa.string()
        try:
            clip = clip_path(cells["path"], VIDEOS).removeprefix(VIDEOS)
        except ValueError as error:
            raise BadInput(file, str(error), row=row, key="path") from error
        if clip in scores:
            raise BadInput(file, f"{clip} is scored twice", row=row, key="path")
        if cells["status"] == "ok":
            scores[clip] = {f"reward_{column}": score_in(file, row, cells, column) for column in measured}
            scores[clip]["reward_model"] = cells["reward_model"]
    return scores, columns


def check_rules(rules: dict[str, Rule], known: list[str]) -> None:
    for column in rules:
        if column not in known:
            raise BadInput("params.yaml", f"no such measure; there are {', '.join(known)}", key=f"curate.rules.{column}")


def verdict(clip: dict, rules: dict[str, Rule]) -> tuple[str, str | None]:
    """Status and reason: `rejected` if a measure is outside a rule's range, bounds included in it.

    A measure that a clip does not have (a single frame has no motion) does not pass a rule on it.
    """
    if clip["broken"] is not None:
        return "broken", clip["broken"]
    for column, rule in rules.items():
        value = clip[column]
        if value is None:
            return "rejected", f"{column} is not defined"
        if rule.min is not None and value < rule.min:
            return "rejected", f"{column} {value:.4g} below {rule.min:g}"
        if rule.max is not None and value > rule.max:
            return "rejected", f"{column} {value:.4g} above {rule.max:g}"
    return "ok", None


if __name__ == "__main__":
    run_stage("curate", curate)
