"""Stage source: bring videos, prompts and annotations into data/source, from the shapes world, a folder or a bucket.

Wherever it comes from, data/source looks the same: videos/, prompts.csv (column prompt) and annotations.csv in Reelign's
layout (components/preferences/schema.py), with paths relative to videos/.

`source.folder` is a dependency in dvc.yaml, a bucket's prefix as well: DVC compares the ETags below it with those of
dvc.lock, so that `dvc repro` runs this stage when, and only when, the bucket has changed.
"""

import hashlib
import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING

from components.config.params import S3Source
from components.contracts import SOURCE_ANNOTATIONS, SOURCE_METRICS, SOURCE_PROMPTS, SOURCE_VIDEOS
from components.errors import BadInput
from components.pipeline.stage import Stage, stage_main, write_json
from components.preferences.first_frames import FirstFrame, read_first_frames, refuse_images, write_prompts_with_images
from components.preferences.paths import clip_path, stored_file, stored_names
from components.preferences.schema import (
    Annotation,
    group_by_pair,
    read_annotations,
    read_columns,
    write_annotations,
    write_prompts,
)

if TYPE_CHECKING:
    from components.curation.s3 import Object, Prefix  # brings boto3

ROUNDS = 5  # at a bucket that changes while it is read


@dataclass(frozen=True)
class Labels:
    """The labels of a CSV, each view once, and the row and column where each clip is first named."""

    file: str
    annotations: list[Annotation]
    pairs: int
    dropped: int
    clips: dict[str, tuple[int, str]]


def source(stage: Stage) -> None:
    """Reads `source.folder` (its CSV and the videos that this names) or makes the clips of the shapes world.

    Writes data/source/videos, prompts.csv, annotations.csv and metrics/source.json. Fails with BadInput for a bad row of the
    CSV, a missing video, or a bucket that does not settle; with Unreachable where S3 does not answer. Resumes from the clips
    that were drawn and judged, and from verified parts of a bucket's objects.
    """
    given = stage.params.source
    if given.kind == "shapes":
        from components.simulation.zoo import make_zoo  # brings torch and diffusers, which the others do not need

        make_zoo(stage, given)
        return
    try:
        csv = clip_path(given.csv)
    except ValueError as error:
        raise BadInput("params.yaml", str(error), key="source.csv") from error
    if given.kind == "folder":
        import_folder(stage, Path(given.folder), csv)
    else:
        import_bucket(stage, given, csv)


def import_folder(stage: Stage, folder: Path, csv: str) -> None:
    """Copy a folder: a CSV of labelled pairs, and the videos below the folder that it names.

    Other files of the folder stay where they are.
    """
    if not folder.is_dir():
        raise BadInput("params.yaml", f"no such folder: {folder}", key="source.folder")
    file = folder / csv
    if not file.resolve().is_relative_to(folder.resolve()):
        raise BadInput(file, "a link that leaves the folder")
    labels = read_labels(file, str(file), folder, partial(stored_file, folder))
    for clip, (row, column) in labels.clips.items():
        if not (folder / clip).resolve().is_relative_to(folder.resolve()):
            raise BadInput(file, f"{folder / clip} is a link that leaves the folder", row=row, key=column)
    files = {clip: folder / clip for clip in labels.clips}
    write_source(stage, labels, files, shutil.copyfile, {"kind": "folder"}, read_first_frames(file, folder))


def import_bucket(stage: Stage, given: S3Source, csv: str) -> None:
    """The same from a bucket's prefix; the videos are links to what components/curation/s3.py keeps.

    DVC takes down the state of the bucket when the stage has ended. So what changes during the transfer is fetched too.
    """
    from components.curation.s3 import Changed, Prefix

    bucket = Prefix(given.folder, given.workers, given.patience, stage.say)
    for _ in range(ROUNDS):
        try:
            labels, items = fetch_named(stage, bucket, csv)
            break
        except Changed as changed:
            stage.say(f"{changed}: listing the bucket again")
    else:
        raise BadInput(given.folder, f"changed each of the {ROUNDS} times it was read")
    if bucket.unverified:
        stage.say(f"{bucket.unverified} objects have no checksum that says how they should be: only their size was verified")
    state = sorted((path, item.size, item.etag) for path, item in items.items())
    facts = {
        "kind": "s3",
        "bucket_state": hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16],
        "objects": len(items),
        "bytes": sum(item.size for item in items.values()),
    }
    earlier = len(set(items.values()) - bucket.fetched.keys())
    stage.measured({"objects_from_an_earlier_run": earlier, "bytes_fetched": sum(bucket.fetched.values())})
    write_source(stage, labels, {clip: bucket.file(items[clip]) for clip in labels.clips}, os.link, facts)
    bucket.keep_only(items.values())


