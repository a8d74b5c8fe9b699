"""`reelign annotate export`: pairs of clips as blind tasks for Label Studio, and the key that opens them again.

- FOLDER/config.xml, guidelines.md: labelling interface, and instructions, which are yours to change.
- FOLDER/tasks.json: tasks in Label Studio's import format, each with a name, the prompt and two addresses of videos.
- FOLDER/media/videos/: the videos under opaque names. Nothing else of FOLDER may be served.
- FOLDER/key.csv, settings.json: which clip a task shows on which side, and the secret behind the names; the owner's.

One pair is one task, shown to all annotators with the same sides. Label Studio's open-source edition deals tasks, not
copies of tasks, to people. Answers about one and the same screen can be compared with each other as they are. A
preference for one side then does not average out within a pair, but it does over pairs. Of each pair of generators,
either stands on the left as often as the other, give or take one. The report measures what preference is left.
"""

import csv
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from components.annotation.clips import Clip, all_pairs, generators, name_of, read_clips, read_pairs
from components.annotation.media import check_video, copy_blind
from components.config.types import Section, read_section
from components.errors import BadInput
from components.files.atomic import atomic_write, whole_file
from components.files.csv_tables import read_rows
from components.preferences.schema import Pair, pair_of

HERE = Path(__file__).parent
VIDEOS = Path("media/videos")  # below FOLDER
LOCAL = "/data/local-files/?d=videos/"  # address of VIDEOS on a server that `reelign annotate serve` started
QUESTIONS = ("VQ", "MQ", "TA")  # of every pair, and of ratings


@dataclass(frozen=True)
class Task:
    """A row of key.csv. Sides are those of the screen: A on the left. `video_A` and `video_B` are opaque names, `fps_A`
    and `fps_B` frames a second, as text for Label Studio's player."""

    task: str
    path_A: str
    path_B: str
    prompt: str
    model_A: str
    model_B: str
    video_A: str
    video_B: str
    fps_A: str
    fps_B: str

    @property
    def pair(self) -> Pair:
        return pair_of(self.prompt, self.path_A, self.path_B)


@dataclass(frozen=True)
class Face:
    """What annotators get of a clip: an opaque name, made from contents so that a changed video cannot hide behind it,
    and its frames a second."""

    video: str
    fps: str


class Settings(Section):
    """What all exports into one folder share. `seed` draws sides and names: whoever has it can undo the blinding."""

    seed: int
    ratings: bool
    overall: bool  # a question of its own, as in the paper: it is not added up from the other answers
    base_url: str | None  # where VIDEOS is served; None: by Label Studio itself, from FOLDER

    @property
    def questions(self) -> tuple[str, ...]:
        """What everybody answers about each pair."""
        return (*QUESTIONS, "Overall") if self.overall else QUESTIONS

    def digest(self, *what: str) -> str:
        """16 hex digits that tell nothing about `what` without the seed."""
        text = json.dumps([self.seed, *what])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def address(self, video: str) -> str:
        return f"{LOCAL if self.base_url is None else self.base_url.rstrip('/') + '/'}{video}"


def export(
    clips_csv: Path,
    videos: Path,
    folder: Path,
    pairs_csv: Path | None = None,
    seed: int | None = None,
    ratings: bool | None = None,
    base_url: str | None = None,
    overall: bool | None = None,
) -> tuple[int, int]:
    """Make or extend FOLDER; how many tasks are new, and how many there are.

    Tasks that FOLDER has keep their names and sides, whatever clips.csv holds now. `seed`, `ratings`, `base_url` and
    `overall` are chosen by the first export (None: at random, no, no, no) and may not change later. BadInput as of
    read_clips, read_pairs and export_pairs.
    """
    settings = choose_settings(folder, seed, ratings, base_url, overall)
    clips = read_clips(clips_csv, videos)
    pairs = list(all_pairs(clips)) if pairs_csv is None else read_pairs(pairs_csv, clips)
    return export_pairs(clips_csv, pairs, videos, folder, settings)


