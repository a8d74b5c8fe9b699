"""Inline SVG for the report: dots with intervals on a common scale, and training curves. No script, no fonts, no files.

Horizontal positions are percentages of the drawing's width, so that it stretches with the page while dots and text keep
their size. Colours come from the page's CSS classes and follow its light or dark scheme.
"""

import math

from markupsafe import Markup, escape

from components.evaluation.win_rates import Interval

ROW, DOT = 22, 4.5
FRONT = 300  # px


def interval_strip(marks: list[tuple[str, str, Interval]], middle: float = 0.5) -> Markup:
    """One row of a dot plot on the scale 0..1, with a line at `middle`.

    Args:
        marks: (CSS class, label, estimate) each, drawn top to bottom. Labels are for screen readers and not drawn.
    """
    height = ROW * len(marks)
    parts = [f'<line class="grid" x1="{at}%" x2="{at}%" y1="0" y2="{height}"/>' for at in (0, 25, 75, 100)]
    parts.append(f'<line class="even" x1="{middle:.0%}" x2="{middle:.0%}" y1="0" y2="{height}"/>')
    for index, (kind, _, found) in enumerate(marks):
        y = ROW * (index + 0.5)
        parts.append(
            f'<g class="{escape(kind)}">{_whisker(found.low, found.high, y)}'
            f'<circle class="dot" cx="{found.value:.2%}" cy="{y}" r="{DOT}"/></g>'
        )
    spoken = "; ".join(f"{label} {found.value:.0%}{_bounds(found)}" for _, label, found in marks)
    return Markup(
        f'<svg class="strip" height="{height}" width="100%" role="img" aria-label="{escape(spoken)}">{"".join(parts)}</svg>'
    )


def _whisker(low: float | None, high: float | None, y: float) -> str:
    if low is None:
        return ""
    return f'<line class="whisker" x1="{low:.2%}" x2="{high:.2%}" y1="{y}" y2="{y}"/>'


def _bounds(found: Interval) -> str:
    return "" if found.low is None else f", {found.low:.0%} to {found.high:.0%}"


def front(points: list[tuple[str, str, Interval, Interval]], names: tuple[str, str]) -> Markup:
    """Labelled points in the plane of two shares, with their intervals and lines at one half.

    Args:
        points: (CSS class, label, estimate across, estimate up) each.
        names: of the horizontal and the vertical axis.
    """
    ends = [end for _, _, *found in points for one in found for end in (one.low, one.value, one.high) if end is not None]
    low, high = math.floor(20 * min(0.5, *ends)) / 20, math.ceil(20 * max(0.5, *ends)) / 20

    def across(share: float) -> str:
        return f"{100 * (share - low) / (high - low):.2f}%"

    def up(share: float) -> str:
        return f"{100 - 100 * (share - low) / (high - low):.2f}%"

    parts = [f'<rect class="grid" fill="none" width="100%" height="{FRONT}"/>']
    parts.append(f'<line class="even" x1="{across(0.5)}" x2="{across(0.5)}" y1="0%" y2="100%"/>')
    parts.append(f'<line class="even" x1="0%" x2="100%" y1="{up(0.5)}" y2="{up(0.5)}"/>')
    for share, x, anchor in ((low, "0%", "start"), (high, "100%", "end")):
        parts.append(f'<text x="{x}" y="{FRONT + 16}" text-anchor="{anchor}">{names[0]} {share:.0%}</text>')
        y = FRONT - 6 if share == low else 14
        parts.append(f'<text x="6" y="{y}">{names[1]} {share:.0%}</text>')
    for kind, label, x, y in points:
        cross = ""
        if x.low is not None and x.high is not None and y.low is not None and y.high is not None:
            cross = (
                f'<line class="whisker faint" x1="{across(x.low)}" x2="{across(x.high)}" y1="{up(y.value)}"'
                f' y2="{up(y.value)}"/><line class="whisker faint" x1="{across(x.value)}" x2="{across(x.value)}"'
                f' y1="{up(y.low)}" y2="{up(y.high)}"/>'
            )
        parts.append(
            f'<g class="{escape(kind)}">{cross}<circle class="dot" cx="{across(x.value)}"'
            f' cy="{up(y.value)}" r="{DOT}"/><text x="{across(x.value)}" y="{up(y.value)}" dx="8" dy="-7">{escape(label)}'
            "</text></g>"
        )
    spoken = "; ".join(f"{label}: {names[0]} {x.value:.0%}, {names[1]} {y.value:.0%}" for _, label, x, y in points)
    return Markup(
        f'<svg class="front" height="{FRONT}" width="100%" role="img" aria-label="{escape(spoken)}">{"".join(parts)}</svg>'
    )


def curve(steps: list[float], values: list[float], name: str) -> Markup:
    """A line over training steps, scaled to its range; NaN values are left out. The caller adds axis labels."""
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
