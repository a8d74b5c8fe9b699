"""Figures on annotators, by hand where a hand can; the page holds them and can be read on narrow and wide screens."""

import asyncio
import re

import krippendorff
import numpy as np
import pytest

from components.annotation.importing import import_studio
from components.annotation.report import write_report
from components.annotation.statistics import alpha_interval, figures_by_annotator, side_interval, votes_of
from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.preferences.schema import Annotation, group_by_pair, write_annotations
from tests.annotation.browser import browser
from tests.annotation.conftest import QUESTIONS, work

UNRATED = dict.fromkeys(DIMENSIONS)


def say(pair: int, annotator: str, *labels: int | None, prompt: str | None = None) -> Annotation:
    given = dict(zip(DIMENSIONS, (*labels, None), strict=True))
    where = (f"old/{pair}.mp4", f"new/{pair}.mp4", prompt or f"prompt {pair}", annotator)
    return Annotation(2, *where, given, "old", "new", UNRATED, UNRATED)


def draw_annotations(pairs: int, habits: dict[str, float], seed: int = 0) -> list[Annotation]:
    """Three annotators who see the truth with probability 0.8 and else say A with the probability of their habit."""
    rng = np.random.default_rng(seed)
    shown = []
    for pair in range(pairs):
        truth = rng.integers(-1, 2, 3)
        for name, habit in habits.items():
            labels = [t if rng.random() < 0.8 else (1 if rng.random() < habit else -1) for t in truth]
            shown.append(say(pair, name, *map(int, labels), prompt=f"prompt {pair % 20}"))
    return shown


def test_figures_by_hand():
    shown = [
        *(say(0, "7", 1, 0, 1), say(0, "8", 1, 0, -1), say(0, "9", 1, -1, 0)),  # TA: nobody agrees
        *(say(1, "7", 0, 1, 1), say(1, "8", 1, 1, 1), say(1, "9", 1, 1, 1)),
        *(say(2, "7", -1, 1, 1), say(2, "8", -1, 1, 1)),  # a third is missing
        *(say(3, "7", 1, 1, 1), say(3, "8", 0, 1, 1), say(3, "10", -1, 1, 1), say(3, "reviewer", 0, None, None)),
    ]
    pairs, _ = group_by_pair("f", shown)
    people = {one.name: one for one in figures_by_annotator("f", pairs, shown, np.random.default_rng(0))}
    assert list(people) == ["7", "8", "9", "10"]
    seven = people["7"]
    assert (seven.pairs, people["9"].pairs, people["10"].pairs) == (4, 2, 1)
    assert (seven.ties["VQ"], seven.ties["MQ"]) == (1 / 4, 1 / 4)
    assert seven.agreed["VQ"] == (0, 2)  # pair 1: the others' A; pair 3: the reviewer's tie; 0 and 2 are open
    assert people["8"].agreed["VQ"] == (1, 2)
    # Rows A, tie, B by the others; columns A, tie, B by 7. Pair 0: A, A. Pair 1: A, tie. Pair 3: the others differ.
    assert seven.confusion["VQ"].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert people["9"].confusion["MQ"].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert people["10"].side.low is None and people["10"].side.prompts == 1  # one prompt says nothing about a habit


def test_votes_of_a_changing_crew_are_the_same_three_rows():
    shown = [*(say(0, name, 1, 0, -1) for name in "123"), *(say(1, name, 0, 0, 0) for name in "45")]
    votes, prompts = votes_of(group_by_pair("f", shown)[0], "VQ")
    assert votes.shape == (3, 2) and np.isnan(votes[2, 1]) and votes[:, 0].tolist() == [1, 1, 1]
    assert len(set(prompts)) == 2


