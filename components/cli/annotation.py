"""`reelign annotate`: people's labels by way of Label Studio. Heavy libraries are imported by the commands that need them.

export -> serve -> push -> (people label) -> pull -> import -> report, next -> export ...
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from components.cli.labels import Margin, OwnColumns
from components.errors import NO, BadInput
from components.files.atomic import whole_file
from components.files.locks import sole_writer

app = typer.Typer(help="Have people compare clips in Label Studio, and import their labels.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder that `annotate export` makes.")]
Server = Annotated[str, typer.Option(help="Label Studio's address; its token is taken from LABEL_STUDIO_API_KEY.")]
Clips = Annotated[Path, typer.Option(help="CSV with the columns path, prompt and model (which may be empty).")]
Theta = Annotated[float, typer.Option(min=1, help="The reward model's, in params.yaml under reward.theta.")]
Videos = Annotated[Path | None, typer.Option(help="Folder that paths are relative to; default: that of the CSV.")]
LOCAL = "http://127.0.0.1:8080"


@app.command()
def export(
    context: typer.Context,
    clips: Clips,
    out: Annotated[Path, typer.Option(help="Folder for project, tasks, videos and key; one that is there is extended.")],
    videos: Videos = None,
    pairs: Annotated[Path | None, typer.Option(help="CSV of pairs, as `next` writes; default: every pair.")] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Or: choose new pairs by this table of scores, as `next` does; with --count.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many pairs to choose with --scores.")] = 100,
    theta: Theta = 5.0,
    ratings: Annotated[bool | None, typer.Option(help="Also collect 1 to 5 stars for each clip.")] = None,
    overall: Annotated[bool | None, typer.Option(help="Add the question which clip is better overall.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws names and sides; default: a secret one, kept in OUT.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Where OUT/media/videos will be; default: on Label Studio.")] = None,
) -> None:
    """Make blind tasks of pairs of clips with the same prompt. Only OUT/media may be shown to anybody.

    Exit code 5, with --scores, where no pair is left to choose.
    """
    from components.annotation import tasks

    context.with_resource(sole_writer(out))
    if scores is not None:
        if pairs is not None:
            raise BadInput("--scores", "chooses pairs; --pairs has chosen already")
        new, total = export_chosen(clips, videos, out, scores, count, theta, (seed, ratings, base_url, overall))
        if not new:
            print(f"no unlabelled pair of scored clips with one prompt is left in {clips}")
            raise typer.Exit(NO)
    else:
        new, total = tasks.export(clips, videos or clips.parent, out, pairs, seed, ratings, base_url, overall)
    print(f"{out / 'tasks.json'}: {total} tasks, {new} of them new")


def export_chosen(
    clips: Path, videos: Path | None, out: Path, scores: Path, count: int, theta: float, settings: tuple
) -> tuple[int, int]:
    """Tasks of pairs chosen by scores; those of OUT count as labelled. How many are new, and how many there are."""
    from components.annotation import tasks

    known, chosen = chosen_pairs(clips, videos, scores, count, theta, None, out if (out / "key.csv").exists() else None)
    if not chosen:
        return 0, len(known)
    found = tasks.choose_settings(out, *settings)
    return tasks.export_pairs(clips, [pair for pair, _ in chosen], videos or clips.parent, out, found)


def chosen_pairs(
    clips: Path, videos: Path | None, scores: Path, count: int, theta: float, labelled: Path | None, folder: Path | None
) -> tuple[list, list]:
    """All clips, and the pairs that choose_next takes, each with its uncertainty. Clips without scores are counted aloud."""
    from components.annotation.choosing import choose_next, read_scores, taken_pairs
    from components.annotation.clips import read_clips

    known = read_clips(clips, videos or clips.parent)
    found = read_scores(scores, known, videos or clips.parent)
    if found.failed or found.absent:
        print(f"left out: {found.failed} clips that could not be scored, {found.absent} that are not in {scores}")
    return known, choose_next(known, found.raw, taken_pairs(labelled, folder), count, theta)


@app.command()
def serve(
    folder: Folder,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
    address: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
) -> None:
    """Run Label Studio from its own environment (`make annotation-server`) until Ctrl-C; its data lies in FOLDER.

    With LABEL_STUDIO_USERNAME (a mail address) and LABEL_STUDIO_PASSWORD set, that account is made, and others sign up by
    its invitation only (Organization, Add Members). Without them whoever opens the page may sign up.
    """
    from components.annotation.server import command, environment

    variables = environment(folder)
    program, *rest = command(port, address)
    print(f"http://{address}:{port}", flush=True)
    os.execve(program, [program, *rest], variables)


@app.command()
def push(
    folder: Folder,
    url: Server = LOCAL,
    title: Annotated[str, typer.Option(help="Title of a new project.")] = "Which video is better?",
) -> None:
    """Make or update the folder's project on Label Studio, and upload tasks that are not there yet."""
    from components.annotation import studio

    project, uploaded = studio.push(folder, url, title)
    print(f"{url.rstrip('/')}/projects/{project['id']}: {uploaded} tasks uploaded")


