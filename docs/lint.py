"""Prose linter of `make lint`: rules of docs/style.md that a program can check.

Prints a line a finding; exit code 1 with any.

    python docs/lint.py              pages, CLI help, error lines, docstrings, comments
    python docs/lint.py README.md    these files alone

No verbs of people for programs, and at most 25 words a sentence. Python files are parsed, not imported.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from prose import LONGEST, sentences_of

PEOPLES_VERBS = re.compile(
    r"\b(?:asks|wants|wanted|says|thinks|believes|knows|tells|talks|hopes|tries to|looks for"
    r"|(?:is|are|was|were|be|been) (?:told|asked|said))\b"
)
PAGES = ("*.md", "docs/**/*.md", "examples/*.md")
CODE = ("components/**/*.py",)
# Folders whose docstrings of modules follow the rules so far; error lines and help are checked everywhere.
DOCSTRINGS = ("annotation", "cli", "curation", "registry", "serving", "video")
FREE = ("simulation", "video")  # whose other docstrings and comments may have verbs of people so far
ERRORS = re.compile(r"BadInput|Unreachable|Rejected|Trouble|VideoError|\w*Error$")


def pages() -> list[Path]:
    """The pages of this checkout that people read."""
    return sorted({path for pattern in PAGES for path in Path().glob(pattern) if path.name != "style.md"})


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of a page, or of a module's help, error lines and docstring."""
    if file.suffix == ".md":
        yield 1, file.read_text()
        return
    tree = ast.parse(file.read_text())
    room = file.parts[1] if file.parts[:1] == ("components",) else ""
    if room in DOCSTRINGS and (found := ast.get_docstring(tree)):
        yield 1, found
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and room == "cli" and (found := ast.get_docstring(node)):
            yield node.lineno, found
        if isinstance(node, ast.Call):
            for word in node.keywords:
                if word.arg == "help":
                    yield word.value.lineno, plain(word.value)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and ERRORS.search(ast.unparse(node.exc.func)):
            for given in node.exc.args:
                yield given.lineno, plain(given)


def remarks(file: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the docstrings and comments of a module, whose verbs alone are checked."""
    source = file.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def plain(node: ast.expr) -> str:
    """The text of a string or f-string; a word X for each value."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(plain(part) for part in node.values)
    return "X" if isinstance(node, ast.FormattedValue) else ""


def findings(file: Path) -> list[str]:
    found, whole = [], sorted(texts(file))
    for line, text in whole:
        for sentence in sentences_of(text):
            words = len(sentence.split())
            if words > LONGEST:
                found.append(f"{file}:{line}: {words} words: {sentence}")
    free = file.suffix != ".py" or (file.parts[1:2] and file.parts[1] in FREE)
    for line, text in sorted({*(whole if free else [*whole, *remarks(file)])}):
        for verb in dict.fromkeys(PEOPLES_VERBS.findall(re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL))):
            found.append(f"{file}:{line}: '{verb}' is a verb for people")
    return found


def main() -> None:
    given = [Path(name) for name in sys.argv[1:]]
    files = given or [*pages(), *sorted(path for pattern in CODE for path in Path().glob(pattern))]
    found = [line for file in files for line in findings(file)]
    print("\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
