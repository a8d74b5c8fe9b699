"""What the shapes world's small VLM is taught: rendered clips, questions about them, and the renderer's answers.

The grades of defects are those of the renderer's strengths; what the clip shows is the scene it was rendered from.
"""

from dataclasses import dataclass, replace

import numpy as np

from components.config.params import FramePlanParams, SplitParams, WorldParams
from components.preferences.split import split_prompts
from components.simulation.render import Render, concrete, spoiled
from components.simulation.small_vlm import VIDEO_TURN
from components.simulation.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SPEEDS, Scene, all_scenes, prompt_of
from components.video.frames import FramePlan

PICTURE = ("blur", "noise", "ghost")
MOTION = ("flicker", "jitter", "frozen")
GRADES = {"no": 0.08, "slight": 0.35, "clear": 0.65, "strong": 1.01}  # up to this strength
MOSTLY_FROZEN = 0.8  # above it the direction can hardly be seen

# The wording of templates/short.txt, as a large VLM understands its template too.
ASK_PICTURE = "Visual quality:"
ASK_MOTION = "\nMotion quality:"
ASK_MATCH = '\nText alignment, "{}":'
ASK_SCENE = "\nIt shows:"
RIGHT, WRONG = " right", " wrong"


@dataclass(frozen=True)
class Take:
    """A rendered clip, [T, H, W, 3] uint8, and what the renderer was told: the scene with its background named, the
    render, and the strength of each defect."""

    frames: np.ndarray
    scene: Scene
    render: Render
    defects: dict[str, float]

    @property
    def moving(self) -> bool:
        """Whether a direction and a speed can be seen."""
        return self.defects.get("frozen", 0.0) < MOSTLY_FROZEN


@dataclass(frozen=True)
class Lesson:
    """frames [T, H, W, 3] uint8, and text in pieces: (piece, topic of an answer to learn, or None)."""

    frames: np.ndarray
    text: list[tuple[str, str | None]]


class Lessons:
    """Draws clips of scenes whose prompts are in one split, with questions from the same split."""

    def __init__(self, world: WorldParams, split: SplitParams, frames: FramePlanParams):
        self.world = world
        scenes = {prompt_of(scene): scene for scene in all_scenes()}
        sides = split_prompts(scenes, split)
        self.scenes = {side: [scenes[p] for p in scenes if sides[p] == side] for side in ("train", "validation")}
        self.known = {side: set(those) for side, those in self.scenes.items()}
        self.indices = FramePlan(frames.fps, frames.frames, 1, 1, 1).indices(world.frames, world.fps)

    def corpus(self, side: str) -> list[str]:
        """Text with all the words of lessons, for a tokenizer."""
        return ["".join(text for text, _ in self.draw(side, seed).text[1:]) for seed in range(2000)]

    def take(self, side: str, rng: np.random.Generator) -> Take:
        """A clip of one of the split's scenes, perhaps spoiled."""
        scene = self.scenes[side][rng.integers(len(self.scenes[side]))]
        r = concrete(scene, rng, self.world.size, self.world.frames)
        background = next(name for name, rgb in BACKGROUNDS.items() if rgb == r.background)
        defects = draw_defects(rng)
        frames = spoiled(r, defects, rng, self.world.size, self.world.frames)[self.indices]
        return Take(frames, replace(scene, background=background), r, defects)

    def draw(self, side: str, seed: int) -> Lesson:
        """The lesson of a seed: picture, motion, and then questions of match or one of description. Matches are asked of
        single words before whole sentences: in a sentence alone, the word that counts is found too late to be learnt. The
        word stands behind another, as in a sentence: at the start of a quotation it would be other tokens."""
        rng = np.random.default_rng(seed)
        take = self.take(side, rng)
        text = [(VIDEO_TURN, None), (ASK_PICTURE, None), *grades(PICTURE, take.defects)]
        text += [(ASK_MOTION, None), *grades(MOTION, take.defects)]
        if take.moving and rng.random() < 0.3:
            text += [(ASK_SCENE, None), *description(take.scene)]
        else:
            for name in rng.choice(["colour", "shape"], 4).tolist():
                word = self._word(name, take.scene, rng)
                right = word == getattr(take.scene, name)
                text += [
                    (ASK_MATCH.format(f"a {word}"), None),
                    (f" {name}", None),
                    (RIGHT if right else WRONG, f"match {name}"),
                ]
            for _ in range(2):
                asked = self._asked(side, take.scene, rng)
                text += [(ASK_MATCH.format(prompt_of(asked)), None), *match(asked, take.scene, take.moving)]
        return Lesson(take.frames, text)

    def _word(self, name: str, shown: Scene, rng: np.random.Generator) -> str:
        """A colour or a shape, the one that is shown half of the time."""
        values = [value for value in dict(ATTRIBUTES)[name] if value != getattr(shown, name)]
        return getattr(shown, name) if rng.random() < 0.5 else values[rng.integers(len(values))]

    def _asked(self, side: str, shown: Scene, rng: np.random.Generator) -> Scene:
        """A sentence to compare with the clip, wrong in each of its attributes about as often as right."""
        while True:
            asked = replace(shown, speed=shown.speed if rng.random() < 0.5 else None)
            for name, values in ATTRIBUTES:
                if rng.random() < 0.6:
                    asked = replace(asked, **{name: values[rng.integers(len(values))]})
            if rng.random() < 0.4:
                asked = replace(asked, background=None)
            if asked in self.known[side]:
                return asked


ATTRIBUTES = [
    ("colour", list(COLOURS)),
    ("shape", list(SHAPES)),
    ("direction", list(DIRECTIONS)),
    ("speed", [speed for speed in SPEEDS if speed]),
    ("background", list(BACKGROUNDS)),
]


def draw_defects(rng: np.random.Generator) -> dict[str, float]:
    """None at all in a quarter of the clips, else one to three of even strength."""
    if rng.random() < 0.25:
        return {}
    kinds = rng.permutation([*PICTURE, *MOTION])[: rng.integers(1, 4)]
    return {str(kind): float(rng.uniform()) for kind in kinds}


def grades(kinds: tuple[str, ...], defects: dict[str, float]) -> list[tuple[str, str | None]]:
    pieces: list[tuple[str, str | None]] = []
    for kind in kinds:
        grade = next(grade for grade, top in GRADES.items() if defects.get(kind, 0.0) < top)
        pieces += [(f" {kind}", None), (f" {grade}", kind)]
    return pieces


def description(shown: Scene) -> list[tuple[str, str | None]]:
    speed = shown.speed or "evenly"
    pieces = [("colour", shown.colour), ("shape", shown.shape), ("direction", shown.direction), ("speed", speed)]
    answer: list[tuple[str, str | None]] = []
    for name, value in [*pieces, ("background", shown.background)]:
        answer += [(f" {name}", None), (f" {value}", name)]
    return answer


def match(asked: Scene, shown: Scene, moving: bool) -> list[tuple[str, str | None]]:
    answer: list[tuple[str, str | None]] = []
    for name, _ in ATTRIBUTES:
        wanted = getattr(asked, name)
        if wanted is None:
            continue
        right = wanted == getattr(shown, name) and (moving or name not in ("direction", "speed"))
        answer += [(f" {name}", None), (RIGHT if right else WRONG, f"match {name}")]
    return answer