@app.command()
def pull(
    context: typer.Context,
    folder: Folder,
    out: Annotated[Path, typer.Option(help="JSON file for the project's tasks and annotations.")],
    url: Server = LOCAL,
) -> None:
    """Fetch the project's annotations; the same as exporting it as JSON, with authors' addresses: OUT is its
    owner's alone to read."""
    from components.annotation import studio

    context.with_resource(sole_writer(out))
    tasks = studio.pull(folder, url)
    studio.write_export(out, tasks)
    print(f"{out}: {len(tasks)} tasks, {sum(len(task['annotations']) for task in tasks)} annotations")


@app.command()
def collect(
    context: typer.Context,
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Annotations, as the stage `source` reads them; one that is there is extended.")],
    url: Server = LOCAL,
    reviewer: Annotated[list[str] | None, typer.Option(help="Mail address or number of the reviewer.")] = None,
    ready: Annotated[float, typer.Option(min=0.001, max=1, help="Share of the tasks that OUT lacks.")] = 1.0,
) -> None:
    """Pull and import labels once enough tasks have all their answers; until then exit code 5, and OUT stays as it is."""
    from components.annotation import collecting

    context.with_resource(sole_writer(out))
    found = collecting.collect(folder, url, out, reviewer or [], ready)
    counts = found.counts
    print(f"{found.ready} of {found.open} new tasks are ready, {found.needed} needed; "
          f"{counts['annotators']} await annotators, {counts['reviewer']} a reviewer")  # fmt: skip
    if found.written is None:
        raise typer.Exit(NO)
    print(f"{out}: {found.written} annotations")


@app.command("import")
def import_labels(
    context: typer.Context,
    labels: Annotated[Path, typer.Argument(help="Label Studio's JSON export, or a CSV of VideoAlign's layout.")],
    out: Annotated[Path, typer.Option(help="Annotations, as the stage `source` reads them.")],
    folder: Annotated[Path | None, typer.Option(help="For JSON: the folder that `export` made; its key un-blinds.")] = None,
    reviewer: Annotated[
        list[str] | None, typer.Option(help="Mail address or number of the reviewer, who decides disputes.")
    ] = None,
    ready: Annotated[bool, typer.Option("--ready", help="Only pairs with all the answers that the pipeline needs.")] = False,
    append: Annotated[bool, typer.Option("--append", help="Keep what OUT has, and add to it.")] = False,
) -> None:
    """Turn labels into Reelign's annotations, sides un-blinded. Bad input is named; nothing is written then."""
    from components.annotation import importing
    from components.preferences.schema import REVIEWER, write_annotations

    context.with_resource(sole_writer(out))
    if labels.suffix.lower() == ".json":
        if folder is None:
            raise BadInput("--folder", "a JSON export needs the folder whose key un-blinds it")
        found = importing.import_studio(labels, folder, reviewer or [])
    elif folder or reviewer:
        raise BadInput(labels, "a CSV names clips and annotators itself; --folder and --reviewer are for JSON exports")
    else:
        found = importing.import_csv(labels)
    if reviewer and not any(view.annotator == REVIEWER for view in found.annotations):
        print(f"note: nothing of {' or '.join(reviewer)} in {labels}")
    annotations = found.annotations
    if append and out.exists():
        annotations, known = importing.merge(out, labels, annotations)
        found.left_out["already there"] = known
    complete, counts = importing.count_waiting(labels, annotations)
    if ready:
        annotations = complete
    if not annotations:
        raise BadInput(labels, "no pair has all its answers yet" if ready else "no annotations")
    with whole_file(out) as partial:
        write_annotations(partial, annotations)
    left = [f"{count} {what}" for what, count in found.left_out.items() if count]
    print(f"{out}: {len(annotations)} annotations" + (f"; left out: {', '.join(left)}" if left else ""))
    waiting = f"{counts['annotators']} await annotators, {counts['reviewer']} a reviewer"
    print(f"{counts['ready']} pairs are ready, {waiting}" + (" and were left out" if ready else ""))


