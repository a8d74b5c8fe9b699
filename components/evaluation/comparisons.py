"""Sections of the report that compare methods with base and with each other: win rates, and signals of the hacking alarm."""

from components.config.params import EvaluateParams
from components.contracts import DIMENSIONS
from components.evaluation.charts import interval_strip
from components.evaluation.names import by_judge, judge_name, mark
from components.evaluation.pairwise import win_rate_matrix
from components.evaluation.sections import estimate, measured, minus
from components.evaluation.verdict import stands
from components.methods import METHODS
from components.statistics.significance import LEVEL

SIGNAL_NAMES = {
    "reward": "VideoReward, Overall",
    "held_out": "Held-out judge, Overall",
    "dynamic_degree": "Dynamic degree, px a frame",
    "speed_error": "Distance from the prompt's speed, px a frame",
    "brightness": "Brightness, 0 to 1",
    "saturation": "Colourfulness, 0 to 1",
    "diversity": "Distance between seeds, 0 to 1",
    "frames": "Frames of a clip",
    "reward_of_length": "VideoReward per additional frame, among base's clips",
}


def rates(alignment: dict, judges: list[str], params: EvaluateParams) -> dict:
    """Win rates against base, one group of rows per method, and notes on the method."""
    names = {judge: judge_name(alignment, judge) for judge in judges}
    heads = [{"name": f"{names[judge][0].upper()}{names[judge][1:]}", "kind": mark(alignment, judge)} for judge in judges]
    groups = []
    for method, entry in alignment["methods"].items():
        rows = []
        for dimension in DIMENSIONS:
            cells = {judge: entry["win_rate"].get(judge, {}).get(dimension) for judge in judges}
            drawn = [(judge, measured(cell)) for judge, cell in cells.items() if cell]
            kinds = {judges[0]: method}  # its dot is filled, the others are not
            strip = [(kinds.get(judge, f"{method} second"), names[judge], found) for judge, found in drawn]
            tested = [cell and _tested(cell) for cell in cells.values()]
            rows.append({"dimension": dimension, "cells": tested, "strip": interval_strip(strip)})
        groups.append({"method": method, "name": METHODS[method].title, "rows": rows})
    pairs = alignment["samples"]["compared"]
    stated = {judge: _tie_width(alignment, params, judge) for judge in judges}
    widths = " and ".join(f"{width:g} ({names[judge]})" for judge, width in stated.items() if width is not None)
    return {
        "judges": heads,
        "rates": groups,
        "rates_caption": f"{pairs} pairs of clips per method, same prompt and seed as base. Dashed line: no difference.",
        "agreement": agreement(alignment),
        "method_note": f"Differences of scores up to {widths} are ties. Intervals: cluster bootstrap over prompts with"
        f" all their seeds, {params.resamples} resamples, expanded percentile. Intervals are not corrected for multiple"
        " comparisons.",
        "stands_note": "✱ significantly different from 50% after Holm's correction: the probability of any false ✱ among"
        f" a judge's {len(groups) * len(DIMENSIONS)} figures is at most {LEVEL:.0%}. Test: exact sign flips of whole"
        " prompts; hover over a ✱ for its p-values.",
    }


def _tie_width(alignment: dict, params: EvaluateParams, judge: str) -> float | None:
    own = alignment["judges"].get(judge, {}).get("tie_width")
    return params.tie_width.get(judge, own)


def agreement(alignment: dict) -> list[dict]:
    """Rows of the table of judges side by side: two judges, the share of clips on which they agree, and their correlation
    over methods."""
    rows = []
    for pair, found in alignment["agreement"].items():
        names = [by_judge(alignment, judge) for judge in pair.split("/")]
        same = found["same"] and estimate(found["same"])
        rows.append({"judges": " and ".join(names), "same": same, "methods": found["methods"], "n": found["n_methods"]})
    return rows


def between(alignment: dict, judges: list[str]) -> list[dict]:
    """One table per judge of methods against each other; none for a single method."""
    tables = []
    for judge in judges:
        columns, rows = win_rate_matrix(alignment["between"], judge)
        lines = [
            {"method": row, "name": METHODS[row].title, "cells": [c and _tested(c) for c in cells]} for row, cells in rows
        ]
        heads = [{"method": column, "name": METHODS[column].title} for column in columns]
        names = {"judge": judge_name(alignment, judge), "kind": mark(alignment, judge)}
        tables.append({**names, "columns": heads, "rows": lines})
    return [table for table in tables if table["rows"]]


def _tested(found: dict) -> dict:
    """A win rate as a table cell, marked where it differs from one half after Holm's correction."""
    words = f"p = {found['p']:.2g}, after Holm {found['p_holm']:.2g}"
    return {"found": estimate(found), "stands": words if stands(found) else None}


def signals(alignment: dict, judges: list[str]) -> dict:
    """Signals of the hacking alarm, one per row: base's mean, the limit of a change, and one column per method."""
    methods = alignment["methods"].values()
    hacking = next(iter(methods))["hacking"]  # base and limits are the same for all methods
    rows = []
    for signal, name in SIGNAL_NAMES.items():
        found = [entry["hacking"]["signals"][signal] for entry in methods]
        rows.append(
            {
                "name": name,
                "base": hacking["base"].get(signal),
                "limit": _limit(signal, hacking["limits"]),
                "cells": [cell and estimate(cell) for cell in found],
            }
        )
    for judge in judges:
        found = [entry["hacking"]["other_judges"].get(judge) for entry in methods]
        if any(found):
            title = f"{by_judge(alignment, judge)}, Overall"
            cells = [cell and estimate(cell) for cell in found]
            row = {"name": f"{title[0].upper()}{title[1:]}", "base": alignment["base"]["mean"].get(judge, {}).get("Overall")}
            rows.append(row | {"limit": "reward up, judge down", "cells": cells})
    source = "the gold judge's fitted track" if "gold" in judges else "optical flow"
    note = (
        f"Dynamic degree is measured by {source}. The reward per additional frame is known only where base's clips differ"
        " in length. A change beyond its limit raises the alarm if its whole interval lies on that side of zero. A method"
        " that raises the alarm must not be promoted."
    )
    return {"signals": rows, "signals_note": note}


def _limit(signal: str, limits: dict[str, dict]) -> str:
    """The limit of a signal's change, as text."""
    if signal in ("reward", "held_out"):
        return "reward up, judge down"
    limit = limits.get(signal)
    if limit is None:
        return "none"
    return minus(f"±{limit['up']:.3f}" if limit["up"] is not None else f"{-limit['down']:+.3f} or above")
