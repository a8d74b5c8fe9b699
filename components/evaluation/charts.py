"""Inline SVG for the report: dots with intervals on a common scale, and training curves. No script, no fonts, no files.

Horizontal positions are percentages of the drawing's own width, so that it stretches with the page while dots and text
keep their size. Colours come from the page's CSS classes, so that they follow light and dark.
"""

import math

from markupsafe import Markup, escape

from components.evaluation.win_rates import Interval

ROW, DOT = 22, 4.5


def interval_strip(marks: list[tuple[str, str, Interval]], middle: float = 0.5) -> Markup:
    """One row of a dot plot on the scale 0..1, with a line at `middle`.

    Args:
        marks: (CSS class, label, estimate) each; drawn one below the other. The label is read out, not drawn.
    """
    height = ROW * len(marks)
    parts = [f'<line class="grid" x1="{at}%" x2="{at}%" y1="0" y2="{height}"/>' for at in (0, 25, 75, 100)]
    parts.append(f'<line class="even" x1="{middle:.0%}" x2="{middle:.0%}" y1="0" y2="{height}"/>')
    for index, (kind, _, found) in enumerate(marks):
        y = ROW * (index + 0.5)
        parts.append(
            f'<g class="{escape(kind)}"><line class="whisker" x1="{found.low:.2%}" x2="{found.high:.2%}"'
            f' y1="{y}" y2="{y}"/><circle class="dot" cx="{found.value:.2%}" cy="{y}" r="{DOT}"/></g>'
        )
    spoken = "; ".join(f"{label} {found.value:.0%}, {found.low:.0%} to {found.high:.0%}" for _, label, found in marks)
    return Markup(
        f'<svg class="strip" height="{height}" width="100%" role="img" aria-label="{escape(spoken)}">{"".join(parts)}</svg>'
    )


def curve(steps: list[float], values: list[float], name: str) -> Markup:
    """A line over training steps on its own scale; gaps where a value is NaN. Axis labels are the caller's."""
    points = [(x, y) for x, y in zip(steps, values, strict=True) if math.isfinite(y)]
    low, high = min(y for _, y in points), max(y for _, y in points)
    first, last = points[0][0], points[-1][0]
    across, up = max(last - first, 1e-12), max(high - low, 1e-12)
    path = " ".join(f"{100 * (x - first) / across:.2f},{58 - 56 * (y - low) / up:.2f}" for x, y in points)
    label = f"{name}: from {points[0][1]:.3g} to {points[-1][1]:.3g} over {last:g} steps"
    return Markup(
        f'<svg class="curve" viewBox="0 0 100 60" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        '<line class="grid" x1="0" x2="100" y1="58" y2="58"/><line class="grid" x1="0" x2="100" y1="2" y2="2"/>'
        f'<polyline points="{path}"/></svg>'
    )
