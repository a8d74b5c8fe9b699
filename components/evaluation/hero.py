"""The clips beside the report's headline: where base and a method differ most by the judge, and typical ones.

In the shapes world each has the path that its shape took, and the path that the prompt describes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

PLANE = 24.0  # px a clip of 32 x 32 has to each side of the start, in a drawing of paths
RULE = "The largest gain and the largest loss against base, and the two clips nearest to the median difference."


@dataclass(frozen=True)
class Choice:
    """A prompt and seed that is shown, and why."""

    prompt_id: str
    seed: int
    difference: float  # of the method's score and base's
    why: str


@dataclass(frozen=True)
class Path2D:
    """Displacement from the first frame on, [T, 2] in px of a clip of 32 x 32, y downwards."""

    kind: str  # CSS class
    name: str
    points: np.ndarray


def choose(clips: pd.DataFrame, method: str, column: str) -> list[Choice]:
    """The largest gain, the largest loss and the two typical differences of `column`, each of another prompt.

    Args:
        clips: one row per clip with method, prompt_id, seed and `column`.

    Fewer prompts than four give fewer choices. Ties are resolved by prompt_id and seed.
    """
    sides = [clips.loc[clips["method"] == name].set_index(["prompt_id", "seed"])[column] for name in (method, "base")]
    differences = (sides[0] - sides[1]).dropna().sort_index()
    near = (differences - differences.median()).abs().sort_values(kind="stable")
    falling, rising = (-differences).sort_values(kind="stable"), differences.sort_values(kind="stable")
    gain = "Largest gain" if differences.max() > 0 else "Smallest loss"
    loss = "Largest loss" if differences.min() < 0 else "Smallest gain"
    chosen: list[Choice] = []
    for why, order in ((gain, falling), (loss, rising), ("Typical", near), ("Typical", near)):
        free = [key for key in order.index if key[0] not in {one.prompt_id for one in chosen}]
        if free:
            prompt_id, seed = free[0]
            chosen.append(Choice(prompt_id, seed, float(differences[free[0]]), why))
    return chosen


def paths(prompt: str, films: list[tuple[str, str, str | Path]]) -> tuple[Path2D | None, list[Path2D]]:
    """The path of a prompt, None for a prompt outside the shapes world, and those of clips (CSS class, name, file).

    A clip without a shape has no path.
    """
    from components.simulation.judge import track
    from components.simulation.render import REFERENCE_SIZE
    from components.simulation.world import DIRECTIONS, SPEEDS, scene_of
    from components.video.decode import read_frames

    try:
        scene = scene_of(prompt)
    except ValueError:
        return None, []
    taken, frames = [], 0
    for kind, name, file in films:
        clip = read_frames(file)
        frames = max(frames, len(clip))
        centres = track(clip)
        if centres is not None:
            taken.append(Path2D(kind, name, (centres - centres[0]) * REFERENCE_SIZE / clip.shape[1]))
    way = np.array([0, max(frames - 1, 0) * SPEEDS[scene.speed]])[:, None] * np.array(DIRECTIONS[scene.direction])
    return Path2D("asked", "prompt", way), taken


def drawing(asked: Path2D, taken: list[Path2D]) -> Markup:
    """Paths from a common start, the prompt's dashed; SVG that takes the size of its box."""
    points = np.concatenate([path.points for path in (asked, *taken)])
    far = max(PLANE, float(np.abs(points).max()) * 1.1)
    axes = ((f"{-far:g}", f"{far:g}", "0", "0"), ("0", "0", f"{-far:g}", f"{far:g}"))
    parts = [f'<line class="grid" x1="{left}" x2="{right}" y1="{top}" y2="{low}"/>' for left, right, top, low in axes]
    for path in (*taken, asked):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in path.points)
        x, y = path.points[-1]
        end = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{far / 20:.1f}"/>'
        parts.append(f'<g class="{escape(path.kind)}"><polyline points="{line}"/>{end}</g>')
    spoken = "Displacement. " + "; ".join(f"{path.name}: {_words(path.points[-1])}" for path in (asked, *taken))
    box = f'viewBox="{-far:g} {-far:g} {2 * far:g} {2 * far:g}"'
    return Markup(f'<svg class="paths" {box} role="img" aria-label="{escape(spoken)}">{"".join(parts)}</svg>')


def difference_words(choice: Choice, name: str, judge: str) -> str:
    """A line on one choice, such as "Flow-DPO 0.42 above base by the gold judge"."""
    if round(choice.difference, 2) == 0:
        return f"{name} level with base by {judge}"
    return f"{name} {abs(choice.difference):.2f} {'above' if choice.difference > 0 else 'below'} base by {judge}"


def cards(
    clips: pd.DataFrame, method: str, name: str, judge: tuple[str, str], film: Callable[[pd.DataFrame, str], dict]
) -> list[dict]:
    """What the template shows for each choice.

    Args:
        clips: as write_report takes them.
        name: the method's, as a title.
        judge: its key and its name in a sentence.
        film: makes the template's clip from the clips of one prompt and seed, indexed by method, and a method.
    """
    key, words = judge
    found = []
    for choice in choose(clips, method, f"{key}_Overall"):
        same = (clips["prompt_id"] == choice.prompt_id) & (clips["seed"] == choice.seed)
        own = clips[same].set_index("method")
        prompt = own.loc["base", "prompt"]
        shown = [film(own, side) for side in ("base", method)]
        for clip in shown:
            clip["scores"] = [score for score in clip["scores"] if score.key == key]
        asked, taken = None, []
        if key == "gold":
            files = [(kind, title, own.loc[kind, "video"]) for kind, title in (("base", "Base"), (method, name))]
            asked, taken = paths(prompt, files)
        found.append(
            {
                "prompt": prompt,
                "said": difference_words(choice, name, words),
                "why": choice.why,
                "clips": shown,
                "paths": asked and drawing(asked, taken),
                "moves": [(one.kind, one.name, _words(one.points[-1])) for one in (asked, *taken)] if asked else [],
            }
        )
    return found


def _words(end: np.ndarray) -> str:
    """A displacement in words, such as "10.4 px left, 0.8 px up"."""
    sides = ((end[0], "left", "right"), (end[1], "up", "down"))
    found = [f"{abs(moved):.1f} px {less if moved < 0 else more}" for moved, less, more in sides if abs(moved) >= 0.5]
    return ", ".join(found) or "no motion"
