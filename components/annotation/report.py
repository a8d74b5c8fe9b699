"""`reelign annotate report`: one HTML file on how annotators agree, where they differ and what waits for whom."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import jinja2
import numpy as np

from components.annotation.importing import StudioTask, count_waiting, read_studio
from components.annotation.statistics import (
    ORDER,
    Annotator,
    Pairs,
    alpha_interval,
    annotators,
    awaiting_reviewer,
    dimensions_of,
    figures_by_annotator,
    side_interval,
    votes_of,
)
from components.annotation.tasks import Task, read_key
from components.contracts import LABEL_TEXT
from components.errors import BadInput
from components.evaluation.charts import interval_strip
from components.evaluation.names import DIMENSION_NAMES
from components.evaluation.sections import minus
from components.evaluation.style import style_sheet
from components.evaluation.win_rates import Interval
from components.files.atomic import atomic_write
from components.preferences.agreement import awaits, decide, krippendorff_alpha, shares
from components.preferences.schema import REVIEWER, Annotation, group_by_pair, read_annotations
from components.statistics.intervals import too_few

HERE = Path(__file__).parent
NAMES = {name: DIMENSION_NAMES[name].capitalize() for name in ("VQ", "MQ", "TA")} | {"Overall": "Overall"}
SEED = 0  # of the bootstraps: the same annotations give the same report


def write_report(file: Path, out: Path, folder: Path | None = None, export: Path | None = None) -> None:
    """Build the report of an annotation CSV.

    Args:
        file: the CSV, Reelign's layout, sides as people saw them. BadInput where nobody voted in it.
        out: the HTML file to write.
        folder: where `annotate export` put tasks; names those that await a reviewer.
        export: Label Studio's JSON export; has the time each task took.
    """
    shown = read_annotations(file)
    pairs, _ = group_by_pair(file, shown)
    if not any(annotators(views) for views in pairs):
        raise BadInput(file, "labels without annotators: there is no agreement to report", key="annotator")
    rng = np.random.default_rng(SEED)
    people = figures_by_annotator(file, pairs, shown, rng)
    tasks = [] if export is None else read_studio(export)
    _, counts = count_waiting(file, shown)
    context = {
        "file": file,
        "counts": counts,
        "pairs": len(pairs),
        "prompts": len({views[0].pair[0] for views in pairs}),
        "answers": sum(view.annotator != REVIEWER for view in shown),
        "dimensions": {name: NAMES[name] for name in dimensions_of(pairs)},
        "agreement": agreement_rows(file, pairs, rng),
        "people": people,
        "confusions": [(person, confusion_tables(person)) for person in people],
        "sides": side_rows(shown, people, rng),
        "seconds": seconds_by_annotator(tasks),
        "waiting": waiting_rows(pairs, [] if folder is None else read_key(folder)),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, HERE.parent / "evaluation"]), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "percent": lambda share: "–" if share != share else f"{100 * share:.0f}%",
        "signed": lambda value: minus(f"{value:.2f}"),
        "too_few": too_few,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, environment.get_template("agreement.html.j2").render(css=style_sheet(), **context))


def agreement_rows(file: Path, pairs: Pairs, rng: np.random.Generator) -> list[dict]:
    """Per dimension: how labels fall, and alpha at both levels with its interval where there is one."""
    decided = [decide(file, views)[0] for views in pairs if awaits(views) is None]
    rows = []
    for dimension in dimensions_of(pairs):
        votes, prompts = votes_of(pairs, dimension)
        ordinal = alpha_interval(votes, prompts, "ordinal", rng)
        rows.append(
            {
                "name": dimension,
                **shares([labels[dimension] for labels in decided]),
                "ordinal": krippendorff_alpha(votes, "ordinal") if len(votes) else None,
                "nominal": krippendorff_alpha(votes, "nominal") if len(votes) else None,
                "interval": ordinal,
                "nominal_interval": alpha_interval(votes, prompts, "nominal", rng),
                "strip": ordinal and interval_strip([("dpo", f"alpha of {dimension}", in_range(ordinal))], middle=0.667),
            }
        )
    return rows


def in_range(found: Interval) -> Interval:
    """For a drawing from 0 to 1: alpha may be negative."""
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in (found.low, found.high))
    return Interval(min(max(found.value, 0.0), 1.0), low, high, found.n, found.prompts)


def confusion_tables(person: Annotator) -> list[dict]:
    """Tables of counts with each row's shares, for those dimensions where the others agreed at all."""
    words = [LABEL_TEXT[label].replace("same", "tie") for label in ORDER]
    tables = []
    for dimension, counts in person.confusion.items():
        totals = counts.sum(axis=1)
        rows = [
            (word, [(int(count), float(count / total) if total else 0.0) for count in row])
            for word, row, total in zip(words, counts, totals, strict=True)
        ]
        if counts.sum():
            tables.append({"dimension": dimension, "words": words, "rows": rows, "total": int(counts.sum())})
    return tables


def side_rows(shown: Sequence[Annotation], people: Sequence[Annotator], rng: np.random.Generator) -> list[dict]:
    """Leaning to a side: of all annotators together, then of each."""
    everybody = side_interval([view for view in shown if view.annotator != REVIEWER], rng)
    rows = [("everybody", everybody), *((person.name, person.side) for person in people)]
    return [
        {"name": name, "found": found, "strip": found and interval_strip([("nrg", f"share of A, {name}", found)])}
        for name, found in rows
    ]


def seconds_by_annotator(tasks: Sequence[StudioTask]) -> dict[str, tuple[float, int]]:
    """Median time in seconds from opening a task to sending the answer, and of how many answers; by person."""
    times: dict[str, list[float]] = {}
    for task in tasks:
        for work in task.annotations:
            if work.lead_time is not None and work.person is not None and not work.was_cancelled:
                times.setdefault(str(work.person.id), []).append(work.lead_time)
    return {name: (median(found), len(found)) for name, found in times.items()}


def waiting_rows(pairs: Pairs, key: Sequence[Task]) -> list[dict]:
    """Pairs that only a reviewer can decide, with the task's name where the key has one."""
    names = {task.pair: task.task for task in key}
    return [
        {
            "prompt": view.prompt,
            "clips": (view.path_A, view.path_B),
            "dimensions": dimensions,
            "task": names.get(view.pair),
        }
        for view, dimensions in awaiting_reviewer(pairs)
    ]
