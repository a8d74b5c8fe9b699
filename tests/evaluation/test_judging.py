"""Held-out judges on samples: a judge of pairs with a sample, a second one, and who must have a verdict."""

import numpy as np
import pandas as pd
import pytest

from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.evaluation.compare import alignment_metrics, headline
from components.evaluation.evaluate import win_rate_table
from components.evaluation.judging import Panel, judged, ordered
from components.evaluation.report import write_report
from components.evaluation.summary import summary
from components.judges.protocol import JudgeFacts
from components.pipeline.stage import write_json
from tests.evaluation.fixtures import GOLD_PANEL, METHODS, PARAMS, make_samples, metrics_of

PEOPLE = JudgeFacts("human:p.json", "human-p", "people", "i", DIMENSIONS, "points", None, True, True, True)
SCORES = JudgeFacts("command:x", "command-x", "the program x", "j", ("Overall",), "its own", 0.01)


class Pairs:
    """Prefers the first of dpo's clips on even prompts; no verdict on other prompts, or on other methods."""

    facts = PEOPLE

    def compare(self, pairs):
        rows = []
        for first, second in pairs:
            known = "/dpo/" in first.video and "/base/" in second.video and int(first.video.split("/")[-1][:3]) % 2 == 0
            rows.append(dict.fromkeys(DIMENSIONS, 1.0 if known else np.nan) | {"reason": None if known else "not asked"})
        return pd.DataFrame(rows)


class Scores:
    facts = SCORES

    def score(self, clips):
        return pd.DataFrame({"Overall": [float("/dpo/" in clip.video) for clip in clips], "reason": None})


@pytest.fixture
def samples(tmp_path):
    clips, looks = make_samples(tmp_path, prompts=12, seeds=1)
    return tmp_path, clips, looks


def panel_of(clips, judges, decides):
    return judged(clips, ordered(judges, decides), METHODS)


def test_judges_stand_side_by_side_and_the_first_leads(samples):
    root, clips, looks = samples
    clips, panel = panel_of(clips, {"command-x": Scores(), "human-p": Pairs()}, "human:p.json")
    assert panel.decides == "human-p" and panel.agreeing == {"human-p"}  # the program has no card
    params = PARAMS.model_copy(update={"judges": ["command:x", "human:p.json"], "decides": "human:p.json"})
    metrics = alignment_metrics(clips, looks, params, panel, seed=3)
    dpo, sft = metrics["methods"]["dpo"], metrics["methods"]["sft"]
    assert dpo["win_rate"]["human-p"]["Overall"]["n"] == 6 and dpo["win_rate"]["human-p"]["Overall"]["value"] == 1
    assert "human-p" not in sft["win_rate"] and sft["win_rate"]["command-x"]["Overall"]["value"] == 0.5
    assert list(dpo["win_rate"]["command-x"]) == ["Overall"] and "human-p" not in dpo["mean"]
    assert metrics["agreement"]["human-p/command-x"]["same"]["value"] == 1
    assert metrics["agreement"]["human-p/command-x"]["methods"] is None  # people saw one method
    assert metrics["judges"]["command-x"]["pointwise"] and not metrics["judges"]["human-p"]["pointwise"]
    shown = headline(metrics)
    assert shown["dpo"]["value"] == 1
    assert len(win_rate_table(metrics)) == 4 * 4 + 4 + 4

    metrics |= {k: v for k, v in metrics_of(root, *make_samples(root, 12, 1)).items() if k in ("samples", "sampling")}
    metrics |= {"prompt_set": None, "profile": "t"}
    write_json(root / "metrics/alignment.json", metrics)
    write_report(root / "index.html", metrics, clips, params, "t", [], [], root)
    page = (root / "index.html").read_text()
    assert "by people" in page and "The program x" in page and "no verdict" in page and "Judges side by side" in page
    said = summary("t", root)
    assert "people and the program x" in said and "human-p" in said


def test_a_missing_verdict_is_an_error_unless_it_is_a_sample(samples):
    _, clips, _ = samples

    class Failing(Scores):
        def score(self, clips):
            return super().score(clips).assign(reason=["no answer in 60 s", *[None] * (len(clips) - 1)])

    with pytest.raises(BadInput, match=r"samples\.parquet, key '000, seed 0': command:x .* no verdict: no answer in 60 s"):
        panel_of(clips, {"command-x": Failing()}, "command:x")

    class Whole(Pairs):
        facts = JudgeFacts("command:y", "y", "y", "i", DIMENSIONS, "points", None)

    with pytest.raises(BadInput, match="no verdict: not asked"):
        panel_of(clips, {"y": Whole()}, "command:y")


def test_gold_among_others_keeps_its_figures(samples):
    _, clips, looks = samples
    alone = alignment_metrics(clips, looks, PARAMS, GOLD_PANEL, seed=3)
    clips = clips.assign(**{"command-x_Overall": 1.0})
    both = Panel({**GOLD_PANEL.facts, "command-x": SCORES}, frozenset({"gold", "command-x"}), agreeing=frozenset({"gold"}))
    beside = alignment_metrics(clips, looks, PARAMS, both, seed=3)
    for method in METHODS:
        assert beside["methods"][method]["win_rate"]["gold"] == alone["methods"][method]["win_rate"]["gold"]
        assert beside["methods"][method]["hacking"]["signals"] == alone["methods"][method]["hacking"]["signals"]
