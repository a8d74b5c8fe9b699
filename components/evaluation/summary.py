"""The main figures, printed after a run: python -m components.evaluation.summary

Reads only metrics/*.json and the profile's name, and marks each part that was not run.
"""

from pathlib import Path
from textwrap import wrap

import yaml

from components.errors import BadInput
from components.evaluation.names import LEGEND, by_judge, in_order, judges_of, titles
from components.evaluation.paired import missing_words
from components.evaluation.pairwise import win_rate_matrix
from components.evaluation.verdict import base_words, lead_judge, losses, stands
from components.files.atomic import discard
from components.files.text import read_json_if_there
from components.methods import BASE, METHODS
from components.pipeline.stage import MEASURED
from components.statistics.intervals import NOTE, short
from components.statistics.significance import LEVEL

DIMENSIONS = ("VQ", "MQ", "TA", "Overall")


def summary(profile: str, root: Path = Path(".")) -> str:
    """The summary of the metrics in `root`, as lines of plain text. Alignment metrics of another profile are not shown."""

    def metrics(name: str) -> dict | None:
        return read_json_if_there(root / "metrics" / f"{name}.json")

    lines = ["", LEGEND, "", "LABELS"]
    lines += _labels(metrics("source"), metrics("pairs"))
    lines += ["", "REWARD MODEL on prompts unseen in training"]
    lines += _bench(metrics("reward_bench"))
    lines += ["", "ALIGNMENT against the base generator: win rate, same prompts and seeds, a tie one half"]
    alignment, report = metrics("alignment"), root / "report" / "index.html"
    if alignment is not None and alignment["profile"] != profile:
        lines += [f"  not made: metrics/alignment.json is of the profile {alignment['profile']}", "", "Report: not made"]
        return "\n".join(lines)
    lines += _alignment(alignment, metrics("base_generator"), metrics("tradeoff"))
    lines += ["", "GUIDANCE against plain sampling, and its time"]
    lines += _guidance(metrics("tradeoff"), read_measured(root / MEASURED / "tradeoff.json"))
    lines += ["", "LATENT REWARD MODEL on prompts unseen in training: accuracy without ties by noise, t from"]
    lines += _latent_reward(metrics("latent_reward"))
    lines += ["", f"Report: {report.resolve()}" if report.exists() else "Report: not made"]
    return "\n".join(lines)


def read_measured(file: Path) -> dict[str, float] | None:
    """What a stage took on this machine; None where it is not known here, or no more."""
    try:
        return read_json_if_there(file)
    except BadInput as error:
        discard(file, error)
        return None


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Rows below a head, columns padded, the first left-aligned and the others right-aligned. A note follows where a cell
    has no interval."""
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = []
    for first, *others in [head, *rows]:
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        lines.append("  " + "  ".join(cells).rstrip())
    if any("(n=" in line for line in lines):
        lines.append(f"  {NOTE}")
    return lines


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def interval(found: dict) -> str:
    """An estimate of a metrics file: 71.3% (64-78), or 71.3% (n=3 prompts) with too few prompts for an interval."""
    if found["value"] is None:
        return "-"
    if found["ci95"] is None:
        return f"{percent(found['value'])} {short(found['prompts'])}"
    low, high = found["ci95"]
    return f"{percent(found['value'])} ({100 * low:.0f}-{100 * high:.0f})"


def tested(found: dict) -> str:
    """An interval, with a star where it differs from one half after Holm's correction."""
    return interval(found) + ("*" if stands(found) else " ")


def _labels(source: dict | None, pairs: dict | None) -> list[str]:
    lines = []
    if pairs is None:
        lines.append("  not made: metrics/pairs.json is absent")
    else:
        alphas = pairs["krippendorff_alpha"] or {}
        gold = (source or {}).get("annotator_vs_gold", {})
        rows = []
        for name, found in in_order(pairs["dimensions"], DIMENSIONS):
            alpha = alphas.get(name, {}).get("ordinal")
            agreed = "-" if alpha is None else f"{alpha:.2f}"
            rows.append([name, str(found["labelled"]), percent(found["tie_share"]), agreed, percent(gold.get(name))])
        lines += table(["", "pairs", "ties", "Krippendorff alpha", "one annotator vs gold"], rows)
    return lines


def _bench(bench: dict | None) -> list[str]:
    if bench is None:
        return ["  not made: metrics/reward_bench.json is absent"]
    rows = []
    for name, found in in_order(bench["dimensions"], DIMENSIONS):
        blind = bench.get("baselines", {}).get(name, {})
        without, with_ties = found["accuracy_without_ties"], found["accuracy_with_ties"]
        baselines = [percent(blind.get("always_tie")), percent(blind.get("random"))]
        rows.append([name, interval(without), str(without["n"]), interval(with_ties), *baselines])
    head = ["", "without ties", "decided", "with ties", "always tie", "random"]
    return [f"  {bench['pairs']} pairs of {bench['prompts']} prompts", *table(head, rows)]


