"""report/index.html: a self-contained page, verdict first, clips playing, every estimate with its interval."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd

from components.config.params import EvaluateParams
from components.contracts import DIMENSIONS, EXAMPLE_PAIRS, REWARD_METRICS, TRADEOFF, TRADEOFF_METRICS
from components.evaluation import comparisons, hero, sections
from components.evaluation.charts import interval_strip
from components.evaluation.downloads import downloads
from components.evaluation.labels import labels
from components.evaluation.names import DIMENSION_NAMES, LEGEND, REWARD, by_judge, judge_name, judges_of, mark, titles
from components.evaluation.paired import missing_words
from components.evaluation.sections import Score, estimate, film, measured, minus
from components.evaluation.style import style_sheet
from components.evaluation.verdict import base_words, gains_and_losses, lead_rates, loss_words, percent
from components.evaluation.win_rates import Interval
from components.files.tables import spread
from components.files.text import read_json_if_there
from components.methods import HEADLINER, METHODS
from components.statistics.intervals import too_few

HERE = Path(__file__).parent
CONTENTS = (
    ("clips", "Clips"),
    ("win-rates", "Win rates"),
    ("tradeoff", "Guidance"),
    ("signals", "Hacking"),
    ("pairs", "Pairs"),
    ("reward-bench", "Reward model"),
    ("labels", "Labels"),
    ("training", "Training"),
    ("lineage", "Lineage"),
)
FILTERS = {
    "too_few": too_few,
    "percent": lambda share: f"{100 * share:.1f}%",
    "percent0": lambda share: f"{100 * share:.0f}%",
    "number0": lambda share: f"{100 * share:.0f}",
    "signed": lambda value: minus(f"{round(value, 3) + 0.0:+.3f}"),
}


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
            reward_<dimension>, KEY_<dimension> of each held-out judge, and with the gold judge prompt_right.
        params: section `evaluate`.
        profile: name of the params profile.
        outputs: what the evaluation depends on, see lineage.upstream_outputs.
        versions: (name, digest) of each model.
        root: the checkout with the other stages' files.
    """
    judges = judges_of(alignment)
    scoring = [judge for judge in judges if judge == REWARD or alignment["judges"][judge]["pointwise"]]
    context = {
        "alignment": alignment,
        "profile": profile,
        "dimensions": DIMENSIONS,
        "dimension_names": DIMENSION_NAMES,
        "legend": LEGEND,
        "missing_samples": missing_words(alignment["samples"], titles()),
        "outputs": outputs,
        "versions": versions,
        **_verdict(alignment, judges),
        "base_words": base_words(alignment, read_json_if_there(root / TRADEOFF_METRICS)),
        **_clips(clips, alignment, params, scoring),
        **comparisons.rates(alignment, judges, params),
        "between": comparisons.between(alignment, judges),
        **comparisons.signals(alignment, judges),
        **_other_stages(root),
        "contents": CONTENTS,
        "css": style_sheet(),
        "downloads": downloads(
            alignment,
            shown_clips(clips, params),
            judges,
            read_json_if_there(root / REWARD_METRICS),
            read_json_if_there(root / TRADEOFF_METRICS),
        ),
    }
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= FILTERS
    out.write_text(environment.get_template("report.html.j2").render(context))


def sentence(name: str, rate: Interval, judge: str) -> str:
    """A sentence on an Overall win rate, by where its interval lies."""
    share = f"{100 * rate.value:.0f}% of clips"
    if rate.low is None or rate.high is None:
        return f"{name} wins {share} against the base generator by {judge} ({too_few(rate.prompts)})"
    figures = f"{share} ({100 * rate.low:.0f}–{100 * rate.high:.0f}%)"
    if rate.above(0.5):
        return f"{name} beats the base generator on {figures} by {judge}"
    if rate.below(0.5):
        return f"{name} loses to the base generator: it wins only {figures} by {judge}"
    return f"{name} does not differ significantly from the base generator: it wins {figures} by {judge}"


def _headliner(alignment: dict) -> str:
    return HEADLINER if HEADLINER in alignment["methods"] else next(iter(alignment["methods"]))


def _verdict(alignment: dict, judges: list[str]) -> dict:
    """The head of the page: a sentence for each method, the headliner's first, the alarm, and a card for each method."""
    methods = alignment["methods"]
    cards = [_card(method, alignment, judges) for method in methods]
    said = {}
    for method in methods:
        judge, rates = lead_rates(alignment, method)
        words = sentence(METHODS[method].title, measured(rates["Overall"]), by_judge(alignment, judge))
        said[method] = {"said": words, "lost": loss_words(rates)}
    headline = said.pop(_headliner(alignment))
    alarms = [card["name"] for card in cards if card["reasons"]]
    note = "The methods were trained on VideoReward; no other judge was run, so this is no proof."
    if len(judges) > 1:
        first, *others = (judge_name(alignment, judge) for judge in judges[:-1])
        note = f"● {first[0].upper()}{first[1:]}: not used in any training."
        note += f" ◇ {', '.join(others)}: held out, too." if others else ""
        note += " ○ VideoReward: the methods were trained on it, so its figures alone are no proof."
    return {
        "title": f"Reelign: {headline['said']}",
        "headline": headline,
        "verdict": list(said.values()),
        "alarm": f"Hacking alarm: {', '.join(alarms)}." if alarms else "No method raises the hacking alarm.",
        "cards": cards,
        "judges_note": note,
    }


