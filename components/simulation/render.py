"""Renders scenes of the shapes world, clean or with planted defects.

A clean clip is one anti-aliased shape in straight, even motion over a flat background. Coverage is analytic: a pixel
whose centre lies at signed distance d (px) from the outline is covered by clip(1/2 - d, 0, 1), which is exact for
straight edges along the axes and close for the others, and costs one vectorised pass.

Defects have a continuous strength in [0, 1], from none to severe, so that a zoo can cover every quality.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from components.simulation.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SPEEDS, Scene

RADIUS = 5.0  # px at size 32
RADIUS_SPREAD = 0.6
SPEED_SPREAD = 0.05  # relative
REFERENCE_SIZE = 32
# Half width and half height of each shape in units of the radius, for areas within 15% of one another.
EXTENTS = {"circle": (1.0, 1.0), "square": (0.88, 0.88), "triangle": (1.25, 1.08), "cross": (1.12, 1.12)}
CROSS_ARM = 0.38

SCENE_DEFECTS = ("wrong_colour", "wrong_shape", "wrong_direction")
TRACK_DEFECTS = ("jitter", "frozen")
PIXEL_DEFECTS = ("blur", "noise", "ghost", "flicker")
DEFECTS = SCENE_DEFECTS + TRACK_DEFECTS + PIXEL_DEFECTS


@dataclass(frozen=True)
class Render:
    """Parameters of a clip. Positions in px from the top left corner; pixel centres lie at +0.5."""

    rgb: tuple[float, float, float]
    shape: str
    radius: float
    start: tuple[float, float]  # centre in the first frame, x then y
    velocity: tuple[float, float]  # px a frame
    background: tuple[float, float, float]
    second_shape: str | None = None  # a planted wrong shape: the outline lies `blend` of the way towards it
    blend: float = 0.0


def concrete(scene: Scene, rng: np.random.Generator, size: int = REFERENCE_SIZE, frames: int = 9) -> Render:
    """Samples what the scene leaves open (start, size, exact speed, background); the track stays inside the frame."""
    background = scene.background or list(BACKGROUNDS)[rng.integers(len(BACKGROUNDS))]
    scale = size / REFERENCE_SIZE
    radius = scale * (RADIUS + RADIUS_SPREAD * rng.uniform(-1, 1))
    speed = scale * SPEEDS[scene.speed] * (1 + SPEED_SPREAD * rng.uniform(-1, 1))
    right, down = DIRECTIONS[scene.direction]
    velocity = speed * right, speed * down
    start = _start(scene.shape, radius, velocity, rng, size, frames)
    return Render(COLOURS[scene.colour], scene.shape, radius, start, velocity, BACKGROUNDS[background])


def render(r: Render, size: int = REFERENCE_SIZE, frames: int = 9) -> np.ndarray:
    """A clean clip [T, H, W, 3] uint8."""
    return draw(r, np.asarray(r.start) + np.arange(frames)[:, None] * np.asarray(r.velocity), size)


def draw(r: Render, centres: np.ndarray, size: int) -> np.ndarray:
    """Draws the object at `centres` [T, 2] (x, y in px) instead of the render's track: [T, H, W, 3] uint8."""
    cover = coverage(r.shape, r.radius, centres, size, r.second_shape, r.blend)[..., None]
    background = np.asarray(r.background, np.float32)
    return np.rint(background + cover * (np.asarray(r.rgb, np.float32) - background)).astype(np.uint8)


def coverage(
    shape: str,
    radius: float | np.ndarray,
    centres: np.ndarray,
    size: int,
    second_shape: str | None = None,
    blend: float = 0.0,
) -> np.ndarray:
    """How much of each pixel the object covers, [T, H, W] float32 in [0, 1]."""
    x, y = offsets(centres, size)
    distance = signed_distance(shape, radius, x, y)
    if second_shape is not None:
        distance = (1 - blend) * distance + blend * signed_distance(second_shape, radius, x, y)
    return np.clip(0.5 - distance, 0, 1)


