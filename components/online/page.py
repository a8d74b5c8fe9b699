"""report/online-METHOD.html: win rates against base, the curve over rounds, and training; one page without other files."""

import jinja2
import pandas as pd

from components.evaluation.charts import curve, interval_strip
from components.evaluation.names import judge_name
from components.evaluation.sections import measured
from components.evaluation.style import style_sheet
from components.methods import ONLINE
from components.statistics.intervals import as_text

LEFT_OUT = ("round", "step", "clips", "alarm")

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}, round by round</title>
<link rel="icon" href="data:,">
<style>
{{ css }}
:root { --hue: {{ colours[0] }}; }
@media (prefers-color-scheme: dark) { :root { --hue: {{ colours[1] }}; } }
</style>
</head>
<body>
<header>
<p class="kicker">Reelign · profile {{ profile }}</p>
<h1>{{ title }}, round by round</h1>
{% for reason in alarms %}<p class="flag alarm">Hacking alarm: {{ reason }}</p>{% endfor %}
{% if drifted %}<p class="flag alarm">Hacking alarm in round {{ drifted }}, beside round 1.</p>{% endif %}
{% if frozen %}<p class="flag alarm">The policy equalled the old policy in round {{ frozen }}.</p>{% endif %}
</header>
<main>
<section>
<h2>Win rates against base</h2>
<p class="note">Evaluation prompts, the same prompts and seeds for both, 95% intervals over prompts.</p>
{% for judge in judges %}<h3>{{ judge.name }}</h3>{{ judge.strip }}
<p class="num">{% for line in judge.lines %}{{ line }}{{ " · " if not loop.last }}{% endfor %}</p>
{% endfor %}
</section>
{% for part in parts %}
<section>
<h2>{{ part.title }}</h2>
<p class="note">{{ part.note }}</p>
<div class="curves">{% for line in part.lines %}
<figure>{{ line.svg }}
<figcaption>{{ line.name }}: {{ "%.4g" | format(line.first) }} → {{ "%.4g" | format(line.last) }}</figcaption></figure>
{% endfor %}</div>
</section>
{% endfor %}
</main>
</body>
</html>
"""


def online_page(method: str, metrics: dict, rounds: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The page. metrics: as of alignment.json, of this method alone. rounds: figures of each round, with a column `round`;
    empty for a method without. rows: of the training, with a column `step`."""
    (found,) = metrics["methods"].values()
    judges = []
    for judge, rates in found["win_rate"].items():
        marks = [("", dimension, measured(cell)) for dimension, cell in rates.items()]
        lines = [f"{dimension} {as_text(cell, '{:.1%}'.format, '({} to {})')}" for dimension, cell in rates.items()]
        judges.append({"name": judge_name(metrics, judge), "strip": interval_strip(marks), "lines": lines})
    parts = []
    if len(rounds):
        note = "Clips of training prompts that the policy drew, other prompts each round. Each curve has its own scale."
        parts.append({"title": "Rounds", "note": note, "lines": lines_of(rounds, "round")})
    parts.append({"title": "Training", "note": "Logged rows of all rounds.", "lines": lines_of(rows, "step")})
    drifted, frozen = (
        ", ".join(f"{number:g}" for number in rounds["round"][rounds[name] == 1]) if name in rounds else ""
        for name in ("alarm", "frozen_old")
    )
    context = {
        "title": ONLINE[method].title,
        "colours": ONLINE[method].colour,
        "profile": metrics["profile"],
        "css": style_sheet(),
        "judges": judges,
        "parts": parts,
        "drifted": drifted,
        "frozen": frozen,
        "alarms": found["hacking"]["reasons"],
    }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(context)


def lines_of(table: pd.DataFrame, across: str) -> list[dict]:
    """A curve for each column of at least two known values."""
    lines = []
    for name in table.columns.drop([column for column in LEFT_OUT if column in table]):
        known = table.dropna(subset=[across, name])
        steps, values = known[across].tolist(), known[name].tolist()
        if len(values) < 2:
            continue
        words = str(name).replace("_", " ").replace("/", ", ")
        lines.append({"name": words, "svg": curve(steps, values, words), "first": values[0], "last": values[-1]})
    return lines
