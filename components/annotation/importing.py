"""`reelign annotate import`: Label Studio's JSON export, or a CSV of VideoAlign's layout, as Reelign's annotations.

What becomes of Label Studio's answers:

- a submitted annotation is a row, by the key's sides; a changed one counts as it is now (Label Studio keeps no other);
- a draft was never submitted, and a skipped task was not answered: neither is a label, both are counted aloud;
- the interface may have more in it, such as a box for comments: what stands there is no label either, and is counted;
- two annotations of one person on one task are one where they agree and bad input where they do not;
- people become their numbers in Label Studio, so that no mail address travels on with the data;
- a reviewer is given by number or address, and is called "reviewer".
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationError

from components.annotation.tasks import QUESTIONS, Task, read_key, read_settings
from components.contracts import DIMENSIONS, LABELS
from components.errors import BadInput
from components.files.csv_tables import read_header
from components.files.text import read_json
from components.preferences.agreement import ANNOTATORS_PER_PAIR, awaits, decide
from components.preferences.schema import (
    HIGHEST,
    LOWEST,
    REVIEWER,
    Annotation,
    group_by_pair,
    read_annotations,
)

ANSWERS = {"A": LABELS["A"], "tie": LABELS["same"], "B": LABELS["B"]}  # the interface's words
RATINGS = {f"rating_{side}_{question}": (side, question) for side in "AB" for question in QUESTIONS}


class Person(BaseModel):
    id: int
    email: str | None = None


def none_is_empty(value: Any) -> Any:
    """Label Studio, and what people make of its exports, write null where there is nothing."""
    return [] if value is None else value


class Result(BaseModel):
    """One answer of an annotation; a relation between two answers has neither name nor value."""

    from_name: str | None = None
    value: dict[str, Any] | None = None


class Work(BaseModel):
    """One annotation. `lead_time` is in seconds."""

    id: int
    completed_by: int | Person | None
    was_cancelled: bool | None = False
    result: Annotated[list[Result], BeforeValidator(none_is_empty)]
    lead_time: float | None = None

    @property
    def person(self) -> Person | None:
        return Person(id=self.completed_by) if isinstance(self.completed_by, int) else self.completed_by


class StudioTask(BaseModel):
    """A task as Label Studio's JSON export has it; keys that are of no use here are not read."""

    id: int
    data: dict[str, Any]
    annotations: Annotated[list[Work], BeforeValidator(none_is_empty)]
    drafts: Annotated[list[Any], BeforeValidator(none_is_empty)] = []


@dataclass(frozen=True)
class Imported:
    """Annotations, and what was left out on the way to them."""

    annotations: list[Annotation]
    left_out: Counter[str]


