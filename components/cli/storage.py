"""`reelign gc`: what the disks hold, and the removal of what is safe to drop."""

from pathlib import Path
from typing import Annotated

import typer

from components.cli.output import AsJson, print_json


def gc(
    days: Annotated[int, typer.Option(min=1, help="What was made or used in the last DAYS days stays.")] = 30,
    apply: Annotated[bool, typer.Option("--apply", help="Remove what is safe to drop. Without it nothing changes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what is stored here, why each part stays or may go, and with --apply remove what is safe to drop.

    These are the DVC cache, MLflow artifacts, frame caches, tables of reference errors, served logs and served versions.
    What a dvc.lock of any branch, a registered version, a record of a deployment or a run of the last DAYS days needs stays.

    --apply is refused while a stage runs. Exit code 4 where the server of MLflow does not answer.
    """
    from components.config.params import load_params
    from components.orchestration.storage.collect import as_lines, look, no_stage_runs, remove, summed

    checkout, params = Path.cwd(), load_params()
    if apply:
        with no_stage_runs(checkout):
            items = look(checkout, params, days)
            freed = remove(items)
    else:
        items, freed = look(checkout, params, days), 0
    rows = summed(items)
    if as_json:
        print_json({"applied": apply, "rows": rows, "freed": freed})
        return
    print("\n".join(as_lines(rows)) if rows else "nothing is stored here")
    would = sum(row["frees"] for row in rows)
    print(f"{freed:,} bytes freed" if apply else f"--apply would free {would:,} bytes")
