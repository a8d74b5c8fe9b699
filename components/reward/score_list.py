"""The list of videos that `reelign score --csv` reads; without torch, as a client has none."""

from pathlib import Path

from components.errors import BadInput
from components.files.csv_tables import read_rows
from components.preferences.paths import check_name, stored_file


def read_list(csv: Path) -> list[tuple[Path, str]]:
    """(video, prompt) of a CSV with the columns path, relative to its folder, and prompt; BadInput names row and key."""
    items = []
    for row, cells in read_rows(csv, ["path", "prompt"]):
        for column in ("path", "prompt"):
            if not cells[column]:
                raise BadInput(csv, "empty", row=row, key=column)
        try:
            check_name(cells["path"])
        except ValueError as error:
            raise BadInput(csv, str(error), row=row, key="path") from error
        # A file that is not there stays as it is written: its line of the result has the reason.
        found = stored_file(csv.parent, cells["path"]) or cells["path"]
        items.append((csv.parent / found, cells["prompt"]))
    if not items:
        raise BadInput(csv, "no videos")
    return items