def export_pairs(
    clips_csv: Path, pairs: list[tuple[Clip, Clip]], videos: Path, folder: Path, settings: Settings
) -> tuple[int, int]:
    """As `export`, of pairs whose clips come from `clips_csv`, which errors name. BadInput for clips that no browser plays,
    that are copies of each other, or that changed since they went out; nothing is written then."""
    old = read_key(folder) if (folder / "key.csv").exists() else []
    shown = {clip.path: clip for pair in pairs for clip in pair}
    faces = {}
    for clip in shown.values():
        info = check_video(clips_csv, clip.row, videos / clip.path)
        faces[clip.path] = Face(f"{settings.digest('video', content(videos / clip.path))}.mp4", f"{info.fps:g}")
    check_unchanged(clips_csv, folder, shown, faces, old)
    there = {task.pair for task in old}
    new = draw_sides([pair for pair in pairs if name_of(pair) not in there], faces, old, settings, clips_csv)
    if not old and not new:
        raise BadInput(clips_csv, "no two clips have the same prompt", key="prompt")
    (folder / VIDEOS).mkdir(parents=True, exist_ok=True)
    atomic_write(folder / "settings.json", settings.model_dump_json(indent=1) + "\n", private=True)
    for path, face in sorted(faces.items(), key=lambda item: item[1].video):  # times of files tell no order either
        if not (folder / VIDEOS / face.video).exists():
            copy_blind(videos / path, folder / VIDEOS / face.video)
    write_key(folder, [*old, *new])
    atomic_write(folder / "config.xml", interface(settings))
    if not (folder / "guidelines.md").exists():  # a team may put its own words there
        atomic_write(folder / "guidelines.md", (HERE / "guidelines.md").read_text())
    tasks = [{"data": shown_to_annotators(task, settings)} for task in [*old, *new]]
    atomic_write(folder / "tasks.json", json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")
    return len(new), len(tasks)


def choose_settings(
    folder: Path,
    seed: int | None = None,
    ratings: bool | None = None,
    base_url: str | None = None,
    overall: bool | None = None,
) -> Settings:
    """Those of the folder's first export; BadInput where the options are others now."""
    asked = {"seed": seed, "ratings": ratings, "base_url": base_url, "overall": overall}
    if not (folder / "settings.json").exists():
        chosen = secrets.randbits(63) if seed is None else seed
        return Settings(seed=chosen, ratings=bool(ratings), overall=bool(overall), base_url=base_url)
    settings = read_settings(folder)
    for key, value in asked.items():
        if value is not None and value != getattr(settings, key):
            why = f"the first export chose {getattr(settings, key)}, not {value}; another choice needs another folder"
            raise BadInput(folder / "settings.json", why, key=key)
    return settings


def read_settings(folder: Path) -> Settings:
    """BadInput where FOLDER is not one that `export` made."""
    file = folder / "settings.json"
    if not file.exists():
        raise BadInput(file, "missing; `reelign annotate export` makes it")
    return read_section(file, Settings)  # JSON is YAML


def content(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_unchanged(
    clips_csv: Path, folder: Path, shown: dict[str, Clip], faces: dict[str, Face], old: Iterable[Task]
) -> None:
    """BadInput where a clip is not what it was when a task with it went out: its labels would be another video's."""
    for task in old:
        for side in "AB":
            path = getattr(task, f"path_{side}")
            if path not in shown:
                continue
            clip = shown[path]
            for key, now, before in (
                ("path", faces[path].video, getattr(task, f"video_{side}")),
                ("prompt", clip.prompt, task.prompt),
                ("model", clip.model, getattr(task, f"model_{side}")),
            ):
                if now != before:
                    why = f"{path} changed since task {task.task} of {folder / 'key.csv'} showed it; give it a new path"
                    raise BadInput(clips_csv, why, row=clip.row, key=key)


def draw_sides(
    pairs: list[tuple[Clip, Clip]], faces: dict[str, Face], old: Iterable[Task], settings: Settings, clips_csv: Path
) -> list[Task]:
    """Tasks of new pairs, in an order that gives nothing away: by name, which is a digest.

    Among tasks of the same two generators the first one's sides are drawn, the second has the other side's turn, and so
    on, counting those that are there already. Two clips of one generator take turns by their paths.
    """
    lean: Counter[tuple[str, str]] = Counter()
    for task in old:
        a, b = (task.model_A, task.path_A), (task.model_B, task.path_B)
        lean[min(a, b)[0], max(a, b)[0]] += 1 if a < b else -1
    tasks = []
    named = {settings.digest("task", *name_of(pair)): pair for pair in pairs}
    for digest, pair in sorted(named.items()):
        first, second = sorted(pair, key=lambda clip: (clip.model, clip.path))
        if faces[first.path] == faces[second.path]:
            raise BadInput(clips_csv, f"the same video as {first.path}", row=second.row, key="path")
        who = generators(pair)
        drawn = int(settings.digest("side", digest), 16) % 2 == 0
        straight = drawn if lean[who] == 0 else lean[who] < 0
        lean[who] += 1 if straight else -1
        a, b = (first, second) if straight else (second, first)
        left, right = faces[a.path], faces[b.path]
        sides = (a.path, b.path, a.prompt, a.model, b.model, left.video, right.video, left.fps, right.fps)
        tasks.append(Task(digest, *sides))
    return tasks


def shown_to_annotators(task: Task, settings: Settings) -> dict[str, str]:
    """A task's data in Label Studio: all that an annotator's browser ever gets to know."""
    return {
        "task": task.task,
        "prompt": task.prompt,
        "video_A": settings.address(task.video_A),
        "video_B": settings.address(task.video_B),
        "fps_A": task.fps_A,
        "fps_B": task.fps_B,
    }


def interface(settings: Settings) -> str:
    """The labelling interface, with or without a rating of each clip by itself and a question on the whole."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("config.xml.j2").render(ratings=settings.ratings, questions=settings.questions)


def read_key(folder: Path) -> list[Task]:
    """All tasks of FOLDER. BadInput names a task or a pair that is there twice."""
    file = folder / "key.csv"
    columns = [field.name for field in fields(Task)]
    tasks: dict[str, Task] = {}
    pairs: dict[Pair, str] = {}
    for row, cells in read_rows(file, columns):
        task = Task(**{column: cells[column] for column in columns})
        if task.task in tasks:
            raise BadInput(file, f"task {task.task} is there twice", row=row, key="task")
        if task.pair in pairs:
            raise BadInput(file, f"the same pair as task {pairs[task.pair]}", row=row, key="path_A")
        tasks[task.task], pairs[task.pair] = task, task.task
    return list(tasks.values())


def write_key(folder: Path, tasks: Iterable[Task]) -> None:
    with whole_file(folder / "key.csv", private=True) as partial, open(partial, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Task)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(task) for task in tasks)