def test_alphas_interval_is_the_bootstraps():
    shown = draw_annotations(200, {"1": 0.5, "2": 0.5, "3": 0.5})
    votes, prompts = votes_of(group_by_pair("f", shown)[0], "VQ")
    found = alpha_interval(votes, prompts, "ordinal", np.random.default_rng(0))
    assert found.value == pytest.approx(krippendorff.alpha(reliability_data=votes, level_of_measurement="ordinal"))
    assert found.low < found.value < found.high and 0.05 < found.high - found.low < 0.4
    assert (found.n, found.prompts) == (200, 20)
    few = alpha_interval(votes, np.arange(200) % 4, "ordinal", np.random.default_rng(0))
    assert (few.value, few.low, few.high, few.prompts) == (found.value, None, None, 4)
    assert alpha_interval(np.ones((3, 200)), prompts, "ordinal", np.random.default_rng(0)) is None


def test_a_habit_is_seen_and_fairness_too():
    shown = draw_annotations(400, {"1": 0.5, "2": 0.95, "3": 0.5})
    rng = np.random.default_rng(0)
    sides = {name: side_interval([view for view in shown if view.annotator == name], rng) for name in "123"}
    assert sides["2"].low > 0.5 and sides["1"].low < 0.5 < sides["1"].high


def test_the_page(exported, tmp_path):
    answers = {11: dict.fromkeys(QUESTIONS, "A"), 12: dict.fromkeys(QUESTIONS, "A"), 13: dict.fromkeys(QUESTIONS, "B")}
    studio = exported.studio(answers)
    for place, task in enumerate(studio):
        for annotation in task["annotations"]:
            annotation["lead_time"] = 10.0 + place if annotation["completed_by"] == 11 else None
    studio[0]["annotations"][1] = work(12, answers[12] | {"TA": "tie"})
    file, export = tmp_path / "labels.csv", exported.write(studio)
    write_annotations(file, import_studio(export, exported.folder, []).annotations)
    out = tmp_path / "report/page.html"
    write_report(file, out, exported.folder, export)
    page = out.read_text()
    assert "18 answers of 3 annotators to 6 pairs of 2 prompts" in re.sub(r"\s+", " ", page)
    assert "5 pairs are decided, 0 await annotators, 1 await the reviewer" in page
    assert exported.tasks[0].task in page and exported.tasks[1].task not in page
    assert '<td class="num">12 s</td>' in page and "–" in page
    assert page.count("<svg") >= 3 and ">Overall<" not in page and "Ties, Overall" not in page
    write_report(file, tmp_path / "again.html", exported.folder, export)
    assert (tmp_path / "again.html").read_text() == page
    write_report(file, out)
    assert exported.tasks[0].task not in out.read_text() and "Time:" not in out.read_text()


def test_labels_of_nobody_have_no_report(tmp_path):
    write_annotations(tmp_path / "given.csv", [say(0, "given", 1, 1, 1)])
    with pytest.raises(BadInput, match="key 'annotator': labels without annotators"):
        write_report(tmp_path / "given.csv", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_text_from_outside_is_no_markup(tmp_path):
    hostile = [say(0, name, 1, 0, label, prompt="<script>x</script>") for name, label in zip("123", (1, 0, -1), strict=True)]
    write_annotations(tmp_path / "labels.csv", hostile)
    write_report(tmp_path / "labels.csv", tmp_path / "page.html")
    assert "<script>" not in (tmp_path / "page.html").read_text()


@pytest.mark.browser
def test_the_page_fits_narrow_and_wide_screens(tmp_path):
    shown = draw_annotations(60, {"1": 0.5, "2": 0.9, "34": 0.5})
    shown += [
        say(99, name, 1, 0, label, prompt="word " * 40) for name, label in zip(("1", "2", "34"), (1, 0, -1), strict=True)
    ]
    write_annotations(tmp_path / "labels.csv", shown)
    write_report(tmp_path / "labels.csv", tmp_path / "page.html")

    async def look() -> None:
        async with browser(tmp_path / "profile") as page:
            for width in (360, 768, 1440):
                for dark in (False, True):
                    await page.resize(width, dark=dark)
                    await page.open((tmp_path / "page.html").as_uri())
                    assert await page.evaluate("document.documentElement.scrollWidth") <= width
                    await page.picture(tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png")

    asyncio.run(look())