def _alignment(alignment: dict | None, generator: dict | None, tradeoff: dict | None) -> list[str]:
    if alignment is None:
        return ["  not made: metrics/alignment.json is absent"]
    rows, alarms, names = [], [], titles() | {BASE: "base"}
    for method, entry in in_order(alignment["methods"], METHODS):
        for judge in judges_of(alignment):
            if found := entry["win_rate"].get(judge):
                cells = [tested(found[name]) if name in found else "- " for name in DIMENSIONS]
                rows.append([names[method], judge, *cells])
        alarms += [f"  HACKING ALARM {names[method]}: {reason}" for reason in entry["hacking"]["reasons"]]
    seeds, samples = alignment["seeds_per_prompt"], alignment["samples"]
    of = f" of {alignment['prompt_set']}" if alignment["prompt_set"] else ""
    lines = [f"  {alignment['prompts']} prompts{of} x {seeds or 'different numbers of'} seeds"]
    if missing := missing_words(samples, names):
        lines.append(f"  {missing}")
    lines += table(["", "judge", *(f"{name} " for name in DIMENSIONS)], rows)
    family = len(alignment["methods"]) * len(DIMENSIONS)
    lines.append(f"  * differs from 50% at {LEVEL:.0%} after Holm's correction over the {family} figures of its judge")
    lines += [f"  LOSS {line}" for line in losses(alignment)] or ["  no loss is significant after Holm's correction"]
    lines += wrap(base_words(alignment, tradeoff), 120, initial_indent="  ", subsequent_indent="  ")
    lines += _between(alignment)
    lines += _agreement(alignment)
    everyone = {"base": alignment["base"], **dict(in_order(alignment["methods"], METHODS))}
    right = [
        f"{names[method]} {percent(found['prompt_right'])}" for method, found in everyone.items() if "prompt_right" in found
    ]
    if right:
        lines.append(f"  prompt wholly right by the gold judge: {', '.join(right)}")
    if generator is not None and "prompt_right" in generator:
        lines.append(f"  base generator gets {percent(generator['prompt_right'])} of training prompts wholly right")
    return lines + (alarms or ["  no hacking alarm"])


def _between(alignment: dict) -> list[str]:
    """Methods against each other, by the judge that decides where there is one."""
    judge = lead_judge(alignment)
    columns, rows = win_rate_matrix(alignment["between"], judge)
    if not rows:
        return []
    cells = [[METHODS[row].title, *(tested(cell) if cell else "" for cell in found)] for row, found in rows]
    lines = ["", f"  Overall by {judge}, row against column; * after Holm's correction over this table"]
    return lines + table(["", *(f"{METHODS[column].title} " for column in columns)], cells)


def _agreement(alignment: dict) -> list[str]:
    """Held-out judges with each other and with VideoReward, where there are several."""
    if len(alignment["judges"]) < 2:
        return []
    rows = []
    for pair, found in alignment["agreement"].items():
        names = " and ".join(by_judge(alignment, judge) for judge in pair.split("/"))
        order = "-" if found["methods"] is None else f"{found['methods']:+.2f}"
        rows.append([names, interval(found["same"]) if found["same"] else "-", order])
    lines = ["", "  Judges side by side: clips against base on which they prefer the same one, and order of methods"]
    return lines + table(["", "same choice", "rank correlation"], rows)


def _guidance(tradeoff: dict | None, took: dict | None) -> list[str]:
    """Overall win rate of each setting, its time relative to plain sampling, and points above one half per extra second.
    Times are shown where the clips were sampled on this machine."""
    if tradeoff is None:
        return ["  not made: metrics/tradeoff.json is absent"]
    seconds = {key.partition("/")[2]: value for key, value in (took or {}).items()}
    rows = []
    for name, entry in tradeoff["settings"].items():
        rates = entry["win_rate"]
        found = next(rates[judge] for judge in judges_of(tradeoff) if judge in rates)["Overall"]
        times = ["-", "-"]
        if {name, "plain"} <= seconds.keys():
            more = seconds[name] - seconds["plain"]
            bought = f"{100 * (found['value'] - 0.5) / more:.0f}" if more > 0 else "-"
            times = [f"{seconds[name] / seconds['plain']:.2f}x", bought]
        rows.append([name, interval(found), *times])
    plain = f", plain sampling {seconds['plain']:.3g} s a clip" if "plain" in seconds else ""
    clips = [f"  {tradeoff['clips']} clips{plain}; weights are VQ:MQ:TA"]
    return clips + table(["", "Overall", "time", "points a second more"], rows)


def _latent_reward(latent: dict | None) -> list[str]:
    if latent is None:
        return ["  not made: metrics/latent_reward.json is absent"]
    starts = [f"{place / latent['bins']:g}" for place in range(latent["bins"])]
    rows = [[name, *map(percent, found)] for name, found in in_order(latent["accuracy_by_noise_bin"], DIMENSIONS)]
    return table([f"{latent['pairs']['validation']} pairs", *starts], rows)


if __name__ == "__main__":
    print(summary(yaml.safe_load(Path("params.yaml").read_text())["profile"]))
