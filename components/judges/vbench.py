"""VBench and VBench-2.0: aggregation of their dimensions into scores, and the one dimension that needs no weights.

Fifteen of VBench's sixteen dimensions need a trained network (DINO, CLIP, RAFT, AMT, MUSIQ, GRiT, UMT, Tag2Text, ViCLIP), as
do all eighteen of VBench-2.0. The packages compute these, and their result files are read. A missing dimension is listed as
absent, and scores that include it are null. The packages' scripts count it as 0.

Names, weights, minima and maxima: Vchitect/VBench, scripts/constant.py and VBench-2.0/scripts/constant.py.
"""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from components.errors import BadInput
from components.files.text import read_json
from components.video.container import VideoError, file_url
from components.video.decode import ClipReader

RESULT_FILES = "*_eval_results.json"
OTHER_PICTURE = 8  # levels; a larger mean difference between two decoders' pixels means different pictures
VIDEOS = (".mp4", ".gif")  # files that VBench reads from a folder
FLICKERING = "temporal_flickering"
NOTE = (
    f"{FLICKERING} is computed on all of these clips, and motion lowers it; VBench's leaderboard uses only static clips,"
    " which its static_filter selects with the weights of RAFT"
)


@dataclass(frozen=True)
class Dimension:
    """Contribution of a value to its group: (value - low) / (high - low), not clipped, times `weight`."""

    low: float = 0.0
    high: float = 1.0
    weight: float = 1.0

    def normalise(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Group:
    """Dimensions whose weighted mean is a score, and the weight of that score in Total."""

    dimensions: dict[str, Dimension]
    weight: float = 1.0


@dataclass(frozen=True)
class Benchmark:
    """Names are those of the package's result files."""

    name: str
    package: str
    groups: dict[str, Group]

    @property
    def dimensions(self) -> dict[str, Dimension]:
        return {name: rule for group in self.groups.values() for name, rule in group.dimensions.items()}


@dataclass(frozen=True)
class Result:
    """A dimension's value and its number of videos (for Diversity: prompts, of 20 videos each). `file` is the package's
    result file, None for values computed here. Where the package found no video for it, `n` is 0."""

    value: float
    n: int
    file: Path | None = None


QUALITY = {
    "subject_consistency": Dimension(0.1462),
    "background_consistency": Dimension(0.2615),
    FLICKERING: Dimension(0.6293),
    "motion_smoothness": Dimension(0.706, 0.9975),
    "dynamic_degree": Dimension(weight=0.5),
    "aesthetic_quality": Dimension(),
    "imaging_quality": Dimension(),
}
SEMANTIC = {
    "object_class": Dimension(),
    "multiple_objects": Dimension(),
    "human_action": Dimension(),
    "color": Dimension(),
    "spatial_relationship": Dimension(),
    "scene": Dimension(high=0.8222),
    "appearance_style": Dimension(0.0009, 0.2855),
    "temporal_style": Dimension(high=0.364),
    "overall_consistency": Dimension(high=0.364),
}
VBENCH = Benchmark("VBench", "vbench", {"Quality": Group(QUALITY, 4), "Semantic": Group(SEMANTIC, 1)})


def _plain(*names: str) -> Group:
    return Group({name: Dimension() for name in names})


VBENCH_2 = Benchmark(
    "VBench-2.0",
    "vbench2",
    {
        "Creativity": _plain("Composition", "Diversity"),
        "Commonsense": _plain("Instance_Preservation", "Motion_Rationality"),
        "Controllability": _plain(
            "Camera_Motion", "Complex_Landscape", "Complex_Plot", "Dynamic_Attribute", "Dynamic_Spatial_Relationship",
            "Human_Interaction", "Motion_Order_Understanding",
        ),
        "Human Fidelity": _plain("Human_Anatomy", "Human_Clothes", "Human_Identity"),
        "Physics": _plain("Material", "Mechanics", "Multi-View_Consistency", "Thermotics"),
    },
)  # fmt: skip
VERSIONS = {1: VBENCH, 2: VBENCH_2}


def flickering(path: str | Path) -> float:
    """VBench's temporal flickering of a clip, in [0, 1], 1 where nothing changes.

    1 - the mean over consecutive frames of the mean absolute difference of their 8-bit values, over 255 (arXiv 2311.17982;
    `vbench.temporal_flickering`).

    The pixels are OpenCV's, as in VBench: PyAV decodes ten-bit clips differently, by 0.006 of the score on noise, and
    eight-bit clips identically. PyAV's pixels are used where OpenCV fails to return the file's frames: it repeats one
    picture of interlaced H.264, and its wheels have no decoder for AV1. Raises VideoError.
    """
    reader, opencv = ClipReader(path), _opencv_frames(path)
    differences, theirs = [], []
    before = theirs_before = None
    faithful = True
    for frame in reader:
        pixels = next(opencv, None) if faithful and not reader.interlaced else None
        faithful = pixels is not None and _same_picture(frame, pixels)
        if before is not None:
            differences.append(_difference(frame, before))
        if faithful and pixels is not None and theirs_before is not None:
            theirs.append(_difference(pixels, theirs_before))
            faithful = theirs[-1] > 0 or differences[-1] == 0
        before, theirs_before = frame, pixels
    if not differences:
        raise VideoError(path, "one frame; flickering needs two")
    faithful = faithful and next(opencv, None) is None
    return 1 - float(np.mean(theirs if faithful else differences))


def temporal_flickering(videos: Iterable[Path]) -> tuple[Result | None, list[VideoError]]:
    """The mean of `flickering` over the clips, and the errors of unreadable ones. With any error there is no mean."""
    values, failed = [], []
    for video in videos:
        try:
            values.append(flickering(video))
        except VideoError as error:
            failed.append(error)
    return None if failed else Result(float(np.mean(values)), len(values)), failed


def _opencv_frames(path: str | Path) -> Iterator[np.ndarray]:
    # OpenCV reads this at its first file; without it FFmpeg prints a line for each packet that it cannot decode.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # As bytes: OpenCV ends the process at a name that is not UTF-8.
    name: Any = os.fsencode(file_url(path))
    video = cv2.VideoCapture(name, cv2.CAP_FFMPEG)
    try:
        while (read := video.read())[0]:
            yield read[1]
    finally:
        video.release()


def _same_picture(frame: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether OpenCV's `pixels` (BGR) equal the RGB `frame` up to the rounding of more than eight bits."""
    if frame.shape != pixels.shape:
        return False
    return cv2.norm(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), pixels, cv2.NORM_L1) <= OTHER_PICTURE * frame.size


def _difference(frame: np.ndarray, before: np.ndarray) -> float:
    return cv2.norm(frame, before, cv2.NORM_L1) / frame.size / 255


def list_videos(paths: Iterable[Path]) -> list[Path]:
    """The given files, each once, and the files that VBench reads from a given folder. BadInput for a folder without any."""
    found: dict[Path, None] = {}
    for path in paths:
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEOS) if path.is_dir() else [path]
        if not inside:
            raise BadInput(path, f"no {' or '.join(VIDEOS)} in it")
        found |= dict.fromkeys(inside)
    return list(found)


