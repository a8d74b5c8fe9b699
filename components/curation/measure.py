"""Stage measure: every clip of data/source/videos, decoded once and measured. What is good enough is decided after it."""

from functools import partial
from pathlib import Path

from components.curation.manifest import MEASURES_SCHEMA
from components.curation.measures import measure_clip
from components.digests import files_below
from components.engine import map_rows
from components.errors import BadInput
from components.stage import Stage, run_stage
from components.tables import write_table
from components.video.limits import Limits

VIDEOS = Path("data/source/videos")


def measure(stage: Stage) -> None:
    params, limits = stage.params.measure, Limits(**stage.params.limits.model_dump())
    files = sorted(path.relative_to(VIDEOS).as_posix() for path in files_below(VIDEOS))
    if not files:
        raise BadInput(VIDEOS, "no files")
    clips = map_rows(
        partial(measure_clip, folder=str(VIDEOS), optical_flow=params.optical_flow, limits=limits),
        [{"clip": file} for file in files],
        params.workers,
        params.chunk,
        stage.state(),
        stage.progress,
        "clips",
        params.engine,
    )
    write_table(stage.output("data/measures.parquet"), clips, MEASURES_SCHEMA)
    broken = [clip for clip in clips if clip["broken"]]
    for clip in broken[:5]:
        stage.say(f"broken: {clip['clip']}: {clip['broken']}")
    stage.log({"clips": len(clips), "broken": len(broken)})
    stage.say(f"{len(clips)} clips measured, {len(broken)} broken")


if __name__ == "__main__":
    run_stage("measure", measure)
