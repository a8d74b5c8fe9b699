"""Answers of a judge `vlm:NAME` on record, by digest of the question. Each is written when it arrives: a killed run has paid
for what it got, and what it got is not asked again."""

import json
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from components.errors import BadInput
from components.files.atomic import discard
from components.judges.vlm_questions import Answer

AT_ONCE = 500  # digests of a query
PATIENCE = 30.0  # seconds that another program may hold the file


class Record:
    """A file with a row an answer. Threads share it. A file that is damaged is begun anew, which is printed."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._rows = _open(file)
        except sqlite3.OperationalError as error:  # in use, or not to be written: nothing is lost
            raise BadInput(file, f"cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            for part in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))):
                if part.exists():
                    discard(part, error)
            self._rows = _open(file)

    def known(self, digests: Iterable[str]) -> dict[str, Answer]:
        """Those of `digests` that were answered."""
        wanted, found = list(digests), {}
        with self._lock:
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                marks = ", ".join("?" * len(part))
                query = self._rows.execute(f"SELECT digest, answer FROM answers WHERE digest IN ({marks})", part)
                found |= {digest: Answer(**json.loads(text)) for digest, text in query}
        return found

    def keep(self, digest: str, answer: Answer) -> None:
        with self._lock, self._rows:
            self._rows.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (digest, json.dumps(asdict(answer))))

    def close(self) -> None:
        with self._lock, suppress(sqlite3.Error):
            self._rows.close()


def _open(file: Path) -> sqlite3.Connection:
    rows = sqlite3.connect(file, timeout=PATIENCE, check_same_thread=False)
    try:
        with rows:
            rows.execute("PRAGMA journal_mode = WAL")  # a process that is killed loses nothing that was committed
            rows.execute("PRAGMA synchronous = NORMAL")
            rows.execute("CREATE TABLE IF NOT EXISTS answers (digest TEXT PRIMARY KEY, answer TEXT NOT NULL)")
            (state,) = rows.execute("PRAGMA quick_check").fetchone()
    except sqlite3.DatabaseError:
        rows.close()
        raise
    if state != "ok":
        rows.close()
        raise sqlite3.DatabaseError(state)
    return rows