@app.command("from-ratings")
def from_ratings(
    context: typer.Context,
    ratings: Annotated[Path, typer.Argument(help="CSV with path, prompt, and VQ, MQ, TA, Overall, or rating; and model.")],
    out: Annotated[Path, typer.Option(help="Annotations, as the stage `source` reads them.")],
    columns: OwnColumns = None,
    rating_margin: Margin = 0.0,
) -> None:
    """Make labelled pairs of rated clips: all pairs of one prompt, the better rated clip preferred.

    Several rows of a clip are several people's: their mean counts. A pair is left out where one of the columns lacks a
    rating of it. The file's own names of columns are mapped: --columns VQ=SQ,MQ=TQ.
    """
    from components.preferences.columns import read_mapped
    from components.preferences.ratings import annotations_of, read_ratings
    from components.preferences.schema import write_annotations

    context.with_resource(sole_writer(out))
    rated = read_ratings(ratings, mapped=read_mapped(columns, None))
    annotations, left_out = annotations_of(rated, rating_margin)
    with whole_file(out) as partial:
        write_annotations(partial, annotations)
    left = f"; left out: {left_out} that are not rated in all of {', '.join(rated.ratings)}" if left_out else ""
    print(f"{out}: {len(annotations)} pairs of {len(rated.paths)} clips{left}")


@app.command()
def report(
    annotations: Annotated[Path, typer.Argument(help="CSV that `import` wrote.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report/annotation.html"),
    folder: Annotated[Path | None, typer.Option(help="The folder of `export`: names tasks for the reviewer.")] = None,
    export: Annotated[Path | None, typer.Option(help="Label Studio's JSON export: has the time tasks took.")] = None,
) -> None:
    """How far annotators agree, each one's habits, and which pairs wait for the reviewer."""
    from components.annotation.report import write_report

    write_report(annotations, out, folder, export)
    print(out)


@app.command("next")
def choose(
    context: typer.Context,
    clips: Clips,
    scores: Annotated[Path, typer.Option(help="Table of the clips' scores: `reelign score --csv CLIPS --out TABLE`.")],
    count: Annotated[int, typer.Option(min=1, help="How many pairs.")],
    out: Annotated[Path, typer.Option(help="CSV of pairs, for `export --pairs`.")],
    labelled: Annotated[Path | None, typer.Option(help="Annotations that are there already.")] = None,
    folder: Annotated[Path | None, typer.Option(help="The folder of `export`: its tasks count as labelled.")] = None,
    theta: Theta = 5.0,
    videos: Videos = None,
) -> None:
    """Choose pairs to label: where the reward model is unsure, spread over pairs of generators and prompts."""
    from components.annotation.clips import write_pairs

    context.with_resource(sole_writer(out))
    _, chosen = chosen_pairs(clips, videos, scores, count, theta, labelled, folder)
    if not chosen:
        raise BadInput(clips, "no unlabelled pair of scored clips with one prompt", key="prompt")
    with whole_file(out) as partial:
        write_pairs(partial, [pair for pair, _ in chosen], [value for _, value in chosen])
    few = f" (of {count} wanted)" if len(chosen) < count else ""
    print(f"{out}: {len(chosen)} pairs{few}, uncertainty {chosen[-1][1]:.2f} to {chosen[0][1]:.2f} nats")