def fetch_named(stage: Stage, bucket: "Prefix", csv: str) -> tuple[Labels, dict[str, "Object"]]:
    """Fetch the CSV and the videos that it names, none of them before all are known to be there; what is fetched, by path.

    Changed when the bucket no longer has the same of them at the end.
    """
    listing = bucket.listing()
    file = f"{bucket.url}/{csv}"
    if csv not in listing:
        raise BadInput(file, "no such object")
    bucket.fetch([listing[csv]], stage.progress)
    refuse_images(bucket.file(listing[csv]), file)
    labels = read_labels(bucket.file(listing[csv]), file, bucket.url, stored_names(listing))
    items = {path: listing[path] for path in (csv, *labels.clips)}
    bucket.fetch(items.values(), stage.progress)
    bucket.hold(items)
    return labels, items


def read_labels(path: Path, file: str, root: str | Path, find: Callable[[str], str | None]) -> Labels:
    """The CSV at `path`, which errors call `file`, with each clip's path below `root` as stored, which find(path) gives.
    Rows of one annotator that repeat each other are dropped and counted. BadInput names a clip that is not there."""
    columns = read_columns(path, file).paths
    views = [found_clips(file, view, columns, root, find) for view in read_annotations(path, file, root)]
    pairs, dropped = group_by_pair(file, views)
    annotations = sorted((view for views in pairs for view in views), key=lambda view: view.row)
    clips: dict[str, tuple[int, str]] = {}
    spelt: dict[str, str] = {}
    for view in annotations:
        for column, clip in zip(columns, (view.path_A, view.path_B), strict=True):
            clips.setdefault(clip, (view.row, column))
            # Some file systems and servers take both forms for one file, others do not.
            other = spelt.setdefault(unicodedata.normalize("NFC", clip), clip)
            if other != clip:
                why = f"'{clip}' is the name in row {clips[other][0]} in another Unicode form"
                raise BadInput(file, why, row=view.row, key=column)
    folders = {str(parent) for clip in clips for parent in PurePosixPath(clip).parents}
    for clip, (row, column) in clips.items():
        if clip in folders:
            raise BadInput(file, f"'{clip}' is also the folder of another video", row=row, key=column)
    return Labels(file, annotations, len(pairs), dropped, clips)


def found_clips(
    file: str, view: Annotation, columns: tuple[str, str], root: str | Path, find: Callable[[str], str | None]
) -> Annotation:
    """The view with its paths as they are stored below `root`; `columns` are those of the CSV that name them."""
    stored = []
    for column, path in zip(columns, (view.path_A, view.path_B), strict=True):
        found = find(path)
        if found is None:
            what = "object" if "://" in str(root) else "video"
            raise BadInput(file, f"no such {what}: {root}/{path}", row=view.row, key=column)
        stored.append(found)
    return replace(view, path_A=stored[0], path_B=stored[1])


def write_source(
    stage: Stage,
    labels: Labels,
    files: dict[str, Path],
    put: Callable[[Path, Path], object],
    facts: dict[str, str | int],
    images: Mapping[str, FirstFrame] = MappingProxyType({}),
) -> None:
    """Make the stage's outputs of labels and the file of each clip, brought in place by put(file, target). images: by
    prompt; they stay where they are."""
    if labels.dropped:
        stage.say(f"{labels.file}: {labels.dropped} rows dropped: they repeat an earlier row of the same annotator and pair")
    # VideoAlign's paths all start with videos/, and so does the place they go to: that part is not said twice.
    below = "videos/" if all(clip.startswith("videos/") for clip in files) else ""
    videos = stage.output(SOURCE_VIDEOS)
    for clip in stage.progress(sorted(files), "videos"):
        target = videos / clip.removeprefix(below)
        target.parent.mkdir(parents=True, exist_ok=True)
        put(files[clip], target)
    moved = [
        replace(view, path_A=view.path_A.removeprefix(below), path_B=view.path_B.removeprefix(below))
        for view in labels.annotations
    ]
    write_annotations(stage.output(SOURCE_ANNOTATIONS), moved)
    prompts = list(dict.fromkeys(view.prompt for view in moved))
    if images:
        write_prompts_with_images(stage.output(SOURCE_PROMPTS), prompts, images)
    else:
        write_prompts(stage.output(SOURCE_PROMPTS), prompts)
    counts = {
        "videos": len(files),
        "prompts": len(prompts),
        "pairs": labels.pairs,
        "annotations": len(moved),
        "duplicate_rows_dropped": labels.dropped,
    }
    report = facts | counts
    write_json(stage.output(SOURCE_METRICS), report)
    stage.log({key: value for key, value in report.items() if not isinstance(value, str)})
    stage.say(f"{len(files)} videos, {labels.pairs} pairs over {len(prompts)} prompts from {labels.file}")


if __name__ == "__main__":
    stage_main("source", source)
