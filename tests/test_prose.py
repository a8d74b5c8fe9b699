"""The prose linter: what it finds, what it leaves alone, and that the project passes."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def lint():
    spec = importlib.util.spec_from_file_location("lint", "docs/lint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(Path("docs").resolve()))


def test_long_sentences_and_verbs_of_people(lint, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"# The server wants {'a ' * 30}\n\nThe stage says `asks`. {'Word ' * 26}end.\n\n```sh\nasks\n```\n")
    found = lint.findings(page)
    assert [line.split(": ", 1)[1][:12] for line in found] == ["27 words: Wo", "'wants' is a", "'says' is a "]


def test_error_lines_and_help_of_code(lint, tmp_path):
    code = tmp_path / "module.py"
    code.write_text(
        "# this asks\n"
        "def f(x=option(help='The server knows it.')):\n"
        "    raise BadInput(file, f'the plan wants {x}, and no more')\n"
    )
    assert [line.split(":", 1)[1] for line in lint.findings(code)] == [
        "1: 'asks' is a verb for people",
        "2: 'knows' is a verb for people",
        "3: 'wants' is a verb for people",
    ]


def test_the_project_passes(lint):
    files = [*lint.pages(), *(path for pattern in lint.CODE for path in Path().glob(pattern))]
    assert [line for file in files for line in lint.findings(file)] == []