def offsets(centres: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel positions relative to the centres [T, 2]: x [T, 1, W] and y [T, H, 1], float32."""
    at = np.arange(size, dtype=np.float32) + 0.5
    centres = np.asarray(centres, np.float32)[:, :, None, None]
    return at[None, None, :] - centres[:, 0], at[None, :, None] - centres[:, 1]


def signed_distance(shape: str, radius: float | np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance (px) from the outline for points relative to the centre, negative inside; corners stay sharp."""
    width, height = radius * EXTENTS[shape][0], radius * EXTENTS[shape][1]
    if shape == "circle":
        return np.hypot(x, y) - width
    across, down = np.abs(x), np.abs(y)
    if shape == "square":
        return np.maximum(across, down) - width
    if shape == "cross":
        arm = radius * CROSS_ARM
        return np.minimum(np.maximum(across - width, down - arm), np.maximum(across - arm, down - height))
    if shape == "triangle":  # apex up, centred on its bounding box: a base and two equal sides
        side = (2 * height * across - width * (y + height)) / np.hypot(2 * height, width)
        return np.maximum(side, y - height)
    raise ValueError(f"no such shape: {shape!r}")


def spoiled(
    r: Render, defects: Mapping[str, float], rng: np.random.Generator, size: int = REFERENCE_SIZE, frames: int = 9
) -> np.ndarray:
    """A clip with defects, [T, H, W, 3] uint8; `defects` maps kinds of `DEFECTS` to strengths in [0, 1], 0 for none.

    Kinds are applied in the order of `DEFECTS` (object, track, pixels), whatever the order of the mapping. At strength
    1: wrong_colour, wrong_shape and wrong_direction are fully another one; jitter moves each frame's object by 2.5 px
    (sigma); frozen never moves (at 0.5 it stops halfway); for the others see `defect`.
    """
    unknown = set(defects) - set(DEFECTS)
    if unknown:
        raise ValueError(f"no such defect: {', '.join(sorted(unknown))}")
    for kind in SCENE_DEFECTS:
        if strength := defects.get(kind, 0.0):
            r = _wrong(r, kind, strength, rng, size, frames)
    time = np.minimum(np.arange(frames), (1 - defects.get("frozen", 0.0)) * (frames - 1))
    centres = np.asarray(r.start) + time[:, None] * np.asarray(r.velocity)
    if strength := defects.get("jitter", 0.0):
        centres = centres + rng.normal(0, 2.5 * strength * size / REFERENCE_SIZE, centres.shape)
        reach = r.radius * np.asarray(EXTENTS[r.shape])
        centres = np.clip(centres, reach, size - reach)  # past the edge it would be cut off, another defect
    clip = draw(r, centres, size)
    for kind in PIXEL_DEFECTS:
        if strength := defects.get(kind, 0.0):
            clip = defect(clip, kind, strength, rng)
    return clip


def defect(frames: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds a defect of `PIXEL_DEFECTS` to any clip [T, H, W, 3] uint8. At strength 1: blur of sigma 2 px (at size 32),
    Gaussian noise of sigma 64 levels, a ghost of the frame two before at half weight, gains between 1 and 0.4."""
    count, size = frames.shape[:2]
    clip = frames.astype(np.float32)
    if kind == "blur":
        sigma = 2.0 * strength * size / REFERENCE_SIZE
        clip = ndimage.gaussian_filter(clip, (0, sigma, sigma, 0), mode="nearest")
    elif kind == "noise":
        clip = clip + rng.normal(0, 64 * strength, clip.shape)
    elif kind == "ghost":
        clip = (1 - strength / 2) * clip + strength / 2 * clip[np.maximum(np.arange(count) - 2, 0)]
    elif kind == "flicker":  # only darker: a gain above one would clip white, and clipping is not flicker
        dips = rng.permutation(np.linspace(0, 1, count))
        clip = clip * (1 - 0.6 * strength * dips)[:, None, None, None]
    else:
        raise ValueError(f"not a defect of pixels: {kind!r}; one of {', '.join(PIXEL_DEFECTS)} was expected")
    return np.clip(np.rint(clip), 0, 255).astype(np.uint8)


def _wrong(r: Render, kind: str, strength: float, rng: np.random.Generator, size: int, frames: int) -> Render:
    """Moves one attribute `strength` of the way towards another of its kind."""
    if kind == "wrong_colour":
        others = [rgb for rgb in COLOURS.values() if rgb != r.rgb]
        other = others[rng.integers(len(others))]
        return replace(r, rgb=tuple((1 - strength) * a + strength * b for a, b in zip(r.rgb, other, strict=True)))
    if kind == "wrong_shape":
        others = [shape for shape in SHAPES if shape != r.shape]
        return replace(r, second_shape=others[rng.integers(len(others))], blend=strength)
    angle = strength * rng.choice([np.pi / 2, np.pi, -np.pi / 2])
    (vx, vy), cos, sin = r.velocity, np.cos(angle), np.sin(angle)
    velocity = (float(cos * vx - sin * vy), float(sin * vx + cos * vy))
    return replace(r, velocity=velocity, start=_start(r.shape, r.radius, velocity, rng, size, frames))


def _start(
    shape: str, radius: float, velocity: tuple[float, float], rng: np.random.Generator, size: int, frames: int
) -> tuple[float, float]:
    """A random first centre from which the whole object stays inside the frame until the end."""
    start = []
    for extent, step in zip(EXTENTS[shape], velocity, strict=True):
        travel = step * (frames - 1)
        low = radius * extent - min(travel, 0.0)
        high = size - radius * extent - max(travel, 0.0)
        if low > high:
            raise ValueError(f"{frames} frames at {step:.2f} px a frame do not fit in {size} px")
        start.append(float(rng.uniform(low, high)))
    return start[0], start[1]
