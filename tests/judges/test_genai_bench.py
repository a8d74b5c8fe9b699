"""benchmarks/genai_bench.py: counting by hand, and the published figures where the votes are here."""

import runpy
from pathlib import Path

import numpy as np
import pytest

VOTES = Path(__file__).parents[2] / "../shared/data/genai-bench"
PUBLISHED = {"gpt4o": "48.46", "gemini-1.5-pro": "46.21", "llava": "30.40", "random": "25.16"}  # four classes


@pytest.fixture
def script():
    return runpy.run_path("benchmarks/genai_bench.py")


def test_an_answer_that_is_none_is_wrong_and_not_read(script):
    people = ["[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]"]
    answers = ["[[A>B]]", "A>B", "[[A=B=Bad]]", "[[A=B=Bad]]"]
    classes = np.array([1, -1, 0, 0])
    read, four, three, decided = script["figures"](answers, people, classes)
    assert (read, four.value, three.value, decided.value) == (3, 0.5, 0.75, 0.5)
    assert script["figures"]([""] * 4, people, classes)[2].value == 0


@pytest.mark.skipif(not VOTES.exists(), reason="GenAI-Bench's votes are not here")
def test_published_four_class_accuracies_come_out(script, capsys):
    script["main"](VOTES)
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in capsys.readouterr().out.splitlines()}
    assert {name: rows[name][2].split()[0] for name in PUBLISHED} == PUBLISHED
