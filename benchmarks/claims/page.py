"""docs/explanation/claims.md, and docs/assets/claims.html with a plot of each claim; both from figures on record alone."""

from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from benchmarks.claims.design import Claim
from benchmarks.claims.looks import Looks
from benchmarks.claims.results import Result, decided, findable
from benchmarks.claims.statistics import NOT_RUN, Effect, Part
from components.evaluation.charts import interval_strip
from components.evaluation.style import style_sheet
from components.evaluation.win_rates import Interval

MARKDOWN, HTML = Path("docs/explanation/claims.md"), Path("docs/assets/claims.html")
SHARE = "Effects are shares less one half for win rates, and differences of shares for the rest: 0.05 is 5 points."

LOOK = "First look at the demo's own finished clips: one training, intervals over prompts alone, no correction, no verdict."
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Claims, tested again</title>
<link rel="icon" href="data:,">
<style>
{{ css }}
</style>
</head>
<body>
<header>
<p class="kicker">Reelign</p>
<h1>Ten claims of the paper and three of ours, by a judge that nothing was trained on</h1>
<p class="note">{{ share }} Dots are means over seeds and prompts with 95% intervals over both. The middle line is no effect;
the whole scale goes from -0.5 to 0.5.</p>
</header>
<main>
{% for one in sections %}<section>
<h2>{{ one.claim.number }}. {{ one.claim.title }}</h2>
<p class="kicker">{{ one.verdict }}</p>
{% if one.rows %}{{ one.strip }}
<table><thead><tr><th>effect</th><th>value</th><th>each seed</th></tr></thead><tbody>
{% for row in one.rows %}<tr><td>{{ row.name }}</td>
<td class="num">{{ row.shown }}</td><td class="num">{{ row.seeds }}</td></tr>
{% endfor %}</tbody></table>
{% else %}{{ one.strip }}
<p class="absent">Not run yet: about {{ "%.2g" | format(one.claim.hours) }} hours of one core for three seeds.</p>
{% endif %}
<p>{{ one.claim.hypothesis }} Refuted where: {{ one.claim.refuted }}</p>
<p>{{ one.claim.design }}</p>
<p>The paper: {{ one.claim.paper }}</p>
{% for reason in one.reasons %}<p>{{ reason }}</p>
{% endfor %}{% if one.looks %}<p>{{ look }}</p>
<table><thead><tr><th>first look</th><th>value</th><th>prompts, clips</th></tr></thead><tbody>
{% for name, value, prompts, clips in one.looks %}<tr><td>{{ name }}</td><td class="num">{{ value }}</td>
<td class="num">{{ prompts }}, {{ clips }}</td></tr>
{% endfor %}</tbody></table>
{% endif %}<p class="note"><code>{{ one.claim.command }}</code></p>
</section>
{% endfor %}</main>
</body>
</html>
"""


@dataclass(frozen=True)
class Row:
    """A line of a claim's table. deciding: a part of the verdict; the others are further looks."""

    name: str
    shown: str
    seeds: str
    deciding: bool


@dataclass(frozen=True)
class Section:
    """A claim as both pages show it."""

    claim: Claim
    verdict: str
    rows: list[Row]
    strip: str
    reasons: list[str]
    looks: list[tuple[str, str, int, int]]  # words, value, prompts, clips


def section(
    claim: Claim,
    result: Result | None,
    verdict: tuple[str, float, float] | None,
    reasons: list[str],
    looks: dict[str, Interval],
) -> Section:
    """Figures as text and plot; a claim that has not run has first looks at most."""
    shown = [(name, interval_text(one), one.prompts, one.n) for name, one in looks.items()]
    if result is None or verdict is None:
        strip = interval_strip([("base", name, shifted(one)) for name, one in looks.items()]) if looks else ""
        return Section(claim, NOT_RUN.capitalize(), [], strip, reasons, shown)
    rows, marks = [], []
    for part in (*claim.parts, *claim.more):
        found = result.effects[part.name]
        seeds = ", ".join(f"{value:+.3f}" for value in found.each_seed)
        rows.append(Row(part.name, effect_text(found), seeds, part in claim.parts))
        kind = "dpo" if part in claim.parts else "base"
        whole = Interval(found.value, found.low, found.high, found.prompts * found.seeds, found.prompts)
        marks.append((kind, part.name, shifted(whole)))
    words = f"{verdict[0]} (corrected p-value for it {p_text(verdict[1])}, against it {p_text(verdict[2])})"
    return Section(claim, words[0].upper() + words[1:], rows, interval_strip(marks), reasons, shown)


