"""The report's section on the labels: a table of a row a score, and a plot of the generators whose clips were compared."""

from pathlib import Path

from components.contracts import DIMENSIONS
from components.evaluation.charts import interval_strip
from components.evaluation.names import in_order
from components.evaluation.win_rates import Interval
from components.files.text import read_json_if_there

COUNTS = ("videos", "prompts", "pairs", "annotations", "duplicate_rows_dropped", "objects")  # of an imported source


def labels(root: Path) -> dict:
    """The template's `labels`, from metrics/pairs.json and metrics/source.json; `absent` names those that are not there."""
    files = {name: read_json_if_there(root / f"metrics/{name}.json") for name in ("pairs", "source")}
    pairs, source = files["pairs"], files["source"]
    return {
        "intro": _intro(pairs, source),
        "rows": _rows(pairs, source),
        "generators": _generators(pairs, source),
        "absent": [f"metrics/{name}.json is absent" for name, found in files.items() if found is None],
    }


def _intro(pairs: dict | None, source: dict | None) -> str:
    said = [f"{pairs['pairs']} labelled pairs of {pairs['prompts']} prompts."] if pairs else []
    if source and source["kind"] == "shapes":
        said.append(f"Simulated annotators compared {source['videos']} clips.")
    elif source:
        counts = ", ".join(f"{source[key]} {key.replace('_', ' ')}" for key in COUNTS if key in source)
        said.append(f"Imported from a {source['kind']} source: {counts}.")
    return " ".join(said)


def _rows(pairs: dict | None, source: dict | None) -> list[dict]:
    """Labels of each score: their number, ties, side A among decided ones, agreement. None where unknown."""
    realism = (source or {}).get("realism", {})
    dimensions = (pairs or {}).get("dimensions", {})
    alpha = (pairs or {}).get("krippendorff_alpha") or {}
    rows = []
    for name, _ in in_order(dimensions | realism, DIMENSIONS):
        found = dimensions.get(name, {})
        rows.append(
            {
                "dimension": name,
                "labels": found.get("labelled"),
                "ties": found.get("tie_share"),
                "first": found.get("A_share"),
                "alpha": alpha.get(name, {}).get("ordinal"),
                "agreement": realism.get(name, {}).get("agreement"),
            }
        )
    return rows


def _generators(pairs: dict | None, source: dict | None) -> dict | None:
    """Overall quality of the compared generators, best first: mean gold scores, or else the win rates of their clips."""
    if source and "gold_means" in source:
        means = {name: found["Overall"] for name, found in source["gold_means"].items()}
        title = "Mean gold score, Overall"
    else:
        known = (pairs or {}).get("generators") or {}
        means = {name: found["win_rate"]["Overall"] for name, found in known.items() if "Overall" in found["win_rate"]}
        title = "Share of pairs won, Overall"
    means = {name: value for name, value in means.items() if value is not None}
    if not means:
        return None
    rows = [
        {"name": name, "value": value, "strip": interval_strip([("base", name, Interval(value, None, None, 0, 0))])}
        for name, value in sorted(means.items(), key=lambda item: -item[1])
    ]
    return {"title": title, "rows": rows}
