"""Stage measure: every clip of data/source/videos, decoded once and measured. What is good enough is decided after it."""

from functools import partial

from components.contracts import MEASURES, SOURCE_VIDEOS
from components.curation.measures import measure_clip
from components.errors import BadInput
from components.files.digests import files_below
from components.files.tables import write_table
from components.pipeline.stage import Stage, stage_main
from components.runtime.engine import map_rows
from components.schemas import MEASURES_SCHEMA
from components.video.limits import Limits


def measure(stage: Stage) -> None:
    """Reads data/source/videos. Writes data/measures.parquet, a row a clip; one that cannot be decoded has its reason.

    Fails with BadInput where there are no videos. Resumes from finished chunks of clips.
    """
    params, limits = stage.params.measure, Limits.of(stage.params.limits)
    files = sorted(path.relative_to(SOURCE_VIDEOS).as_posix() for path in files_below(SOURCE_VIDEOS))
    if not files:
        raise BadInput(SOURCE_VIDEOS, "no files")
    clips = map_rows(
        partial(measure_clip, folder=str(SOURCE_VIDEOS), optical_flow=params.optical_flow, limits=limits),
        [{"clip": file} for file in files],
        params.workers,
        params.chunk,
        stage.state(),
        stage.progress,
        "clips",
        params.engine,
    )
    write_table(stage.output(MEASURES), clips, MEASURES_SCHEMA)
    broken = [clip for clip in clips if clip["broken"]]
    for clip in broken[:5]:
        stage.say(f"broken: {clip['clip']}: {clip['broken']}")
    stage.log({"clips": len(clips), "broken": len(broken)})
    stage.say(f"{len(clips)} clips measured, {len(broken)} broken")


if __name__ == "__main__":
    stage_main("measure", measure)
