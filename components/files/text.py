"""Reading of CSV and JSON input as UTF-8; errors name the actual format and how to save the file."""

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import BadInput

# First bytes of common non-text files.
MAGIC = {
    b"PK\x03\x04": "a zip archive or a workbook of Excel",
    b"\xd0\xcf\x11\xe0": "a workbook of old Excel (.xls)",
    b"\x1f\x8b": "compressed with gzip",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself (`git lfs pull` fetches that)",
}
UTF32 = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
UTF16 = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
SAVE = "save it as UTF-8"
MOST_BYTES = 1 << 30  # largest file that is read: in memory it takes several times as much


def read_text(path: str | Path, file: str | Path | None = None) -> str:
    """The text of a UTF-8 file, with its line ends, without a byte order mark. BadInput, of `file` where `path` is a copy,
    where it cannot be read or has another format, with the line of a byte that is not UTF-8."""
    file = file or path
    try:
        if (size := Path(path).stat().st_size) > MOST_BYTES:
            raise BadInput(file, f"{size} bytes of text; at most {MOST_BYTES} are read")
        raw = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadInput(file, "missing") from error
    except IsADirectoryError as error:
        raise BadInput(file, "a folder, not a file") from error
    except OSError as error:
        raise BadInput(file, f"cannot be read: {error.strerror}") from error
    for start, what in MAGIC.items():
        if raw.startswith(start):
            raise BadInput(file, f"not text but {what}")
    if raw[4:8] == b"ftyp":
        raise BadInput(file, "not text but a video or picture")
    if raw.startswith(UTF32) or raw[1:4] == bytes(3) or raw[:3] == bytes(3):
        raise BadInput(file, f"UTF-32 text: {SAVE} (`iconv -f UTF-32 -t UTF-8`)")
    if raw[:2] in UTF16 or _looks_like_utf16(raw):
        raise BadInput(file, f"UTF-16 text: {SAVE} (in Excel 'CSV UTF-8', or `iconv -f UTF-16 -t UTF-8`)")
    if b"\0" in raw:
        raise BadInput(file, "a NUL byte, which no text has: the file is damaged", row=_line(raw, raw.index(b"\0")))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(file, _not_utf8(raw, error), row=_line(raw, error.start)) from error


def read_json(path: str | Path, *keys: str) -> Any:
    """The content of a JSON file; BadInput as of read_text, with the line of the first syntax error, and where it is no
    object with these `keys`."""
    text = read_text(path)
    if not text.strip():
        raise BadInput(path, "not JSON: empty")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        more = " (one object a line: JSON Lines?)" if error.msg == "Extra data" else ""
        raise BadInput(path, f"not JSON: {error.msg}{more}", row=error.lineno) from error
    except ValueError as error:  # an integer of more digits than Python reads
        raise BadInput(path, f"not JSON that can be read: {error}") from error
    except RecursionError as error:
        raise BadInput(path, "not JSON that can be read: nested too deeply") from error
    if keys and not isinstance(value, dict):
        raise BadInput(path, "is no JSON object")
    for key in keys:
        if key not in value:
            raise BadInput(path, "missing key", key=key)
    return value


class Record(BaseModel):
    """Required keys of a JSON object that reelign wrote; other keys are allowed."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


Read = TypeVar("Read", bound=Record)


def read_record(path: str | Path, kind: type[Read]) -> Read:
    """A JSON file as a record; BadInput as of read_json and of check_record."""
    return check_record(path, read_json(path), kind)


def check_record(path: str | Path, value: Any, kind: type[Read]) -> Read:
    """The content of a JSON file as a record; BadInput for a key that is missing or has a wrong value."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        (first, *_) = error.errors()
        why = {"missing": "missing key", "model_type": "is no JSON object"}.get(first["type"], first["msg"])
        raise BadInput(path, why.removeprefix("Value error, "), key=".".join(map(str, first["loc"])) or None) from error


def read_json_if_there(path: str | Path) -> Any | None:
    """As read_json; None where there is no such file."""
    return read_json(path) if Path(path).exists() else None


def _looks_like_utf16(raw: bytes) -> bool:
    """Whether every other byte is 0, as in Latin text without a byte order mark."""
    start = raw[:200]
    return len(start) > 3 and max(start[0::2].count(0), start[1::2].count(0)) > 0.4 * len(start)


def _line(raw: bytes, place: int) -> int:
    """The line of a byte, from 1; line ends may be CR, LF or both."""
    return len(re.findall(rb"\r\n?|\n", raw[:place])) + 1


def _not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    if error.reason == "unexpected end of data" and error.end == len(raw):
        return "ends within a character: is the file cut off?"
    # The surrounding word in the most common other encoding, so that the user can check the guess.
    begin = max((raw.rfind(mark, 0, error.start) for mark in (b" ", b",", b";", b"\t", b"\n", b"\r", b'"')), default=-1) + 1
    word = re.split(rb'[ ,;\t\r\n"]', raw[max(begin, error.start - 30) : error.start + 30])[0]
    why = f"not UTF-8 text: byte {hex(raw[error.start])}"
    # Words of Western languages hardly have two such letters in a row. Other scripts are gibberish in Windows-1252.
    if re.search(rb"[\x80-\xff]{2}", word):
        return f"{why}: {SAVE} (in Excel 'CSV UTF-8', or `iconv -t UTF-8 -f ENCODING`, with GB18030, SHIFT_JIS, CP1251, ...)"
    word = word.decode("cp1252", "replace")
    return f"{why}; in Windows-1252 it is '{word}': {SAVE} (in Excel 'CSV UTF-8', or `iconv -f WINDOWS-1252 -t UTF-8`)"
