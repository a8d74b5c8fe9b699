"""The figures that matter, printed after a run: python -m components.evaluation.summary

Reads metrics/*.json and the profile's name only, and says of each part that was not run that it was not.
"""

import json
from pathlib import Path

import yaml

from components.evaluation.matrix import matrix
from components.evaluation.paired import missing_words
from components.evaluation.significance import LEVEL
from components.intervals import NOTE, short

NAMES = {"base": "base", "sft": "SFT", "rwr": "Flow-RWR", "dpo": "Flow-DPO", "nrg": "Flow-NRG", "best_of_n": "Best of N"}
DIMENSIONS = ("VQ", "MQ", "TA", "Overall")


def summary(profile: str, root: Path = Path(".")) -> str:
    """The summary of the metrics in `root`, as lines of plain text. Alignment that another profile has left there is not
    this profile's, and is not shown."""

    def metrics(name: str) -> dict | None:
        file = root / "metrics" / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    lines = ["", "LABELS"]
    lines += _labels(metrics("source"), metrics("pairs"))
    lines += ["", "REWARD MODEL on prompts unseen in training"]
    lines += _bench(metrics("reward_bench"))
    lines += ["", "ALIGNMENT against the base generator: win rate, same prompts and seeds, a tie one half"]
    alignment, report = metrics("alignment"), root / "report" / "index.html"
    if alignment is not None and alignment["profile"] != profile:
        lines += [f"  not made: what is there is of the profile {alignment['profile']}", "", "Report: not made"]
        return "\n".join(lines)
    lines += _alignment(alignment, metrics("base_generator"))
    lines += ["", "LATENT REWARD MODEL on prompts unseen in training: accuracy without ties by noise, t from"]
    lines += _latent_reward(metrics("latent_reward"))
    lines += ["", f"Report: {report.resolve()}" if report.exists() else "Report: not made"]
    return "\n".join(lines)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Rows below a head, columns as wide as they must be, the first to the left and the others to the right. A note follows
    where a cell has no interval."""
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
    """An estimate of a metrics file: 71.3% (64-78), or 71.3% (n=3 prompts) where these are too few for an interval."""
    if found["value"] is None:
        return "-"
    if found["ci95"] is None:
        return f"{percent(found['value'])} {short(found['prompts'])}"
    low, high = found["ci95"]
    return f"{percent(found['value'])} ({100 * low:.0f}-{100 * high:.0f})"


def tested(found: dict) -> str:
    """An interval, with a star where it differs from one half after Holm's correction."""
    return interval(found) + ("*" if found["p_holm"] <= LEVEL else " ")


def _labels(source: dict | None, pairs: dict | None) -> list[str]:
    lines = []
    if pairs is None:
        lines.append("  not made: metrics/pairs.json is absent")
    else:
        alphas = pairs["krippendorff_alpha"] or {}
        gold = (source or {}).get("annotator_vs_gold", {})
        rows = []
        for name, found in pairs["dimensions"].items():
            alpha = alphas.get(name, {}).get("ordinal")
            agreed = "-" if alpha is None else f"{alpha:.2f}"
            rows.append([name, str(found["labelled"]), percent(found["tie_share"]), agreed, percent(gold.get(name))])
        lines += table(["", "pairs", "ties", "Krippendorff alpha", "one annotator vs gold"], rows)
    return lines


def _bench(bench: dict | None) -> list[str]:
    if bench is None:
        return ["  not made: metrics/reward_bench.json is absent"]
    rows = []
    for name, found in bench["dimensions"].items():
        blind = bench.get("baselines", {}).get(name, {})
        without, with_ties = found["accuracy_without_ties"], found["accuracy_with_ties"]
        baselines = [percent(blind.get("always_tie")), percent(blind.get("random"))]
        rows.append([name, interval(without), str(without["n"]), interval(with_ties), *baselines])
    head = ["", "without ties", "decided", "with ties", "always tie", "random"]
    return [f"  {bench['pairs']} pairs of {bench['prompts']} prompts", *table(head, rows)]


def _alignment(alignment: dict | None, generator: dict | None) -> list[str]:
    if alignment is None:
        return ["  not made: metrics/alignment.json is absent"]
    rows, alarms = [], []
    for method, entry in alignment["methods"].items():
        for judge, found in entry["win_rate"].items():
            rows.append([NAMES[method], judge, *(tested(found[dimension]) for dimension in DIMENSIONS)])
        alarms += [f"  HACKING ALARM {NAMES[method]}: {reason}" for reason in entry["hacking"]["reasons"]]
    seeds, samples = alignment["seeds_per_prompt"], alignment["samples"]
    of = f" of {alignment['prompt_set']}" if alignment["prompt_set"] else ""
    lines = [f"  {alignment['prompts']} prompts{of} x {seeds or 'unlike numbers of'} seeds"]
    if missing := missing_words(samples, NAMES):
        lines.append(f"  {missing}")
    lines += table(["", "judge", *(f"{name} " for name in DIMENSIONS)], rows)
    family = len(alignment["methods"]) * len(DIMENSIONS)
    lines.append(f"  * differs from 50% at {LEVEL:.0%} after Holm's correction over the {family} figures of its judge")
    lines += _between(alignment)
    everyone = {"base": alignment["base"], **alignment["methods"]}
    right = [
        f"{NAMES[method]} {percent(found['prompt_right'])}" for method, found in everyone.items() if "prompt_right" in found
    ]
    if right:
        lines.append(f"  prompt wholly right by the gold judge: {', '.join(right)}")
    if generator is not None and "prompt_right" in generator:
        lines.append(f"  base generator gets {percent(generator['prompt_right'])} of training prompts wholly right")
    return lines + (alarms or ["  no hacking alarm"])


def _between(alignment: dict) -> list[str]:
    """Methods against each other, by the judge that nothing was trained on where there is one."""
    judge = "gold" if alignment["judge"] == "gold" else "reward"
    columns, rows = matrix(alignment["between"], judge)
    if not rows:
        return []
    cells = [[NAMES[row], *(tested(cell) if cell else "" for cell in found)] for row, found in rows]
    lines = ["", f"  Overall by {judge}, row against column; * after Holm's correction over this table"]
    return lines + table(["", *(f"{NAMES[column]} " for column in columns)], cells)


def _latent_reward(latent: dict | None) -> list[str]:
    if latent is None:
        return ["  not made: metrics/latent_reward.json is absent"]
    starts = [f"{place / latent['bins']:g}" for place in range(latent["bins"])]
    rows = [[name, *map(percent, found)] for name, found in latent["accuracy_by_noise_bin"].items()]
    return table([f"{latent['pairs']['validation']} pairs", *starts], rows)


if __name__ == "__main__":
    print(summary(yaml.safe_load(Path("params.yaml").read_text())["profile"]))
