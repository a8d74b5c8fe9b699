"""Stage curate: measures become a verdict. Near-duplicates are found, a reward model's scores joined, rules applied.

No clip is decoded here: a changed threshold costs seconds.
"""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from components.config.params import Rule
from components.contracts import CLIPS, MEASURES, SOURCE_VIDEOS
from components.curation.duplicates import find_duplicates
from components.errors import BadInput
from components.files.tables import read_table, write_table
from components.pipeline.stage import Stage, stage_main, write_json
from components.preferences.paths import clip_path
from components.reward.score_rows import read_score_rows
from components.schemas import CLIPS_SCHEMA, MEASURES_SCHEMA


def curate(stage: Stage) -> None:
    """Reads data/measures.parquet and the table `curate.scores`. Writes data/clips.parquet and metrics/curate.json.

    Fails with BadInput for a score that is not finite or of no clip, and for a rule on a column that there is not. It takes
    seconds, and a killed run starts anew.
    """
    params = stage.params.curate
    clips = read_table(MEASURES, MEASURES_SCHEMA)
    scores, columns = read_scores(Path(params.scores))
    unknown = scores.keys() - {clip["clip"] for clip in clips}
    if unknown:
        raise BadInput(
            params.scores, f"{len(unknown)} scores of no clip of {SOURCE_VIDEOS}/, the first: {min(unknown)}", key="path"
        )
    schema = pa.schema([*CLIPS_SCHEMA, *(pa.field(name, kind) for name, kind in columns.items())])
    check_rules(params.rules, numbers(schema))

    names = [clip["clip"] for clip in clips]
    groups = find_duplicates([clip["phash"] for clip in clips], [clip["phash_mirrored"] for clip in clips])
    for clip, group in zip(clips, groups, strict=True):
        for key in ("duplicate_of", "mirror_of"):
            place = group[key]
            clip[key] = None if place is None else names[place]
        clip["copy"] = group["copy"]
        clip |= scores.get(clip["clip"], dict.fromkeys(columns))
        clip["status"], clip["reason"] = verdict(clip, params.rules)
    write_table(stage.output(CLIPS), clips, schema)

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
    for row in read_score_rows(file, ("path", "status")):
        columns = {f"reward_{column}": pa.float64() for column in row.columns}
        if row.columns:
            row.need("reward_model")
            columns["reward_model"] = pa.string()
        try:
            clip = clip_path(row.path, SOURCE_VIDEOS).removeprefix(f"{SOURCE_VIDEOS}/")
        except ValueError as error:
            raise BadInput(file, str(error), row=row.row, key="path") from error
        if clip in scores:
            raise BadInput(file, f"{clip} is scored twice", row=row.row, key="path")
        if row.ok:
            scores[clip] = {f"reward_{column}": row.score(column) for column in row.columns}
            scores[clip]["reward_model"] = row.reward_model
    return scores, columns


def numbers(schema: pa.Schema) -> list[str]:
    """Columns that a rule can be about."""
    return [field.name for field in schema if field.type in (pa.float64(), pa.int32(), pa.int64())]


def check_rules(rules: dict[str, Rule], known: list[str]) -> None:
    for column in rules:
        if column not in known:
            raise BadInput("params.yaml", f"unknown measure; there are {', '.join(known)}", key=f"curate.rules.{column}")


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
    stage_main("curate", curate)
