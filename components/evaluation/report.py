"""report/index.html: a self-contained page, verdict first, clips playing, every estimate with its interval."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd

from components.evaluation import comparisons, sections
from components.evaluation.charts import interval_strip
from components.evaluation.names import BY_JUDGE, DIMENSION_NAMES, JUDGE_NAMES, LEGEND, METHOD_NAMES
from components.evaluation.paired import missing_words
from components.evaluation.sections import Score, estimate, film, minus
from components.evaluation.verdict import base_words, gains_and_losses, loss_words, percent
from components.evaluation.win_rates import DIMENSIONS, Interval
from components.intervals import too_few
from components.params import EvaluateParams
from components.tables import spread
from components.text_files import read_json_if_there

HERO_CLIPS = 4  # beside the headline


def write_report(
    out: Path,
    alignment: dict,
    clips: pd.DataFrame,
    params: EvaluateParams,
    profile: str,
    outputs: list[dict[str, str]],
    versions: list[tuple[str, str]],
    root: Path = Path("."),
) -> None:
    """Build the report of one evaluation. The same inputs give the same page, byte by byte.

    Args:
        out: the HTML file to write.
        alignment: the content of metrics/alignment.json.
        clips: one row per clip, as compare returns it: method, prompt_id, prompt, seed, video (a path),
            reward_<dimension>, and with a gold judge gold_<dimension> and prompt_right.
        params: section `evaluate`.
        profile: name of the params profile.
        outputs: what the evaluation depends on, see lineage.upstream_outputs.
        versions: (name, digest) of each model.
        root: the checkout with the other stages' files.
    """
    judges = [judge for judge in JUDGE_NAMES if judge == "reward" or params.judge == judge]
    context = {
        "alignment": alignment,
        "profile": profile,
        "dimensions": DIMENSIONS,
        "dimension_names": DIMENSION_NAMES,
        "legend": LEGEND,
        "missing_samples": missing_words(alignment["samples"], METHOD_NAMES),
        "outputs": outputs,
        "versions": versions,
        **_verdict(alignment, judges),
        "base_words": base_words(alignment["sampling"], read_json_if_there(root / "metrics/tradeoff.json")),
        **_clips(clips, params, judges, _headliner(alignment)),
        **comparisons.rates(alignment, judges, params),
        "between": comparisons.between(alignment, judges),
        **comparisons.signals(alignment, judges),
        **_other_stages(root),
    }
    context["contents"] = [
        ("clips", "Clips"),
        ("win-rates", "Win rates"),
        ("tradeoff", "Guidance"),
        ("signals", "Hacking"),
        ("pairs", "Pairs"),
        ("reward-bench", "Reward model"),
        ("labels", "Labels"),
        ("training", "Training"),
        ("lineage", "Lineage"),
    ]
    here = Path(__file__).parent
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {
        "too_few": too_few,
        "percent": lambda share: f"{100 * share:.1f}%",
        "percent0": lambda share: f"{100 * share:.0f}%",
        "number0": lambda share: f"{100 * share:.0f}",
        "signed": lambda value: minus(f"{round(value, 3) + 0.0:+.3f}"),
    }
    css = jinja2.utils.markupsafe.Markup((here / "report.css").read_text())
    out.write_text(environment.get_template("report.html.j2").render(css=css, **context))


def sentence(name: str, rate: Interval, judge: str) -> str:
    """A sentence on an Overall win rate, by where its interval lies."""
    share = f"{100 * rate.value:.0f}% of clips"
    if rate.low is None:
        return f"{name} wins {share} against the base generator by {judge} ({too_few(rate.prompts)})"
    figures = f"{share} ({100 * rate.low:.0f}–{100 * rate.high:.0f}%)"
    if rate.above(0.5):
        return f"{name} beats the base generator on {figures} by {judge}"
    if rate.below(0.5):
        return f"{name} loses to the base generator: it wins only {figures} by {judge}"
    return f"{name} does not differ significantly from the base generator: it wins {figures} by {judge}"


def _headliner(alignment: dict) -> str:
    """The method of the headline: fixed in advance (the paper's method), not selected by its result."""
    return "dpo" if "dpo" in alignment["methods"] else next(iter(alignment["methods"]))


def _verdict(alignment: dict, judges: list[str]) -> dict:
    methods = alignment["methods"]
    first = _headliner(alignment)
    cards = []
    for method, entry in methods.items():
        marks = [
            {
                "judge": JUDGE_NAMES[judge],
                "kind": judge,
                "found": estimate(entry["win_rate"][judge]["Overall"]),
            }
            for judge in judges
        ]
        strip = [
            (
                f"{method}{' second' if mark['kind'] == 'reward' and len(judges) > 1 else ''}",
                mark["judge"],
                mark["found"],
            )
            for mark in marks
        ]
        cards.append(
            {
                "method": method,
                "name": METHOD_NAMES[method],
                "marks": marks,
                "strip": interval_strip(strip),
                "right": entry.get("prompt_right"),
                "base_right": alignment["base"].get("prompt_right"),
                "reasons": entry["hacking"]["reasons"],
                "standing": [
                    {"kind": kind, "dimension": name, "rate": percent(entry["win_rate"][judges[0]][name])}
                    for kind, names in zip(("up", "down"), gains_and_losses(entry["win_rate"][judges[0]]), strict=True)
                    for name in names
                ],
            }
        )
    by_method = {card["method"]: card for card in cards}

    def said(method: str) -> str:
        lead = by_method[method]["marks"][0]
        return sentence(METHOD_NAMES[method], lead["found"], BY_JUDGE[judges[0]])

    alarms = [card["name"] for card in cards if card["reasons"]]
    lost = {method: loss_words(entry["win_rate"][judges[0]]) for method, entry in methods.items()}
    verdict = [{"said": said(method), "lost": lost[method]} for method in methods if method != first]
    alarm = f"Hacking alarm: {', '.join(alarms)}." if alarms else "No method raises the hacking alarm."
    note = (
        "● Gold judge: not used in any training. ○ VideoReward: the methods were trained on it, so its figures alone are"
        " no proof."
        if judges[0] == "gold"
        else "The methods were trained on VideoReward; no other judge was run, so this is no proof."
    )
    return {
        "title": f"Reelign: {said(first)}",
        "headline": {"said": said(first), "lost": lost[first]},
        "verdict": verdict,
        "alarm": alarm,
        "cards": cards,
        "judges_note": note,
    }


def _clips(clips: pd.DataFrame, params: EvaluateParams, judges: list[str], headliner: str) -> dict:
    prompts = sorted(set(zip(clips["prompt"], clips["prompt_id"], strict=True)))
    chosen = [prompts[at] for at in spread(len(prompts), params.report_prompts)]
    rows = []
    with ThreadPoolExecutor() as pool:  # previews of large clips are slow and release the GIL
        for prompt, prompt_id in chosen:
            own = clips[clips["prompt_id"] == prompt_id]
            own = own[own["seed"] == own["seed"].min()].set_index("method")
            films = pool.map(partial(_film, own, judges=judges, params=params), own.index)
            rows.append({"prompt": prompt, "clips": list(films)})
    legend = (
        "● gold judge (0 to 1), ○ VideoReward (normalised; higher is better)"
        if "gold" in judges
        else "○ VideoReward (normalised; higher is better)"
    )
    right = " ✓ and ✗: whether the clip shows all that the prompt names, by the gold judge." if "gold" in judges else ""
    shrunk = any(clip["shrunk"] for row in rows for clip in row["clips"])
    above = [rows[at]["clips"] for at in spread(len(rows), HERO_CLIPS)]
    hero = [
        {
            "method": method,
            "name": METHOD_NAMES[method],
            "clips": [next(clip for clip in row if clip["method"] == method) for row in above],
        }
        for method in ("base", headliner)
    ]
    return {
        "clips": rows,
        "hero": hero,
        "clips_rule": f"{len(chosen)} of {len(prompts)} prompts, evenly spaced in alphabetical order, each with its"
        " lowest seed: selected by this rule, not by appearance.",
        "clips_legend": f"{legend}; ▲ better and ▼ worse than base.{right}"
        + (" Large clips are shown at lower resolution and quality than they were scored." if shrunk else ""),
    }


def _film(own: pd.DataFrame, method: str, judges: list[str], params: EvaluateParams) -> dict:
    row, base = own.loc[method], own.loc["base"]
    scores = []
    for dimension in DIMENSIONS:
        for judge in judges:
            column = f"{judge}_{dimension}"
            gain = row[column] - base[column]
            tie = abs(gain) <= getattr(params.tie_width, judge)
            scores.append(
                Score(judge, dimension, minus(f"{row[column]:.2f}"), None if tie else "up" if gain > 0 else "down")
            )
    right = bool(row["prompt_right"]) if "gold" in judges else None
    return film(row["video"], row["prompt"], scores, right, method=method, name=METHOD_NAMES[method])


def _other_stages(root: Path) -> dict:
    tables, labels_absent = sections.labels(root)
    models, curves_absent = sections.curves(root)
    return {
        "duels": sections.duels(root),
        "duels_rule": "Pairs of candidates for training prompts, winner and loser by VideoReward (○), evenly spaced"
        " from the narrowest margin to the widest.",
        "tradeoff": sections.tradeoff(root),
        "bench": sections.bench(root),
        "labels": tables,
        "curves": models,
        "missing": {
            "duels": "data/duels is absent",
            "tradeoff": "metrics/tradeoff.json or data/tradeoff.parquet is absent",
            "bench": "metrics/reward_bench.json is absent",
            "labels": labels_absent,
            "curves": curves_absent,
        },
    }