def _card(method: str, alignment: dict, judges: list[str]) -> dict:
    """Overall win rates of a method by each judge that has a verdict, its significant gains and losses, and reasons for
    alarm."""
    entry, base = alignment["methods"][method], alignment["base"]
    marks = [
        {"judge": judge_name(alignment, judge), "kind": mark(alignment, judge), "found": estimate(rates[judge]["Overall"])}
        for rates in [entry["win_rate"]]
        for judge in judges
        if judge in rates
    ]
    kinds = [method, *[f"{method} second"] * len(marks)]  # the first judge's dot is filled, the others' are not
    strip = [(kind, one["judge"], one["found"]) for kind, one in zip(kinds, marks, strict=False)]
    _, lead = lead_rates(alignment, method)
    standing = [
        {"kind": kind, "dimension": name, "rate": percent(lead[name])}
        for kind, names in zip(("up", "down"), gains_and_losses(lead), strict=True)
        for name in names
    ]
    return {
        "method": method,
        "name": METHODS[method].title,
        "marks": marks,
        "strip": interval_strip(strip),
        "right": entry.get("prompt_right"),
        "base_right": base.get("prompt_right"),
        "reasons": entry["hacking"]["reasons"],
        "standing": standing,
    }


def _clips(clips: pd.DataFrame, alignment: dict, params: EvaluateParams, judges: list[str]) -> dict:
    """Clips side by side, with scores by `judges`, those that score single clips."""
    headliner, lead = _headliner(alignment), judges[0]
    show = partial(_film, judges=judges, params=params, alignment=alignment)
    rows = []
    with ThreadPoolExecutor() as pool:  # previews of large clips are slow and release the GIL
        for _, own in shown_clips(clips, params).groupby(["prompt", "prompt_id"]):  # in the order of prompts
            prompt, own = own["prompt"].iloc[0], own.set_index("method")
            films = pool.map(partial(show, own), own.index)
            rows.append({"prompt": prompt, "clips": list(films)})
    signs = {"first": "●", "other": "◇"}
    held_out = {judge: alignment["judges"][judge]["unit"] for judge in judges if judge != REWARD}
    units = [f"{signs[mark(alignment, judge)]} {judge_name(alignment, judge)} ({unit})" for judge, unit in held_out.items()]
    legend = ", ".join([*units, "○ VideoReward (normalised; higher is better)"])
    right = " ✓ and ✗: whether the clip shows all that the prompt names, by the gold judge." if "gold" in judges else ""
    shrunk = any(clip["shrunk"] for row in rows for clip in row["clips"])
    return {
        "clips": rows,
        "hero": hero.cards(
            clips,
            headliner,
            METHODS[headliner].title,
            (lead, by_judge(alignment, lead)),
            show,
        ),
        "hero_rule": hero.RULE,
        "clips_rule": f"{len(rows)} of {clips['prompt_id'].nunique()} prompts, evenly spaced in alphabetical order, each"
        " with its lowest seed: selected by this rule, not by appearance.",
        "clips_legend": f"{legend}; ▲ better and ▼ worse than base.{right}"
        + (" Large clips are shown at lower resolution and quality than they were scored." if shrunk else ""),
    }


def shown_clips(clips: pd.DataFrame, params: EvaluateParams) -> pd.DataFrame:
    """The clips of section "Side by side": spread prompts in alphabetical order, each with its lowest seed."""
    prompts = sorted(set(zip(clips["prompt"], clips["prompt_id"], strict=True)))
    chosen = [prompts[at][1] for at in spread(len(prompts), params.report_prompts)]
    lowest = clips.groupby("prompt_id")["seed"].transform("min")
    shown = clips["prompt_id"].isin(chosen) & (clips["seed"] == lowest)
    return clips.loc[shown].sort_values("prompt", kind="stable")


def _film(own: pd.DataFrame, method: str, judges: list[str], params: EvaluateParams, alignment: dict) -> dict:
    row, base = own.loc[method], own.loc["base"]
    scores = []
    for dimension in DIMENSIONS:
        for judge in judges:
            if (column := f"{judge}_{dimension}") not in row:
                continue
            gain = row[column] - base[column]
            own_width = alignment["judges"].get(judge, {}).get("tie_width")
            change = None if abs(gain) <= params.tie_width.get(judge, own_width) else "up" if gain > 0 else "down"
            scores.append(Score(judge, mark(alignment, judge), dimension, minus(f"{row[column]:.2f}"), change))
    right = bool(row["prompt_right"]) if "gold" in judges else None
    return film(row["video"], row["prompt"], scores, right, method=method, name=METHODS[method].title)


def _other_stages(root: Path) -> dict:
    models, curves_absent = sections.curves(root)
    return {
        "example_pairs": sections.example_pairs(root),
        "duels_rule": "Pairs of candidates for training prompts, winner and loser by VideoReward (○), evenly spaced"
        " from the narrowest margin to the widest.",
        "tradeoff": sections.tradeoff(root),
        "bench": sections.bench(root),
        "labels": labels(root),
        "curves": models,
        "missing": {
            "example_pairs": f"{EXAMPLE_PAIRS} is absent",
            "tradeoff": f"{TRADEOFF_METRICS} or {TRADEOFF} is absent",
            "bench": f"{REWARD_METRICS} is absent",
            "curves": curves_absent,
        },
    }