def read_studio(file: Path) -> list[StudioTask]:
    """The tasks of a JSON export. BadInput names task and key."""
    raw = read_json(file)
    if not isinstance(raw, list):
        raise BadInput(file, "not a list of tasks, as Label Studio's export format JSON is")
    tasks = []
    for place, entry in enumerate(raw, start=1):
        try:
            tasks.append(StudioTask.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            number = entry.get("id", f"no. {place}") if isinstance(entry, dict) else f"no. {place}"
            why = {"missing": "missing key; export as JSON, not as JSON-MIN"}.get(first["type"], first["msg"])
            raise BadInput(where(file, number), why, key=".".join(map(str, first["loc"])) or None) from error
    return tasks


def where(file: Path, task: object) -> str:
    return f"{file}, task {task}"


def import_studio(file: Path, folder: Path, reviewers: Sequence[str]) -> Imported:
    """Annotations of a JSON export, un-blinded by FOLDER's key, in the key's order.

    BadInput, by task and key: a task that is twice there, is not of FOLDER or shows something else than went out; an
    answer that is none of the question's, or missing; an annotation of nobody; more annotators than a pair has.
    """
    questions = read_settings(folder).questions
    key = {task.task: task for task in read_key(folder)}
    place = {name: number for number, name in enumerate(key)}
    seen: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    rows: list[tuple[int, Annotation]] = []
    for studio in read_studio(file):
        task = known_task(file, studio, key)
        if task.task in seen:
            raise BadInput(where(file, studio.id), f"the same pair as task {seen[task.task]}", key="data.task")
        seen[task.task] = studio.id
        left_out["drafts, never submitted"] += len(studio.drafts)
        left_out["skipped"] += sum(bool(work.was_cancelled) for work in studio.annotations)
        views = task_views(file, studio, task, questions, reviewers, left_out)
        rows += [(place[task.task], view) for view in views]
    return Imported([view for _, view in sorted(rows, key=lambda row: row[0])], left_out)


def known_task(file: Path, studio: StudioTask, key: dict[str, Task]) -> Task:
    """The key's task, which must be what the export shows: else its answers are about something else."""
    name = studio.data.get("task")
    if not isinstance(name, str) or name not in key:
        raise BadInput(where(file, studio.id), f"'{name}' is no task of this folder's key.csv", key="data.task")
    task = key[name]
    if studio.data.get("prompt") != task.prompt:
        why = f"'{studio.data.get('prompt')}' is not the prompt of {name}, '{task.prompt}', to the letter"
        raise BadInput(where(file, studio.id), why, key="data.prompt")
    for side, video in (("A", task.video_A), ("B", task.video_B)):
        if not str(studio.data.get(f"video_{side}")).endswith(f"/{video}"):
            raise BadInput(where(file, studio.id), f"side {side} is not {video}", key=f"data.video_{side}")
    return task


def task_views(
    file: Path,
    studio: StudioTask,
    task: Task,
    questions: Sequence[str],
    reviewers: Sequence[str],
    left_out: Counter[str],
) -> list[Annotation]:
    """What each person said of a task, annotators by number, then the reviewer. Repeats are counted in `left_out`."""
    by_person: dict[str, tuple[Work, Annotation]] = {}
    for work in studio.annotations:
        if work.was_cancelled:
            continue
        if work.person is None:
            why = f"annotation {work.id} has no author (was the account deleted?)"
            raise BadInput(where(file, studio.id), why, key="completed_by")
        reviews = {str(work.person.id), work.person.email} & set(reviewers)
        name = REVIEWER if reviews else str(work.person.id)
        view = as_annotation(file, studio.id, work, task, questions, name, left_out)
        earlier, said = by_person.setdefault(name, (work, view))
        if earlier is work:
            continue
        if (said.labels, said.ratings) != (view.labels, view.ratings):
            why = f"annotations {earlier.id} and {work.id} of '{name}' differ; delete one in Label Studio"
            raise BadInput(where(file, studio.id), why, key="annotations")
        left_out["repeats of the same answer"] += 1
    names = sorted(by_person.keys() - {REVIEWER}, key=int)
    if len(names) > ANNOTATORS_PER_PAIR:
        why = f"annotators {', '.join(names)}: a pair has {ANNOTATORS_PER_PAIR} and a reviewer; is one of them --reviewer?"
        raise BadInput(where(file, studio.id), why, key="completed_by")
    return [by_person[name][1] for name in [*names, REVIEWER] if name in by_person]


def as_annotation(
    file: Path, number: int, work: Work, task: Task, questions: Sequence[str], annotator: str, left_out: Counter[str]
) -> Annotation:
    """One person's answers on one task; `row` is the task's number in Label Studio. A reviewer may leave questions out.
    Answers to what is no question of ours are counted in `left_out`."""
    labels: dict[str, int | None] = dict.fromkeys(DIMENSIONS)
    ratings: dict[str, dict[str, float | None]] = {side: dict.fromkeys(DIMENSIONS) for side in "AB"}
    answered = set()
    for result in work.result:
        name = result.from_name
        if name not in (*DIMENSIONS, *RATINGS):
            left_out[f"answers to {name}" if name else "relations"] += 1
            continue
        if name in answered:
            raise BadInput(where(file, number), f"answered twice in annotation {work.id}", key=name)
        answered.add(name)
        value = result.value or {}
        if name in RATINGS:
            side, question = RATINGS[name]
            ratings[side][question] = stars_of(where(file, number), work, name, value)
        elif name in questions:
            labels[name] = choice_of(where(file, number), work, name, value)
        else:
            raise BadInput(where(file, number), f"annotation {work.id} answers a question nobody asked", key=name)
    if annotator != REVIEWER:
        for question in questions:
            if labels[question] is None:
                raise BadInput(where(file, number), f"annotation {work.id} of '{annotator}' has no answer", key=question)
    return Annotation(
        row=number,
        path_A=task.path_A,
        path_B=task.path_B,
        prompt=task.prompt,
        annotator=annotator,
        labels=labels,
        model_A=task.model_A or None,
        model_B=task.model_B or None,
        ratings_A=ratings["A"],
        ratings_B=ratings["B"],
    )


def choice_of(place: str, work: Work, name: str, value: dict[str, Any]) -> int | None:
    """The label of an answer, None where it was taken back."""
    choice = value.get("choices", "nothing")
    if choice is None or choice == []:
        return None
    if not isinstance(choice, list) or len(choice) != 1 or choice[0] not in list(ANSWERS):
        raise BadInput(place, f"annotation {work.id} has {choice}, not one of {', '.join(ANSWERS)}", key=name)
    return ANSWERS[choice[0]]


def stars_of(place: str, work: Work, name: str, value: dict[str, Any]) -> float | None:
    """The stars of an answer, None where they were taken back. Some exports have 4.0 for 4."""
    stars = value.get("rating", "nothing")
    if stars is None:
        return None
    if type(stars) not in (int, float) or stars not in range(LOWEST, HIGHEST + 1):
        raise BadInput(place, f"annotation {work.id} rates {stars}, not {LOWEST} to {HIGHEST}", key=name)
    return float(stars)


def import_csv(file: Path) -> Imported:
    """Annotations of a CSV, checked against each other; rows that repeat an earlier one are left out."""
    if "annotation_id" in read_header(file):
        raise BadInput(file, "Label Studio's CSV export, which does not say which clips were shown: export as JSON", row=1)
    annotations = read_annotations(file)
    pairs, dropped = group_by_pair(file, annotations)
    kept = {view.row for views in pairs for view in views}
    return Imported([view for view in annotations if view.row in kept], Counter({"repeats of an earlier row": dropped}))


def merge(file: Path, new_file: Path, new: Sequence[Annotation]) -> tuple[list[Annotation], int]:
    """Annotations of `file` and after them those that are new; also how many of `new` were there already.

    BadInput where an annotator said something else before, by both places: which one holds is for people to say.
    """
    old = read_annotations(file)
    by_author = {(view.pair, view.annotator): view for view in old}
    prompts = {view.pair: view for view in old}
    added = []
    for view in new:
        here = f"{new_file}, row or task {view.row}"
        if view.pair in prompts and prompts[view.pair].prompt != view.prompt:
            why = f"{here} has this prompt with other white space, case or Unicode form"
            raise BadInput(file, why, row=prompts[view.pair].row, key="prompt")
        before = by_author.get((view.pair, view.annotator))
        if before is None:
            added.append(view)
            continue
        same_sides = view if view.path_A == before.path_A else view.swapped()
        said, said_before = same_sides.labels | same_sides.ratings, before.labels | before.ratings
        for column in said:
            if said[column] != said_before[column]:
                why = f"annotator '{view.annotator}' says something else in {here}"
                raise BadInput(file, why, row=before.row, key=column)
    return [*old, *added], len(new) - len(added)


def count_waiting(file: Path, annotations: Iterable[Annotation]) -> tuple[list[Annotation], Counter[str]]:
    """Annotations of pairs that have all they need, and how many pairs: "ready", awaiting "annotators" or a "reviewer"."""
    ready = set()
    counts: Counter[str] = Counter()
    annotations = list(annotations)
    for views in group_by_pair(file, annotations)[0]:
        waits = awaits(views)
        counts[waits or "ready"] += 1
        if waits is None:
            decide(file, views)  # what the pipeline would refuse, such as a fourth annotator, is refused here
            ready.add(views[0].pair)
    return [view for view in annotations if view.pair in ready], counts
