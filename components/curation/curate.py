"""Stage curate: measure every clip of data/source/videos, then apply the rules of params to the measures."""

from collections import Counter
from functools import partial
from pathlib import Path

from components.curation.manifest import CLIPS_SCHEMA, MEASURES
from components.curation.measures import measure_clip
from components.engine import map_rows
from components.errors import BadInput
from components.params import Rule
from components.stage import Stage, run_stage, write_json
from components.tables import write_table

VIDEOS = Path("data/source/videos")


def curate(stage: Stage) -> None:
    params = stage.params.curate
    check_rules(params.rules)
    files = sorted(path.relative_to(VIDEOS).as_posix() for path in VIDEOS.rglob("*") if path.is_file())
    if not files:
        raise BadInput(VIDEOS, "no files")
    measured = map_rows(
        partial(measure_clip, folder=str(VIDEOS)),
        [{"clip": file} for file in files],
        params.workers,
        params.chunk,
        stage.state(),
        stage.progress,
        "clips",
        params.engine,
    )
    clips = [apply_rules(clip, params.rules) for clip in measured]
    write_table(stage.output("data/clips.parquet"), clips, CLIPS_SCHEMA)
    status = Counter(clip["status"] for clip in clips)
    for clip in [clip for clip in clips if clip["status"] == "broken"][:5]:
        stage.say(f"broken: {clip['clip']}: {clip['reason']}")
    readable = [clip for clip in clips if clip["status"] != "broken"]
    report = {
        "clips": len(clips),
        "status": {name: status[name] for name in ("ok", "rejected", "broken")},
        "seconds": sum(clip["duration"] for clip in readable),
        "sizes": len({(clip["width"], clip["height"]) for clip in readable}),
        "rates": len({clip["fps"] for clip in readable}),
    }
    write_json(stage.output("metrics/curate.json"), report)
    stage.log({"clips": len(clips), "broken": status["broken"], "rejected": status["rejected"]})
    stage.say(f"{len(clips)} clips, {status['rejected']} rejected by rules, {status['broken']} broken")


def check_rules(rules: dict[str, Rule]) -> None:
    for column in rules:
        if column not in MEASURES:
            raise BadInput("params.yaml", f"no such measure; there are {', '.join(MEASURES)}", key=f"curate.rules.{column}")


def apply_rules(clip: dict, rules: dict[str, Rule]) -> dict:
    """The clip with status `rejected` and a reason if a measure is outside a rule's range, bounds included in it.

    A measure that a clip does not have (a single frame has no motion) does not pass a rule on it.
    """
    if clip["status"] == "broken":
        return clip
    for column, rule in rules.items():
        value = clip[column]
        if value is None:
            return clip | {"status": "rejected", "reason": f"{column} is not defined"}
        if rule.min is not None and value < rule.min:
            return clip | {"status": "rejected", "reason": f"{column} {value:.4g} below {rule.min:g}"}
        if rule.max is not None and value > rule.max:
            return clip | {"status": "rejected", "reason": f"{column} {value:.4g} above {rule.max:g}"}
    return clip


if __name__ == "__main__":
    run_stage("curate", curate)
