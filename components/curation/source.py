"""Stage source: bring videos, prompts and annotations into data/source, from the shapes world or from a folder.

Wherever it comes from, data/source looks the same: videos/, prompts.csv (column prompt) and annotations.csv in the
layout of components/preferences/schema.py, with paths relative to videos/.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from components.errors import BadInput
from components.preferences.schema import (
    Annotation,
    group_by_pair,
    read_annotations,
    write_annotations,
    write_prompts,
)
from components.stage import Stage, run_stage, write_json


def source(stage: Stage) -> None:
    if stage.params.source.kind == "videoalign":
        import_folder(stage, Path(stage.params.source.folder), stage.params.source.csv)
    else:
        from components.simulation.zoo import make_zoo  # brings torch and diffusers, which a folder does not need

        make_zoo(stage)


def import_folder(stage: Stage, folder: Path, csv: str) -> None:
    """Copy a folder of VideoAlign's layout: a CSV of labelled pairs, and the videos that it names relative to itself.

    Other files of the folder stay where they are. Rows of one annotator that repeat each other are dropped and counted.
    """
    if not folder.is_dir():
        raise BadInput("params.yaml", f"no such folder: {folder}", key="source.folder")
    file = folder / csv
    pairs, dropped = group_by_pair(file, read_annotations(file))
    if dropped:
        stage.say(f"{file}: {dropped} rows repeat an earlier row of the same annotator and pair: dropped")
    annotations = sorted((view for views in pairs for view in views), key=lambda view: view.row)
    clips = named_clips(file, folder, annotations)
    # VideoAlign's paths all start with videos/, and so does the place they go to: that part is not said twice.
    below = "videos/" if all(clip.startswith("videos/") for clip in clips) else ""
    videos = stage.output("data/source/videos")
    for clip in stage.progress(clips, "copy"):
        target = videos / clip.removeprefix(below)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / clip, target)
    moved = [
        replace(view, path_A=view.path_A.removeprefix(below), path_B=view.path_B.removeprefix(below)) for view in annotations
    ]
    write_annotations(stage.output("data/source/annotations.csv"), moved)
    prompts = list(dict.fromkeys(view.prompt for view in moved))
    write_prompts(stage.output("data/source/prompts.csv"), prompts)
    report = {
        "kind": "videoalign",
        "videos": len(clips),
        "prompts": len(prompts),
        "pairs": len(pairs),
        "annotations": len(moved),
        "duplicate_rows_dropped": dropped,
    }
    write_json(stage.output("metrics/source.json"), report)
    stage.log({key: value for key, value in report.items() if key != "kind"})
    stage.say(f"{len(clips)} videos, {len(pairs)} pairs over {len(prompts)} prompts from {folder}")


def named_clips(file: Path, folder: Path, annotations: list[Annotation]) -> list[str]:
    """The clips that annotations name, sorted; BadInput for one that is missing or lies outside `folder` by a link."""
    for view in annotations:
        for column, clip in (("path_A", view.path_A), ("path_B", view.path_B)):
            path = folder / clip
            if not path.is_file():
                raise BadInput(file, f"no such video: {path}", row=view.row, key=column)
            if not path.resolve().is_relative_to(folder.resolve()):
                raise BadInput(file, f"{path} is a link that leaves the folder", row=view.row, key=column)
    return sorted({clip for view in annotations for clip in (view.path_A, view.path_B)})


if __name__ == "__main__":
    run_stage("source", source)
