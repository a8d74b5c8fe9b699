"""The reader of all CSV input. BadInput names the bad line.

Strict: cells are separated by commas, each line has as many as the header, a cell with a comma, a quote or a line break is
quoted. For other formats the error names the format and how to save the file. Nothing is guessed, as a wrong guess shifts
columns.
"""

import csv
import io
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from components.errors import BadInput
from components.files.text import read_text

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
MOST_SHOWN = 12  # columns listed for a header that lacks one
NO_ALIASES: Mapping[str, str] = {}


def read_rows(
    path: str | Path,
    required: Iterable[str],
    optional: Iterable[str] = (),
    file: str | Path | None = None,
    aliases: Mapping[str, str] = NO_ALIASES,
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line the record starts on, cell by column) of each non-blank record, with cells stripped of white space.

    `aliases`: column in the file to its new name. BadInput, of `file`, where it is no CSV, lacks a required column, or has
    one of the columns twice or misspelt.
    """
    file = file or path
    required, optional = list(required), list(optional)
    records = _records(path, file)
    line, header = _header(records, file, aliases)
    for column in (*required, *optional):
        # An optional column with a misspelt name would be ignored silently.
        alike = [name for name in header if _plain(name) == _plain(column)]
        if column not in header and (alike or column in required):
            has = "', '".join(alike or header[:MOST_SHOWN])
            raise BadInput(file, f"missing column: the header has '{has}'{_code_points(has)}", row=line, key=column)
        if header.count(column) > 1:
            raise BadInput(file, "column appears twice", row=line, key=column)
    for line, cells in records:
        if len(cells) != len(header):
            raise BadInput(file, f"{len(cells)} cells, the header has {len(header)}{_why_other(cells, header)}", row=line)
        yield line, dict(zip(header, cells, strict=True))


def read_header(path: str | Path, file: str | Path | None = None, aliases: Mapping[str, str] = NO_ALIASES) -> list[str]:
    """Columns of a CSV, renamed by `aliases`; BadInput where it is no CSV."""
    file = file or path
    return _header(_records(path, file), file, aliases)[1]


def _header(records: Iterator[tuple[int, list[str]]], file: str | Path, aliases: Mapping[str, str]) -> tuple[int, list[str]]:
    line, cells = next(records, (1, None))
    if cells is None:
        raise BadInput(file, "empty: a CSV begins with a line of column names")
    if cells[0].lower().startswith(("<!doctype", "<html", "<?xml")):
        raise BadInput(file, "a web page or XML, not CSV", row=line)
    if cells[0].lower().startswith("sep="):
        raise BadInput(file, "a separator line for Excel, not column names: remove this line", row=line)
    for separator, name in SEPARATORS.items():
        if len(cells) == 1 and separator in cells[0]:
            why = f"cells are separated by {name}: save it with commas"
            raise BadInput(file, f"{why} (in a spreadsheet as 'CSV, comma separated')", row=line)
    return line, [aliases.get(name, name) for name in cells]


def _records(path: str | Path, file: str | Path) -> Iterator[tuple[int, list[str]]]:
    """(line the record starts on, cells) of each record with a cell that is not blank; errors name `file`."""
    line, text = 1, read_text(path, file)
    begin = text.lstrip()
    if begin.startswith(("{", "[")):
        raise BadInput(file, "JSON, not CSV", row=1 + text[: len(text) - len(begin)].count("\n"))
    try:
        # Otherwise a space after a comma makes the quotes part of the next cell.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise BadInput(file, f"not CSV: {_csv_error(str(error), line, reader.line_num)}", row=line) from error


def _csv_error(said: str, first: int, last: int) -> str:
    """A clearer message than the csv module's for a bad record of lines `first` to `last`."""
    if said.startswith("field larger"):
        return f"a cell has more than {csv.field_size_limit()} characters, or a quote opens here and is never closed"
    if said == "unexpected end of data":
        return "a quote opens here and is never closed"
    if said.endswith("expected after '\"'") and last > first:
        return f"a quote opens here and closes in line {last} inside text"
    if said.endswith("expected after '\"'"):
        return 'text after a closing quote; a quote inside a cell is written twice, as ""'
    return said


def _plain(name: str) -> str:
    """A name without case, spaces, punctuation and invisible characters."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", name).casefold() if letter.isalnum())


def _code_points(text: str) -> str:
    """The invisible characters of a text, by code point."""
    unseen = dict.fromkeys(f"U+{ord(letter):04X}" for letter in text if not letter.isprintable())
    return f" with {', '.join(unseen)}" if unseen else ""


def _why_other(cells: Sequence[str], header: Sequence[str]) -> str:
    if len(cells) < len(header):
        return ""
    if not any(cells[len(header) :]):
        return ": a comma at the end of the line, or one in a cell without quotes"
    return ": a cell with a comma in it needs quotes"