def shifted(found: Interval) -> Interval:
    """An effect on the scale of the plot, where one half is no effect."""
    low, high = found.low or 0.0, found.high or 0.0
    ends = (float(np.clip(0.5 + value, 0, 1)) for value in (found.value, low, high))
    return Interval(*ends, found.n, found.prompts)


def interval_text(found: Interval) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def effect_text(found: Effect) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def p_text(p: float) -> str:
    return "below 0.001" if p < 0.001 else f"{p:.3f}"


def sections(
    claims: dict[int, Claim], results: dict[int, Result], reasons: dict[int, list[str]], looks: Looks
) -> list[Section]:
    found = decided(claims, results)
    return [section(one, results.get(n), found.get(n), reasons.get(n, []), looks.get(n, {})) for n, one in claims.items()]


def html(parts: list[Section]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(css=style_sheet(), sections=parts, share=SHARE, look=LOOK)


def markdown(parts: list[Section], claims: dict[int, Claim], results: dict[int, Result], head: str) -> str:
    """The page in Markdown, below the introduction `head`."""
    lines = [head, "", "| claim | verdict |", "|---|---|"]
    lines += [f"| {one.claim.number}. {one.claim.title} | {one.verdict} |" for one in parts]
    hours = sum(claim.hours for claim in claims.values())
    lines += ["", f"All take about {hours:.0f} hours of one core for three seeds; cells that claims share are made once."]
    for one in parts:
        claim, result = one.claim, results.get(one.claim.number)
        lines += ["", f"## {claim.number}. {claim.title}", "", f"**{one.verdict}.**", ""]
        lines += [f"- Hypothesis: {claim.hypothesis}", f"- Refuted where: {claim.refuted}", f"- Design: {claim.design}"]
        lines += [f"- The paper: {claim.paper}", f"- Command: `{claim.command}`"]
        if result is None:
            lines += ["", f"Not run yet: about {claim.hours:.2g} hours of one core for three seeds.", ""]
        else:
            size = next(iter(result.effects.values()))
            lines += ["", f"{size.seeds} seeds, {size.prompts} prompts, models of demo {result.demo[:8]}.", ""]
        lines += ["| effect | value | each seed | matters from | found from | corrected |", "|---|---|---|---|---|---|"]
        lines += [f"| {line} |" for line in table(one, result, len(claims))]
        for reason in one.reasons:
            lines += ["", reason]
        if one.looks:
            lines += ["", LOOK, "", "| first look | value | prompts, clips |", "|---|---|---|"]
            lines += [f"| {name} | {value} | {prompts}, {clips} |" for name, value, prompts, clips in one.looks]
    return "\n".join(lines) + "\n"


def table(one: Section, result: Result | None, claims: int) -> list[str]:
    """Lines of a claim's table. "found from": the smallest effect that the design finds with 80% probability."""
    lines = []
    rows = {row.name: row for row in one.rows}
    for part in (*one.claim.parts, *one.claim.more):
        row, name = rows.get(part.name), f"**{part.name}**" if part in one.claim.parts else part.name
        shown = ["not run yet", ""] if row is None else [row.shown, row.seeds]
        sizes = findable(one.claim, part, result, 3, claims)
        last = [f"{part.margin:g}", *(f"{size:.3f}" for size in sizes)] if part in one.claim.parts else ["", "", ""]
        lines.append(" | ".join([name, *shown, *last]))
    return lines


def size_text(part: Part, found: tuple[float, float]) -> str:
    alone, corrected = found
    return f"{alone:.3f} and {corrected:.3f} (matters from {part.margin:g} on)"
