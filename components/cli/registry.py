"""`reelign promote` and `reelign lineage`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from components.cli.output import AsJson, print_json
from components.errors import NO


def promote(
    model: Annotated[
        str,
        typer.Option(
            envvar="REELIGN_MODEL",
            help="video_reward or generator_METHOD, of this profile; or any registered model's full name.",
        ),
    ] = "video_reward",
    challenger: Annotated[
        str | None,
        typer.Option(envvar="REELIGN_CHALLENGER", help="Number or alias.", show_default="the alias challenger"),
    ] = None,
    champion: Annotated[
        str | None,
        typer.Option(help="Number or alias; one that is not champion needs --dry-run.", show_default="the alias champion"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and move nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="The evidence's file.", show_default="registry/evidence-...json")] = None,
    remeasure: Annotated[
        bool,
        typer.Option(
            "--remeasure",
            envvar="REELIGN_REMEASURE",
            help="Draw and judge a champion generator's clips anew, as the challenger's were, also where settings changed.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the challenger champion if it has earned it: nothing lost on any dimension, something surely gained.

    A reward model is compared with the champion on test pairs that neither learnt from. It must be calibrated and keep its
    contract. A generator is compared on clips of the same prompts, seeds and settings by the held-out judge, and a hacking
    alarm is a veto. A judge that was trained again since judges the champion's clips anew. Limits are in params.yaml,
    promotion.

    Exit code 5: the challenger is refused; 0: promoted, no challenger, or champion already; 4: MLflow does not answer. The
    promotion has then not begun, or the next call finishes it.
    """
    from tqdm import tqdm

    from components.config.params import load_params
    from components.pipeline.mlflow_store import answering
    from components.registry.promote import as_lines, promote
    from components.registry.stale import as_lines as stale_lines
    from components.registry.versions import connect

    with answering():
        outcome = promote(
            connect(), model, challenger, champion, load_params(), dry_run, out,
            lambda items, what, total: tqdm(items, what, total, unit=" videos", disable=None),
            lambda text: print(text, file=sys.stderr), remeasure,
        )  # fmt: skip
    if as_json:
        file = outcome.file and str(outcome.file)
        print_json({"dry_run": dry_run, "evidence": outcome.evidence, "evidence_file": file, "stale": outcome.stale})
    else:
        lines = as_lines(outcome.evidence, dry_run) if outcome.evidence else []
        lines += [f"evidence: {outcome.file}"] if outcome.file else []
        lines += stale_lines(outcome.stale) if outcome.stale else []
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    if outcome.evidence and not outcome.evidence["verdict"]["promote"]:
        raise typer.Exit(NO)


def lineage(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="MODEL/VERSION or MODEL/ALIAS, a model version as scores have it, a file that a stage made, an MLflow run.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Where a model version, a score or a report came from: commit, params, data, stage runs, DAG run."""
    from components.pipeline.mlflow_store import answering
    from components.registry.lineage import as_lines, trace
    from components.registry.versions import connect

    with answering():
        found = trace(connect(), what)
    if as_json:
        print_json(found)
    else:
        print("\n".join(as_lines(found)))
