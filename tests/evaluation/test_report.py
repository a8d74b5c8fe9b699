"""The report of the fixture pipeline: self-contained, with the figures given, and honest about what is absent."""

import asyncio
import json
import re
import shutil

import pytest

from components.evaluation.report import sentence, write_report
from components.evaluation.sections import curves, estimate
from components.evaluation.verdict import base_words
from components.evaluation.win_rates import Interval
from tests.annotation.browser import browser
from tests.evaluation.axe import violations
from tests.evaluation.fixtures import PARAMS, make_report, make_samples


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    out, metrics = make_report(root)
    return root, out.read_text(), metrics


@pytest.fixture(scope="module")
def page(made):
    return made[1]


def test_nothing_is_loaded_from_elsewhere(page):
    targets = re.findall(r"""(?:src|href|url|action|poster)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert targets and all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"https?://|@import|<iframe|<link(?![^>]*href=\"data:)", page)


def test_the_figures_of_the_metrics_are_in_the_page(page, made):
    metrics = made[2]
    for entry in metrics["methods"].values():
        for judge in ("gold", "reward"):
            for found in entry["win_rate"][judge].values():
                assert f"{100 * found['value']:.1f}%" in page
    headline = sentence("Flow-DPO", estimate(metrics["methods"]["dpo"]["win_rate"]["gold"]["Overall"]), "the gold judge")
    assert f"<h1>{headline}" in page
    assert "84.6%" in page and "0.64" in page  # reward bench, Krippendorff's alpha
    assert "d41d8cd98f00b204e9800998ecf8427e" in page  # dvc.lock


def test_what_guidance_buys_has_no_time_of_this_machine(page):
    row = re.search(r"1 · 0:0:1.*?</tr>", page, re.S)[0]
    assert "64.0%" in row and row.count("<td") == 4
    assert 'aria-label="1: VQ 61%, TA 66%; 2: VQ 66%, TA 52%; 3: VQ 57%, TA 54%; 4: VQ 57%, TA 54%"' in page


def test_the_same_inputs_give_the_same_page(page, made, tmp_path):
    """dvc.lock pins the page: commit, run ids and times would change it in every checkout."""
    again, _ = make_report(tmp_path)
    assert again.read_text() == page


def test_losses_that_stand_are_in_the_headline_beside_gains(tmp_path, made):
    clips, _ = make_samples(tmp_path, prompts=3, seeds=1)
    metrics = json.loads(json.dumps(made[2]))
    lost = {"value": 0.338, "ci95": [0.28, 0.4], "n": 100, "p": 0.001, "p_holm": 0.01}
    metrics["methods"]["sft"]["win_rate"]["gold"]["VQ"] = lost
    metrics["methods"]["dpo"]["win_rate"]["gold"]["MQ"] = lost
    metrics["methods"]["rwr"]["win_rate"]["gold"]["TA"] = lost | {"p_holm": 0.06}
    out = tmp_path / "index.html"
    write_report(out, metrics, clips, PARAMS, "fixture", [], [], tmp_path)
    head = out.read_text().split('<section id="clips"')[0]
    assert re.search(r"<h1>.*loses motion quality \(MQ 33.8% \(28 to 40%\)\)</span>\.</h1>", head)
    assert re.search(r"SFT .*it <strong.*>loses visual quality \(VQ 33.8% \(28 to 40%\)\)</strong>", head)
    assert "loses text alignment" not in head
    card = re.search(r'class="card sft".*?</article>', head, re.S)[0]
    assert '<span class="down">▼</span>' in card and "33.8% (28 to 40%)" in card


def test_the_head_says_how_base_was_sampled_and_spells_out_the_scores(page, made, tmp_path):
    head = page.split('<section id="clips"')[0]
    assert "Base is sampled with guidance scale 2, 8 steps, shift 3. Its win rates at 3.5 against 2" in head
    assert "by the gold judge on 120 clips: VQ 57.0% (52 to 63%)" in head and "Overall 57.0% (52 to 63%)." in head
    assert "VQ visual quality, MQ motion quality, TA text alignment" in head
    assert '<abbr title="motion quality">MQ</abbr>' in page
    assert "It was sampled at no other scale" in base_words(made[2], None)


def test_signals_have_base_and_limit(page, made):
    signals = page.split('<section id="signals"')[1].split("</section>")[0]
    row = re.search(r"Brightness, 0 to 1</th>(.*?)</tr>", signals, re.S)[1]
    base = made[2]["methods"]["sft"]["hacking"]["base"]
    assert f'<td class="num">{base["brightness"]:.3f}</td><td class="soft num">±0.100</td>' in row
    assert f"\N{MINUS SIGN}{0.3 * base['dynamic_degree']:.3f} or above" in signals


def test_the_source_is_a_few_rows_and_a_curve_of_one_point_is_a_number(page, tmp_path):
    labels = page.split('<section id="labels"')[1].split("</section>")[0]
    assert labels.count("<tr") < 12 and "render-clean" in labels and "87.4%" in labels
    assert labels.count('class="strip"') == 2  # the compared generators, best first
    assert labels.index("render-clean") < labels.index("wan")
    log = tmp_path / "models/video_reward/training.csv"
    log.parent.mkdir(parents=True)
    log.write_text("step,loss,validation/accuracy\n10,0.7,\n20,0.6,0.8\n")
    model = curves(tmp_path)[0][0]
    assert [bool(line["svg"]) for line in model["lines"]] == [True, False] and model["lines"][1]["last"] == 0.8


def test_what_stands_after_holm_is_marked(page, made):
    metrics = made[2]
    against_base = [cell for entry in metrics["methods"].values() for j in entry["win_rate"].values() for cell in j.values()]
    between = [found["Overall"] for entry in metrics["between"].values() for found in entry.values()]
    standing = [cell for cell in [*against_base, *between] if cell["p_holm"] <= 0.05]
    assert 0 < len(standing) < len(against_base) + len(between)
    assert page.count('<abbr class="stands"') == len(standing)
    assert f"after Holm {standing[0]['p_holm']:.2g}" in page
    assert "any false ✱ among a judge&#39;s 16 figures is at most 5%" in page
    for found in between:
        assert f"{100 * found['value']:.1f}%" in page


def test_missing_samples_are_said_at_the_top(tmp_path, made):
    clips, _ = make_samples(tmp_path, prompts=3, seeds=1)
    out = tmp_path / "index.html"
    samples = {"wanted": 34, "compared": 32, "missing": {"base": 0, "dpo": 2}, "left_out": {"base": 2, "dpo": 0}}
    metrics = made[2] | {"samples": samples, "seeds_per_prompt": None}
    write_report(out, metrics, clips, PARAMS, "fixture", [], [], tmp_path)
    top = out.read_text().split("<h1>")[0]
    assert "of 34 prompts and seeds, Flow-DPO lacks 2. All figures are of the 32" in top
    assert "16 unseen prompts, 32 pairs" in top
    assert "Samples are missing" not in made[1]


def test_every_clip_plays_and_can_be_stopped(page):
    videos = re.findall(r"<video[^>]*>", page)
    assert len(videos) == 12 * 5 + 8 * 2 + 4 * 2
    for video in videos:
        assert all(word in video for word in ("autoplay", "loop", "muted", "playsinline", "aria-label"))
    assert 'id="pause"' in page and "prefers-reduced-motion" in page


def test_the_rule_that_chose_the_clips_is_told(page):
    assert "12 of 16 prompts, evenly spaced in alphabetical order" in page


def test_absent_stages_are_named_and_not_faked(tmp_path, made):
    clips, _ = make_samples(tmp_path, prompts=3, seeds=1)
    out = tmp_path / "index.html"
    write_report(out, made[2], clips, PARAMS, "fixture", [], [], tmp_path)
    page = out.read_text()
    for absent in (
        "data/example_pairs is",
        "reward_bench.json is",
        "tradeoff.parquet is",
        "pairs.json is",
        "rwr/training.csv is",
        "dvc.lock names",
    ):
        assert f"{absent}" in page
    assert page.count("Not made:") >= 6
    assert 'class="curve"' not in page and "margin 0" not in page


def test_without_a_gold_judge_the_reader_is_warned(tmp_path, made):
    root, _, metrics = made
    clips, _ = make_samples(tmp_path, prompts=3, seeds=1)
    metrics = metrics | {"judges": {}, "decides": None, "agreement": {}}
    out = tmp_path / "index.html"
    shutil.copytree(root / "metrics", tmp_path / "metrics")
    write_report(out, metrics, clips, PARAMS, "fixture", [], [], tmp_path)
    page = out.read_text()
    assert "so this is no proof" in page and "by VideoReward" in page.split("</h1>")[0]
    assert "✓ right" not in page


def test_text_from_files_is_escaped(tmp_path, made):
    clips, _ = make_samples(tmp_path, prompts=3, seeds=1)
    clips["prompt"] = "<script>alert(1)</script> " + clips["prompt"]
    out = tmp_path / "index.html"
    write_report(out, made[2], clips, PARAMS, "fixture", [], [], tmp_path)
    assert "<script>alert" not in out.read_text()


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (Interval(0.71, 0.64, 0.78, 100, 50), "beats the base generator on 71% of clips (64–78%)"),
        (Interval(0.55, 0.48, 0.62, 100, 50), "does not differ significantly"),
        (Interval(0.40, 0.33, 0.47, 100, 50), "loses to the base generator"),
    ],
)
def test_the_verdict_follows_from_the_interval(rate, words):
    assert words in sentence("Flow-DPO", rate, "the gold judge")


@pytest.mark.browser
def test_the_page_is_accessible(page, tmp_path):
    still = tmp_path / "index.html"
    still.write_text(page.replace(" autoplay", ' preload="none"'))  # a hundred playing clips keep a small machine busy

    async def look() -> None:
        async with browser(tmp_path / "profile") as tab:
            for width, dark in ((1400, False), (1400, True), (420, False)):
                await tab.resize(width, dark=dark)
                await tab.open(still.as_uri())
                assert await violations(tab) == []
            spoiled = '<img src="data:,"><h1>x</h1><p style="color:#ccc">too pale to read</p>'
            await tab.evaluate(f"document.querySelector('h1').outerHTML = '{spoiled}'")
            assert {line.split(":")[0] for line in await violations(tab)} == {
                "critical image-alt",
                "serious color-contrast",
            }

    asyncio.run(look())


@pytest.mark.browser
def test_the_page_fits_narrow_and_wide_screens(made, tmp_path):
    async def look() -> None:
        async with browser(tmp_path / "profile") as page:
            for width in (360, 420, 768, 1440):
                for dark in (False, True):
                    await page.resize(width, dark=dark)
                    await page.open((made[0] / "report/index.html").as_uri())
                    assert await page.evaluate("document.documentElement.scrollWidth") <= width
                    await page.picture(tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png")
            assert all(url.startswith(("file:", "data:")) for url in page.requested)

    asyncio.run(look())