def read_results(paths: Iterable[Path], benchmark: Benchmark) -> dict[str, Result]:
    """Dimensions of the package's result files, {dimension: [mean, [{video_path, video_results}, ...]]}, or of all files in
    a folder. BadInput where a file has another format, or two have the same dimension: none is chosen silently."""
    found: dict[str, Result] = {}
    for path in paths:
        files = sorted(path.rglob(RESULT_FILES)) if path.is_dir() else [path]
        if not files:
            raise BadInput(path, f"no {RESULT_FILES} in it")
        for file in files:
            for name, result in _read_file(file, benchmark).items():
                if name in found and found[name].n and result.n:
                    raise BadInput(file, f"{found[name].file} has it too", key=name)
                if name not in found or result.n:
                    found[name] = result
    return found


def _read_file(file: Path, benchmark: Benchmark) -> dict[str, Result]:
    return {key.replace(" ", "_"): _read_entry(file, key, entry, benchmark) for key, entry in _entries(file, benchmark)}


def _entries(file: Path, benchmark: Benchmark) -> list[tuple[str, Any]]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise BadInput(file, f"not a result file of {benchmark.name}: no dimensions")
    return list(content.items())


def read_video_values(file: Path, benchmark: Benchmark) -> list[tuple[str, str, float]]:
    """(dimension, path of the video, value) of each video of a result file, as the package wrote them. BadInput as of
    read_results, and for a video without a path or a number."""
    found = []
    for key, entry in _entries(file, benchmark):
        _read_entry(file, key, entry, benchmark)
        for video in entry[1]:
            path, value = (video.get(name) if isinstance(video, dict) else None for name in ("video_path", "video_results"))
            if not isinstance(path, str) or not isinstance(value, int | float) or not math.isfinite(value):
                raise BadInput(file, "a video without video_path or a number video_results", key=key)
            if value != -1:  # VBench-2.0: it could not judge this one
                found.append((key.replace(" ", "_"), path, float(value)))
    return found


