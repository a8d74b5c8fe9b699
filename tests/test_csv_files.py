"""The one reader of CSVs: what is none is named in one line, with the line of the file; nothing shifts columns silently."""

import gzip
import io
import random
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import BadInput
from components.files.csv_tables import read_header, read_rows
from components.files.text import MOST_BYTES, read_json

GOOD = 'path,prompt\na.mp4,"a cat, sitting"\nb.mp4,a dog\n'
ROWS = [(2, {"path": "a.mp4", "prompt": "a cat, sitting"}), (3, {"path": "b.mp4", "prompt": "a dog"})]


def read(path, *optional):
    return list(read_rows(path, ["path", "prompt"], optional))


def file_of(tmp_path, content: str | bytes):
    file = tmp_path / "x.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def refusal(tmp_path, content: str | bytes, *optional) -> str:
    file = file_of(tmp_path, content)
    with pytest.raises(BadInput) as caught:
        read(file, *optional)
    said = str(caught.value)
    assert said.isprintable(), said
    return said.removeprefix(str(file))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (GOOD, [2, 3]),
        ("\ufeff" + GOOD, [2, 3]),
        (GOOD.replace("\n", "\r\n"), [2, 3]),
        (GOOD.replace("\n", "\r"), [2, 3]),  # of old spreadsheets on Macs
        (GOOD.rstrip("\n"), [2, 3]),
        (GOOD.replace(",", ", "), [2, 3]),  # quotes after a space are quotes all the same
        ("\n\n" + GOOD.replace("\nb.mp4", "\n,\n , \n\nb.mp4") + ",\n,,\n\n", [4, 8]),  # rows of separators alone
        ("path,prompt,,\n" + 'a.mp4,"a cat, sitting",,\nb.mp4,a dog,,\n', [2, 3]),
    ],
)
def test_what_is_csv_is_read(tmp_path, content, lines):
    found = [(line, {name: cells[name] for name in ("path", "prompt")}) for line, cells in read(file_of(tmp_path, content))]
    assert [line for line, _ in found] == lines
    assert [cells["prompt"].replace(" ", "") for _, cells in found] == ["acat,sitting", "adog"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", ": empty: a CSV begins with a line of column names"),
        (" \n,,\n", ": empty: a CSV begins with a line of column names"),
        (
            "path,prompt\na.mp4,a cat, sitting\n",
            ", row 2: 3 cells, the header has 2: a cell with a comma in it needs quotes",
        ),
        # In every row: pandas takes the first column for names of rows and shifts the others.
        ("path,prompt\na.mp4,a cat, sitting\nb.mp4,a dog, running\n", ", row 2: 3 cells, the header has 2: a cell with a"),
        ("path,prompt\na.mp4,a cat,\n", ", row 2: 3 cells, the header has 2: a comma at the end of the line, or one in a"),
        ("path,prompt\na.mp4\n", ", row 2: 1 cells, the header has 2"),
        ('path,prompt\na.mp4,"a cat\nb.mp4,a dog\n', ", row 2: not CSV: a quote opens here and is never closed"),
        (
            'path,prompt\na.mp4,"a cat\nb.mp4,"a dog"\n',
            ", row 2: not CSV: a quote opens here and closes in line 3",
        ),
        (
            'path,prompt\n\na.mp4,"' + "a cat " * 30_000,
            ", row 3: not CSV: a cell has more than 131072 characters, or a",
        ),
        (
            "path,prompt\na.mp4," + "a" * 200_000,
            ", row 2: not CSV: a cell has more than 131072 characters, or a",
        ),
        ('path,prompt\na.mp4,"a "big" cat"\n', ", row 2: not CSV: text after a closing quote; a quote inside a cell is"),
        ("path;prompt\na.mp4;a cat\n", ", row 1: cells are separated by semicolons: save it with commas"),
        ("path\tprompt\na.mp4\ta cat, sitting\n", ", row 1: cells are separated by tabs: save it with commas"),
        ("path|prompt\na.mp4|a cat\n", ", row 1: cells are separated by vertical bars"),
        ("sep=;\npath;prompt\n", ", row 1: a separator line for Excel, not column names: remove this line"),
        ("path,prompt,path\na.mp4,a cat,b.mp4\n", ", row 1, key 'path': column appears twice"),
        ("path,text\n", ", row 1, key 'prompt': missing column: the header has 'path', 'text'"),
        ("path,Prompt\n", ", row 1, key 'prompt': missing column: the header has 'Prompt'"),
        (
            "path,pro\u200bmpt\n",
            ", row 1, key 'prompt': missing column: the header has 'pro\\u200bmpt' with U+200B",
        ),
        (
            "\ufeff\ufeffpath,prompt\n",
            ", row 1, key 'path': missing column: the header has '\\ufeffpath' with U+FEFF",
        ),
        ("path,my\xa0prompt\n", ", row 1, key 'prompt': missing column: the header has 'path', 'my\\xa0prompt' with U+00A0"),
        ('[{"path": "a.mp4"}]', ", row 1: JSON, not CSV"),
        ('{"path": "a.mp4"}\n', ", row 1: JSON, not CSV"),
        ('\n{"path": "a.mp4", "prompt": "a cat"}\n', ", row 2: JSON, not CSV"),
        ("<!DOCTYPE html>\n<html>\n", ", row 1: a web page or XML, not CSV"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ": not text but a pointer of Git LFS"),
        (GOOD.encode("utf-16"), ": UTF-16 text: save it as UTF-8"),
        (GOOD.encode("utf-16-le"), ": UTF-16 text: save it as UTF-8"),
        (GOOD.encode("utf-16-be"), ": UTF-16 text: save it as UTF-8"),
        (GOOD.encode("utf-32"), ": UTF-32 text: save it as UTF-8 (`iconv -f UTF-32 -t UTF-8`)"),
        (GOOD.encode("utf-32-be"), ": UTF-32 text: save it as UTF-8"),
        # Read as Windows-1252 they would be other prompts.
        *(
            (GOOD.replace("a dog", text).encode(encoding), f", row 3: not UTF-8 text: byte {byte}: save it as UTF-8")
            for text, encoding, byte in (
                ("一只猫在跑", "gb18030", "0xd4"),
                ("猫が走る", "shift_jis", "0x94"),
                ("고양이", "euc-kr", "0xb0"),
                ("кошка бежит", "cp1251", "0xea"),
            )
        ),
        (
            GOOD.replace("a dog", "a café, red").encode("cp1252"),
            ", row 3: not UTF-8 text: byte 0xe9; in Windows-1252 it is 'café': save it as UTF-8",
        ),
        (
            GOOD.replace("a dog", "it’s a dog").encode("cp1252"),
            ", row 3: not UTF-8 text: byte 0x92; in Windows-1252 it is 'it’s'",
        ),
        (GOOD.replace("\n", "\r").replace("dog", "caf\xe9").encode("latin1"), ", row 3: not UTF-8 text: byte 0xe9"),
        (GOOD.encode() + "\u732b".encode()[:2], ", row 4: ends within a character: is the file cut off?"),
        (GOOD.replace("dog", "d\0g"), ", row 3: a NUL byte, which no text has: the file is damaged"),
        (gzip.compress(GOOD.encode(), mtime=0), ": not text but compressed with gzip"),
        (b"PAR1" + bytes(20), ": not text but a Parquet file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1" + bytes(20), ": not text but a workbook of old Excel (.xls)"),
        (bytes(4) + b"ftypisom" + bytes(20), ": not text but a video or picture"),
    ],
)
def test_what_is_no_csv_is_named(tmp_path, content, said):
    assert refusal(tmp_path, content).startswith(said)


