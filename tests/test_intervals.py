import pytest

from components.reward.metrics import summary
from components.statistics.intervals import MIN_PROMPTS, as_json, as_scalars, as_text, counted, is_above, is_below


def test_an_estimate_has_one_shape_with_and_without_an_interval():
    assert as_json(0.7, 0.6, 0.8, 12, 9) == {"value": 0.7, "ci95": [0.6, 0.8], "n": 12}
    assert as_json(0.5, None, None, 12, 1) == {"value": 0.5, "ci95": None, "n": 12, "prompts": 1}
    assert as_json(None, None, None, 0, 0) == {"value": None, "ci95": None, "n": 0}
    assert 1 < MIN_PROMPTS < 10


@pytest.mark.parametrize(
    ("found", "text", "scalars"),
    [
        (as_json(0.71234567, 0.64, 0.78, 9, 9), "0.712 [0.640, 0.780]", {"value": 0.7123, "low": 0.64, "high": 0.78}),
        (as_json(0.5, None, None, 9, 3), "0.500 (n=3 prompts: too few for an interval)", {"value": 0.5}),
        (as_json(0.5, None, None, 9, 1), "0.500 (n=1 prompt: too few for an interval)", {"value": 0.5}),
        (as_json(None, None, None, 0, 0), "none", {}),
    ],
)
def test_text_and_scalars(found, text, scalars):
    assert as_text(found) == text and as_scalars(found) == scalars


def test_without_an_interval_nothing_differs():
    sure, few = as_json(0.9, 0.8, 1.0, 9, 9), as_json(1.0, None, None, 9, 2)
    assert is_above(sure, 0.5) and not is_above(few, 0.5)
    assert is_below(sure, 1.1) and not is_below(few, 1.1)


def test_one_has_no_plural():
    assert (counted(0, "pair"), counted(1, "pair"), counted(2, "pair")) == ("0 pairs", "1 pair", "2 pairs")
    kind = {"value": 1.0, "ci95": None, "n": 1, "prompts": 1}
    entry = {"accuracy_without_ties": kind, "accuracy_with_ties": kind}
    assert " over 1 pair;" in summary(entry, {"random": None, "always_tie": None})