def _read_entry(file: Path, key: str, entry: object, benchmark: Benchmark) -> Result:
    name = key.replace(" ", "_")
    if name not in benchmark.dimensions:
        others = [f"{other.name}: --version {number}" for number, other in VERSIONS.items() if name in other.dimensions]
        raise BadInput(file, f"no dimension of {benchmark.name}" + "".join(f", but of {other}" for other in others), key=key)
    match entry:
        case [int() | float() as value, [_, *_] as videos]:
            # VBench-2.0 marks a video that it could not judge with -1 and leaves it out of the mean.
            count = sum(not (isinstance(video, dict) and video.get("video_results") == -1) for video in videos)
        case [None | float() as value, []] if value is None or math.isnan(value):
            return Result(math.nan, 0, file)  # no video is named after a prompt of this dimension
        case _:
            raise BadInput(file, "not [mean, [a result for each video]]", key=key)
    # Cosines may be slightly negative. The package's mean of an empty list is NaN; older ones had imaging quality to 100.
    if not (math.isfinite(value) and -1 <= value <= 1):
        raise BadInput(file, f"{value} is no score of {benchmark.name}: scores are at most 1", key=key)
    return Result(float(value), count, file)


def summarise(benchmark: Benchmark, results: dict[str, Result]) -> dict:
    """The summary as JSON: each dimension with its origin, each group's score and Total, in [0, 1] unless a value lies
    outside its minimum and maximum. A score is null while one of its dimensions is absent; `absent` names these."""
    unmatched = [name for name, result in results.items() if not result.n]
    results = {name: result for name, result in results.items() if result.n}
    dimensions = {
        name: {
            "value": results[name].value,
            "normalised": rule.normalise(results[name].value),
            "source": f"{benchmark.package} package" if results[name].file else "ours",
            "file": results[name].file and str(results[name].file),
            "n": results[name].n,
        }
        for name, rule in benchmark.dimensions.items()
        if name in results
    }
    absent = {name: [one for one in group.dimensions if one not in results] for name, group in benchmark.groups.items()}
    scores: dict[str, float | None] = {}
    for name, group in benchmark.groups.items():
        scores[name] = None
        if not absent[name]:
            weights = [rule.weight for rule in group.dimensions.values()]
            scores[name] = float(np.average([dimensions[one]["normalised"] for one in group.dimensions], weights=weights))
    known = [score for score in scores.values() if score is not None]
    scores["Total"] = None
    if not any(absent.values()):
        weights = [group.weight for group in benchmark.groups.values()]
        scores["Total"] = float(np.average(known, weights=weights))
    ours = dimensions.get(FLICKERING, {}).get("source") == "ours"
    return {
        "benchmark": benchmark.name,
        "dimensions": dimensions,
        "scores": scores,
        "absent": absent,
        "notes": ([NOTE] if ours else []) + [f"{name}: the package found no video of it" for name in unmatched],
    }


def as_lines(summary: dict) -> list[str]:
    """The table of `reelign vbench`, from `summarise`."""
    known, scores = summary["dimensions"], summary["scores"]
    width = max(len(name) for name in [*known, *scores, "dimension"])
    lines = [f"{'dimension':{width}}   value  normalised  source"]
    lines += [
        f"{name:{width}}  {one['value']:6.4f}      {one['normalised']:6.4f}  {one['source']}, n {one['n']}"
        for name, one in known.items()
    ]
    lines += [f"{name:{width}}  {'not computed' if score is None else f'{score:6.4f}'}" for name, score in scores.items()]
    lines += [f"absent of {name}: {', '.join(names)}" for name, names in summary["absent"].items() if names]
    return lines + [f"note: {note}" for note in summary["notes"]]
