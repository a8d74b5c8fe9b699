"""Tables of the report as CSV files inside the page: links to `data:` addresses, which a reader saves."""

import csv
import io
from urllib.parse import quote

import pandas as pd

from components.contracts import DIMENSIONS

DIGITS = 4


def downloads(alignment: dict, clips: pd.DataFrame, judges: list[str], bench: dict | None, tradeoff: dict | None) -> dict:
    """File name, address and number of rows of each section's CSV, by the section's id.

    Args:
        alignment: the content of metrics/alignment.json.
        clips: those that the page shows; all of them would double its text (data/sample_scores.parquet has them).
        bench, tradeoff: the content of metrics/reward_bench.json and metrics/tradeoff.json, where there are any.
    """
    rates = {
        (method, judge, dimension): found
        for method, entry in alignment["methods"].items()
        for judge in judges
        for dimension, found in entry["win_rate"].get(judge, {}).items()
    }
    changes = {
        (method, signal): found
        for method, entry in alignment["methods"].items()
        for signal, found in entry["hacking"]["signals"].items()
        if found
    }
    tables = {
        "clips": ("clip_scores.csv", scores(clips, judges)),
        "win-rates": ("win_rates.csv", estimates(("method", "judge", "dimension"), rates, ("p", "p_holm"))),
        "signals": ("signals.csv", estimates(("method", "signal"), changes)),
    }
    if tradeoff:
        found = {
            (setting, judge, dimension): cell
            for setting, entry in tradeoff["settings"].items()
            for judge, cells in entry["win_rate"].items()
            for dimension, cell in cells.items()
        }
        tables["tradeoff"] = ("tradeoff.csv", estimates(("setting", "judge", "dimension"), found))
    if bench:
        found = {
            (dimension, kind): entry[f"accuracy_{kind}_ties"]
            for dimension, entry in bench["dimensions"].items()
            for kind in ("without", "with")
        }
        tables["reward-bench"] = ("reward_accuracy.csv", estimates(("dimension", "ties"), found))
    return {
        name: {"file": file, "href": address(text), "rows": text.count("\n") - 1} for name, (file, text) in tables.items()
    }


def estimates(keys: tuple[str, ...], found: dict[tuple[str, ...], dict], more: tuple[str, ...] = ()) -> str:
    """CSV text with a row an estimate: its keys, value, low, high, n and the fields `more`; empty where there is none."""
    rows = [
        [*key, *(_number(cell) for cell in (one["value"], *(one["ci95"] or (None, None)), one["n"], *map(one.get, more)))]
        for key, one in found.items()
    ]
    return _text([*keys, "value", "low", "high", "n", *more], rows)


def scores(clips: pd.DataFrame, judges: list[str]) -> str:
    """CSV text with a row a prompt and seed, and a column METHOD_JUDGE_DIMENSION a score."""
    columns = [name for judge in judges for dimension in DIMENSIONS if (name := f"{judge}_{dimension}") in clips]
    methods = list(dict.fromkeys(clips["method"]))
    rows: dict[tuple, dict] = {}
    for clip in clips.to_dict("records"):
        row = rows.setdefault((clip["prompt_id"], clip["seed"], clip["prompt"]), {})
        row |= {(clip["method"], name): f"{clip[name]:.2f}" for name in columns}
    wide = [(method, name) for method in methods for name in columns]
    body = [[*key, *(row.get(one, "") for one in wide)] for key, row in rows.items()]
    return _text(["prompt_id", "seed", "prompt", *("_".join(one) for one in wide)], body)


def address(text: str) -> str:
    return "data:text/csv;charset=utf-8," + quote(text, safe=",/:;@+-._")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def _text(head: list[str], rows: list[list]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return stream.getvalue()
