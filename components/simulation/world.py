"""The language of the shapes world: its scenes and the prompts that describe them.

A scene is one of 1152 combinations: 6 colours x 4 shapes x 4 directions x 3 speeds x 4 backgrounds, where speed and
background may be unspecified. A prompt is a sentence of a fixed grammar, so that every prompt parses to exactly one scene:

    a red circle moving up
    a red circle moving quickly to the left on a grey background
"""

import itertools
import re
from dataclasses import dataclass

# Every colour has at least 28 levels of luma contrast to every background: 4:2:0 video halves the chroma resolution, and a
# shape of 5 px radius that differs by chroma only would lose its outline.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (210, 30, 30),
    "green": (50, 200, 70),
    "blue": (40, 70, 220),
    "yellow": (245, 220, 50),
    "magenta": (235, 80, 225),
    "cyan": (70, 215, 230),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (12, 12, 12),
    "white": (245, 245, 245),
    "grey": (112, 112, 112),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
# Image axes: x grows to the right, y grows downwards.
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
# Pixels a frame in a clip of 32 x 32; None is unspecified.
SPEEDS: dict[str | None, float] = {None: 1.3, "slowly": 0.8, "quickly": 2.0}

_SAID = {"left": "to the left", "right": "to the right", "up": "up", "down": "down"}
_GRAMMAR = re.compile(
    rf"a ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) moving(?: (slowly|quickly))? (?:to the )?(left|right|up|down)"
    rf"(?: on a ({'|'.join(BACKGROUNDS)}) background)?"
)


@dataclass(frozen=True)
class Scene:
    """The content of a prompt. `speed` and `background` are None where the prompt does not specify them."""

    colour: str
    shape: str
    direction: str
    speed: str | None = None
    background: str | None = None


def all_scenes() -> list[Scene]:
    """All 1152 scenes of the world, in a fixed order."""
    return [Scene(*parts) for parts in itertools.product(COLOURS, SHAPES, DIRECTIONS, SPEEDS, (None, *BACKGROUNDS))]


def prompt_of(scene: Scene) -> str:
    """The unique sentence that describes this scene."""
    speed = f" {scene.speed}" if scene.speed else ""
    background = f" on a {scene.background} background" if scene.background else ""
    return f"a {scene.colour} {scene.shape} moving{speed} {_SAID[scene.direction]}{background}"


def scene_of(prompt: str) -> Scene:
    """The scene of a prompt, the inverse of `prompt_of`; ValueError for a sentence outside the grammar."""
    match = _GRAMMAR.fullmatch(prompt)
    scene = Scene(match[1], match[2], match[4], match[3], match[5]) if match else None
    # The pattern also matches "moving left" and "moving to the up"; only sentences of prompt_of are valid.
    if scene is None or prompt_of(scene) != prompt:
        raise ValueError(f"not a sentence of the shapes world: {prompt!r}")
    return scene
