"""A CSV's own names of columns and words of labels: `--columns path_A=left,prompt=caption`, `--labels left=A,tie=same`."""

import csv
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from components.contracts import LABELS
from components.errors import BadInput
from components.files.csv_tables import read_header
from components.preferences.schema import ALIASES

# Names of the same columns in public copies of GenAI-Bench.
COPIES = {"left_video_path": "left_video", "right_video_path": "right_video"}


@dataclass(frozen=True)
class Mapped:
    """`columns`: a layout's column to its name in the file. `words`: a label in the file to 1 (A), -1 (B), 0 (same)."""

    columns: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, int] = field(default_factory=dict)

    @property
    def given(self) -> bool:
        return bool(self.columns or self.words)

    def aliases(self) -> dict[str, str]:
        """Columns of the file to a layout's. One that stands for a mapped column under its plain name stays as it is, and
        is then there twice, which the reader refuses."""
        return ALIASES | COPIES | {theirs: ours for ours, theirs in self.columns.items()}

    def own(self, column: str) -> str:
        """The file's name of a layout's column."""
        return self.columns.get(column, column)

    @contextmanager
    def own_names(self) -> Iterator[None]:
        """Errors name the file's own columns."""
        try:
            yield
        except BadInput as error:
            file, why, row, key = error.args
            if key in self.columns:
                raise BadInput(file, why, row=row, key=self.own(key)) from error
            raise

    def header(self, file: Path, known: Collection[str]) -> list[str]:
        """The file's columns by the layout's names; BadInput where a mapped one is not there, or for none of the `known`
        columns."""
        for ours in self.columns:
            if ours not in known:
                raise BadInput("--columns", f"'{ours}' is no column that is read here: {', '.join(dict.fromkeys(known))}")
        there = read_header(file)
        for theirs in self.columns.values():
            if theirs not in there:
                raise BadInput("--columns", f"{file} has no column '{theirs}': its header has {', '.join(there)}")
        return [self.aliases().get(name, name) for name in there]


AS_IT_IS = Mapped()


def read_mapped(columns: str | None, labels: str | None) -> Mapped:
    """The two options. BadInput where one is no list of NAME=VALUE, has a name twice, or a meaning that is no label. A name
    with a comma in it stands in quotes, as in a CSV."""
    ours = _pairs("--columns", columns)
    if len(set(ours.values())) < len(ours):
        raise BadInput("--columns", "a column of the file stands for two")
    words = _pairs("--labels", labels)
    for word, meaning in words.items():
        if meaning not in LABELS:
            raise BadInput("--labels", f"'{word}={meaning}': a label means {', '.join(LABELS)}")
    return Mapped(ours, {word: LABELS[meaning] for word, meaning in words.items()})


def _pairs(option: str, text: str | None) -> dict[str, str]:
    found: dict[str, str] = {}
    if text is None:
        return found
    for cell in next(csv.reader([text]), []):
        name, equals, value = (part.strip() for part in cell.partition("="))
        if not (name and equals and value):
            raise BadInput(option, f"'{cell}' is not NAME=VALUE")
        if name in found:
            raise BadInput(option, f"'{name}' stands there twice")
        found[name] = value
    return found
