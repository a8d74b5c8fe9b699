"""Sections of the report that compare methods with base and with each other: win rates, and signals of the hacking alarm."""

from components.evaluation.charts import interval_strip
from components.evaluation.matrix import matrix
from components.evaluation.names import JUDGE_NAMES, METHOD_NAMES
from components.evaluation.sections import estimate, minus
from components.evaluation.significance import LEVEL
from components.evaluation.verdict import stands
from components.evaluation.win_rates import DIMENSIONS
from components.params import EvaluateParams

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
    heads = [
        {"name": JUDGE_NAMES[judge].capitalize() if judge == "gold" else JUDGE_NAMES[judge], "kind": judge}
        for judge in judges
    ]
    groups = []
    for method, entry in alignment["methods"].items():
        rows = []
        for dimension in DIMENSIONS:
            found = [estimate(entry["win_rate"][judge][dimension]) for judge in judges]
            kinds = [method, f"{method} second"][: len(judges)]
            marks = list(zip(kinds, [JUDGE_NAMES[judge] for judge in judges], found, strict=True))
            cells = [_tested(entry["win_rate"][judge][dimension]) for judge in judges]
            rows.append({"dimension": dimension, "found": found, "cells": cells, "strip": interval_strip(marks)})
        groups.append({"method": method, "name": METHOD_NAMES[method], "rows": rows})
    pairs = groups[0]["rows"][0]["found"][0].n
    widths = " and ".join(f"{getattr(params.tie_width, judge):g} ({JUDGE_NAMES[judge]})" for judge in judges)
    return {
        "judges": heads,
        "rates": groups,
        "rates_caption": f"{pairs} pairs of clips per method, same prompt and seed as base. Dashed line: no difference.",
        "method_note": f"Differences of scores up to {widths} are ties. Intervals: cluster bootstrap over prompts with"
        f" all their seeds, {params.resamples} resamples, expanded percentile. Intervals are not corrected for multiple"
        " comparisons.",
        "stands_note": "✱ significantly different from 50% after Holm's correction: the probability of any false ✱ among"
        f" a judge's {len(groups) * len(DIMENSIONS)} figures is at most {LEVEL:.0%}. Test: exact sign flips of whole"
        " prompts; hover over a ✱ for its p-values.",
    }


def between(alignment: dict, judges: list[str]) -> list[dict]:
    """One table per judge of methods against each other; none for a single method."""
    tables = []
    for judge in judges:
        columns, rows = matrix(alignment["between"], judge)
        lines = [
            {"method": row, "name": METHOD_NAMES[row], "cells": [c and _tested(c) for c in cells]} for row, cells in rows
        ]
        heads = [{"method": column, "name": METHOD_NAMES[column]} for column in columns]
        tables.append({"judge": JUDGE_NAMES[judge], "kind": judge, "columns": heads, "rows": lines})
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