def test_a_workbook_is_named(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    assert refusal(tmp_path, content.getvalue()) == ": not text but a zip archive or a workbook of Excel"


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    for place, said in (
        (tmp_path / "none.csv", "missing"),
        (tmp_path, "a folder, not a file"),
        (tmp_path / "a" / "b", "missing"),
    ):
        with pytest.raises(BadInput, match=f"{place}: {said}"):
            read(place)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput, match=r"x\.csv: missing"):
        read(tmp_path / "file" / "x.csv")


def test_optional_columns_are_held_to_their_names_too(tmp_path):
    assert read(file_of(tmp_path, GOOD), "model")
    assert (
        refusal(tmp_path, "path,prompt,Model\n", "model") == ", row 1, key 'model': missing column: the header has 'Model'"
    )
    assert refusal(tmp_path, "path,prompt,m,m\n", "m") == ", row 1, key 'm': column appears twice"
    assert read(file_of(tmp_path, "path,prompt,m,m\na,b,c,d\n")), "what is not read may stand there twice"


def test_names_that_columns_have_elsewhere(tmp_path):
    file = file_of(tmp_path, "\ufeffpath_A, A_model ,x\n")
    assert read_header(file, aliases={"A_model": "model_A"}) == ["path_A", "model_A", "x"]


@given(st.integers(0, 2**32))
def test_a_damaged_file_is_one_line_or_is_read(tmp_path_factory, seed):
    """Bytes taken out, put in, doubled and swapped anywhere."""
    rng, raw = random.Random(seed), bytearray(GOOD.encode() * 2)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(raw))
        raw[place : place + rng.randrange(3)] = rng.choice([b"", b'"', b",", b"\r", b"\0", b"\xff", b"\xe2\x80\x8b", b";\t"])
    file = tmp_path_factory.mktemp("csv") / "x.csv"
    file.write_bytes(raw)
    try:
        assert all(cells.keys() >= {"path", "prompt"} for _, cells in read(file))
    except BadInput as error:
        assert str(error).isprintable()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON: empty"),
        (b"{", ", row 1: not JSON: Expecting property name"),
        (b'{"a": 1}\n{"a": 2}\n', ", row 2: not JSON: Extra data (one object a line: JSON Lines?)"),
        ("\ufeff{}".encode("utf-16"), "UTF-16 text"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON that can be read: Exceeds the limit"),
    ],
)
def test_json_that_is_none_is_named(tmp_path, content, said):
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_json(file)
    assert said in str(caught.value)
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file) == {"a": 1}


def test_a_file_too_large_for_memory_is_refused_before_it_is_read(tmp_path):
    file = file_of(tmp_path, GOOD)
    with open(file, "r+b") as stream:
        stream.truncate(MOST_BYTES + 1)  # a hole: takes no room
    for reader in (read, read_json):
        with pytest.raises(BadInput, match=f"{MOST_BYTES + 1} bytes of text; at most {MOST_BYTES} are read"):
            reader(file)
