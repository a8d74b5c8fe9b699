"""The page of an online method: win rates, curves over rounds and steps, alarms; whole in itself."""

import pandas as pd
import pytest

from components.methods import ONLINE
from components.online.page import lines_of, online_page


def metrics(method: str, reasons: list[str]) -> dict:
    rate = {"value": 0.75, "ci95": [0.6, 0.9], "n": 8}
    found = {"win_rate": {"reward": {"VQ": rate, "Overall": rate}}, "hacking": {"alarm": bool(reasons), "reasons": reasons}}
    return {"profile": "smoke", "decides": None, "judges": {}, "methods": {f"online-{method}": found}}


ROWS = pd.DataFrame({"step": [1, 2, 3], "loss": [0.5, 0.4, 0.3]})
ROUNDS = pd.DataFrame(
    {"round": [1.0, 2.0], "clips": [6.0, 6.0], "reward": [0.1, 0.2], "frozen_old": [None, 1.0], "alarm": [0.0, 1.0]}
)


def test_it_shows_rounds_and_training():
    page = online_page("nft", metrics("nft", []), ROUNDS, ROWS)
    assert ONLINE["nft"].title in page and "VQ 75.0% (60.0% to 90.0%)" in page
    assert "reward: from 0.1 to 0.2 over 2 steps" in page and "loss: from 0.5 to 0.3 over 3 steps" in page
    assert "equalled the old policy in round 2" in page and "Hacking alarm in round 2, beside round 1" in page
    assert "http" not in page.replace("http-equiv", ""), "no file but its own"


def test_rounds_without_an_alarm():
    page = online_page("nft", metrics("nft", []), ROUNDS.assign(alarm=0.0), ROWS)
    assert "Hacking alarm" not in page


def test_alarms_and_a_method_without_rounds():
    page = online_page("prfl", metrics("prfl", ["a <b> fell"]), pd.DataFrame(), ROWS)
    assert "Hacking alarm: a &lt;b&gt; fell" in page and "Rounds" not in page and "old policy" not in page


@pytest.mark.parametrize("values", [[1.0, None], [None, None]])
def test_a_single_value_is_no_curve(values):
    assert lines_of(pd.DataFrame({"step": [1, 2], "loss": values}), "step") == []
