"""The gold judge of the shapes world: analysis by synthesis, never trained.

The renderer's model is fitted to every frame: a flat background and one shape with a colour, position and size. The fit is
compared with the prompt (TA), its residual is a flaw of the picture (VQ), and its change from frame to frame is the motion
(MQ). Position, size and brightness are fitted per frame, so that jitter and flicker affect motion only. Colour is free, so
that a wrong colour affects TA only.

All scores lie in [0, 1]. Soft steps are flat at both ends: invisible flaws cost nothing, and all clips that match the prompt
in full get the same TA.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import ndimage

from components.simulation.render import EXTENTS, RADIUS, REFERENCE_SIZE, coverage
from components.simulation.world import BACKGROUNDS, COLOURS, DIRECTIONS, SHAPES, SPEEDS, scene_of

# Size of each flaw at which its factor of the score is one half.
HALF_NEAR = 0.25  # rms residual around the object, in units of the object's contrast
HALF_FAR = 28.0  # rms residual of the background, in levels
HALF_UNSTEADY = 1.0  # rms distance from a straight, even track, px at size 32
HALF_FLICKER = 0.12  # relative spread of the object's visible mass
ENOUGH_MOTION = (0.15, 0.6)  # px a frame at size 32: below the first a still clip, above the second a moving one
RADIUS_LIMITS = (3.0, 7.5)  # px at size 32
BLURS = (0.0, 0.7, 1.2, 1.8, 2.5)  # px at size 32; shapes are compared under each of these blurs
# RGB to luma and two colour differences, the latter at half weight: video stores them at half the resolution, so that
# they carry little of the outline. (BT.601 luma; B - Y and R - Y scaled as in Cb and Cr.)
SEEN = np.array([[0.299, 0.587, 0.114], [-0.084, -0.166, 0.25], [0.25, -0.209, -0.041]], np.float32).T
TA_WEIGHTS = {"colour": 1.0, "shape": 1.0, "direction": 1.0, "speed": 0.5, "background": 0.5}


@dataclass(frozen=True)
class Verdict:
    """Scores of a clip for a prompt, and the fitted attributes. Velocity is in px a frame, y downwards."""

    VQ: float
    MQ: float
    TA: float
    Overall: float  # the mean of the three
    prompt_right: bool  # the clip shows everything in the prompt
    dynamic_degree: float  # speed of the best-fitting linear track, px a frame
    speed_error: float  # its distance from the prompt's speed, px a frame
    colour: str
    shape: str
    velocity: tuple[float, float]
    background: str

    def scores(self) -> dict[str, float]:
        """The four scores by name, as annotators take them."""
        return {"VQ": self.VQ, "MQ": self.MQ, "TA": self.TA, "Overall": self.Overall}


@dataclass(frozen=True)
class Fit:
    """One shape fitted to every frame."""

    centres: np.ndarray  # [T, 2] px
    radii: np.ndarray  # [T] px
    cover: np.ndarray  # [T, H, W]
    error: float  # sum of squared residuals of the opacity


def track(frames: np.ndarray) -> np.ndarray | None:
    """Centres [T, 2] (px, y downwards) of the best-fitting shape in a clip [T, H, W, 3] uint8 (H = W); None where most
    frames show no shape."""
    clip = frames.astype(np.float32)
    _, stands_out, opacity, fits = _fit_shapes(clip)
    fit = min(fits.values(), key=lambda found: found.error)
    present = _presence(opacity, fit.cover, _project(stands_out, fit.cover))
    return fit.centres if present.mean() > 0.5 else None


def judge(frames: np.ndarray, prompt: str) -> Verdict:
    """Judges a clip [T, H, W, 3] uint8 (H = W, T >= 3) for a prompt of the world.

    Raises ValueError for another layout or a prompt outside the grammar; every pixel content gets a verdict.
    """
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.shape[1] != frames.shape[2] or len(frames) < 3:
        raise ValueError(f"a square clip [T >= 3, H, W, 3] was expected, got {frames.shape}")
    clip = frames.astype(np.float32)
    unit = clip.shape[1] / REFERENCE_SIZE
    backgrounds, stands_out, opacity, fits = _fit_shapes(clip)
    shape = min(SHAPES, key=lambda name: fits[name].error)
    fit = fits[shape]
    contrast = _project(stands_out, fit.cover)  # [T, 3], object minus background
    present = _presence(opacity, fit.cover, contrast)
    # Flicker only darkens the object: attributes are read from the third of the frames with the highest contrast.
    strongest = np.argsort(-np.linalg.norm(contrast, axis=1), kind="stable")[: max(len(clip) // 3, 1)]
    background = backgrounds[strongest].mean(0)
    colour = background + _inner_colour(stands_out, fit, shape)[strongest].mean(0)
    velocity, unsteady = _track(fit.centres)
    while_moving = _velocity_before_stop(fit.centres)
    distances = {
        "colour": _nearness(colour, COLOURS),
        "background": _nearness(background, BACKGROUNDS),
    }
    scene = scene_of(prompt)
    speed = float(np.hypot(*velocity))
    moved = speed * (len(clip) - 1) / unit
    scores = {
        "colour": _choice(distances["colour"], scene.colour),
        "shape": _shape_score(fits, scene.shape, unit),
        "direction": _direction_score(while_moving, moved, DIRECTIONS[scene.direction]),
    }
    if scene.speed is not None:
        pace = np.log(max(np.hypot(*while_moving) / unit, 0.05))
        scores["speed"] = _choice({name: abs(pace - np.log(usual)) for name, usual in SPEEDS.items()}, scene.speed)
    if scene.background is not None:
        scores["background"] = _choice(distances["background"], scene.background)
    there = float(present.mean())
    weights = [TA_WEIGHTS[name] for name in scores]
    quality = _visual_quality(clip, backgrounds, fit, contrast, shape, unit)
    vq = float((present * quality).mean())
    mq = there * _motion_quality(stands_out, backgrounds, fit, velocity, unsteady / unit, unit)
    ta = round(there * float(np.average(list(scores.values()), weights=weights)), 2)
    return Verdict(
        VQ=vq,
        MQ=mq,
        TA=ta,
        Overall=(vq + mq + ta) / 3,
        prompt_right=there > 0.5 and min(scores.values()) > 0.5,
        dynamic_degree=speed,
        speed_error=abs(speed - unit * SPEEDS[scene.speed]),
        colour=min(distances["colour"], key=lambda name: distances["colour"][name]),
        shape=shape,
        velocity=(float(velocity[0]), float(velocity[1])),
        background=min(distances["background"], key=lambda name: distances["background"][name]),
    )


def _fit_shapes(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Fit]]:
    """Of a clip [T, H, W, 3]: its background colours [T, 3], the difference from them, the opacity, and each shape's fit."""
    unit = clip.shape[1] / REFERENCE_SIZE
    backgrounds = np.median(clip, axis=(1, 2))  # no shape covers half of a frame
    stands_out = clip - backgrounds[:, None, None]
    opacity, spots = _opacity(stands_out @ SEEN, unit)
    return backgrounds, stands_out, opacity, {shape: _fit(opacity, shape, spots, unit) for shape in SHAPES}


def _opacity(stands_out: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of the object at each pixel, [T, H, W] (1 inside, 0 outside), and an initial estimate of its position [T, 2].

    The object is at the maximum of the salience smoothed over its size. Its colour there gives the axis onto which opacity
    is projected, which removes noise orthogonal to that axis.
    """
    salience = np.linalg.norm(stands_out, axis=-1)
    smooth: Any = ndimage.gaussian_filter(salience, (0, 2.5 * unit, 2.5 * unit), mode="constant", truncate=2.0)
    rows, columns = np.unravel_index(smooth.reshape(len(smooth), -1).argmax(1), smooth.shape[1:])
    spots = np.stack([columns, rows], axis=1) + 0.5
    inside = coverage("circle", 2.0 * unit, spots, smooth.shape[1])
    axis = _project(stands_out, inside)
    # The floor of 4 levels prevents an object being fitted to the rounding noise of an empty clip.
    power = np.maximum((axis**2).sum(1), 4.0**2)
    opacity = np.einsum("thwc,tc->thw", stands_out, axis) / power[:, None, None]
    return np.clip(opacity, -0.5, 1.5), spots


def _project(stands_out: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """The colour difference [T, 3] of the least-squares fit of `stands_out` by cover times colour."""
    return np.einsum("thwc,thw->tc", stands_out, cover) / np.maximum((cover**2).sum((1, 2)), 1.0)[:, None]


def _fit(opacity: np.ndarray, shape: str, spots: np.ndarray, unit: float, steps: int = 4) -> Fit:
    """Fits gain, position and size of one shape in all frames at once by damped Gauss-Newton steps."""
    size = opacity.shape[1]
    # The initial estimate is a centre of mass, which in a triangle lies below the middle of its bounding box.
    lift = RADIUS * unit * EXTENTS["triangle"][1] / 3 if shape == "triangle" else 0.0
    centres = spots - np.array([0.0, lift])
    radii = np.full(len(opacity), RADIUS * unit)
    low, high = RADIUS_LIMITS[0] * unit, RADIUS_LIMITS[1] * unit
    for _ in range(steps):
        cover = _cover(shape, radii, centres, size)
        gain = np.clip(_gain(opacity, cover), 0.2, 1.5)[:, None, None]
        larger = _cover(shape, radii + 0.25, centres, size)
        down, across = np.gradient(cover, axis=(1, 2))
        slopes = np.stack([cover, -gain * across, -gain * down, gain * (larger - cover) * 4], axis=1)
        slopes = slopes.reshape(len(opacity), 4, -1)
        residual = (opacity - gain * cover).reshape(len(opacity), -1, 1)
        normal = slopes @ slopes.transpose(0, 2, 1) + 0.5 * np.eye(4, dtype=np.float32)
        step = np.linalg.solve(normal, slopes @ residual)[..., 0]
        centres = np.clip(centres + np.clip(step[:, 1:3], -1.5, 1.5), 0.0, size)
        radii = np.clip(radii + np.clip(step[:, 3], -0.5, 0.5), low, high)
    cover = _cover(shape, radii, centres, size)
    # Blur rounds corners: a sharp square fits a blurred square worse than a sharp circle does. So each shape is compared
    # under its best blur.
    blurred = [blur @ cover @ blur for blur in _blurs(size)]
    error = min(float(((opacity - _gain(opacity, c)[:, None, None] * c) ** 2).sum()) for c in blurred)
    return Fit(centres, radii, cover, error)


@lru_cache
def _blurs(size: int) -> list[np.ndarray]:
    """Gaussian blurs along one axis as symmetric matrices [size, size]; matrix products are faster than filters."""
    apart = np.arange(size)[:, None] - np.arange(size)
    kernels = [np.exp(-0.5 * (apart / max(blur * size / REFERENCE_SIZE, 0.1)) ** 2) for blur in BLURS]
    return [(kernel / kernel[size // 2].sum()).astype(np.float32) for kernel in kernels]


def _cover(shape: str, radii: np.ndarray, centres: np.ndarray, size: int) -> np.ndarray:
    return coverage(shape, radii.astype(np.float32)[:, None, None], centres, size)


def _gain(opacity: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return (opacity * cover).sum((1, 2)) / np.maximum((cover**2).sum((1, 2)), 1.0)


def _presence(opacity: np.ndarray, cover: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Presence of an object in each frame [T]: correlation of the shape with the opacity, and sufficient contrast."""
    seen = opacity - opacity.mean((1, 2), keepdims=True)
    drawn = cover - cover.mean((1, 2), keepdims=True)
    scale = np.sqrt((seen**2).sum((1, 2)) * (drawn**2).sum((1, 2)))
    likeness = (seen * drawn).sum((1, 2)) / np.maximum(scale, 1e-6)
    return _ramp(likeness, 0.25, 0.5) * _ramp(np.linalg.norm(contrast, axis=1), 15.0, 50.0)


def _inner_colour(stands_out: np.ndarray, fit: Fit, shape: str) -> np.ndarray:
    """The object's colour difference [T, 3] well inside its outline, where blur does not mix in the background."""
    return _project(stands_out, _cover(shape, 0.6 * fit.radii, fit.centres, stands_out.shape[1]))


def _track(centres: np.ndarray) -> tuple[np.ndarray, float]:
    """Velocity [2] of the best-fitting linear track, and the rms distance from it (px)."""
    time = np.arange(len(centres)) - (len(centres) - 1) / 2
    places = centres - centres.mean(0)
    velocity = time @ places / (time**2).sum()
    off = places - time[:, None] * velocity
    return velocity, float(np.sqrt((off**2).sum(1).mean()))


def _velocity_before_stop(centres: np.ndarray) -> np.ndarray:
    """Velocity [2] up to the frame at which the object stops for good, if it does.

    The prompt's direction and speed describe the motion; an early stop is a flaw of motion, counted in MQ.
    """
    time = np.arange(len(centres))
    until = np.minimum(time, np.arange(2, len(centres))[:, None])  # [stops, T]; the last one never stops
    until = until - until.mean(1, keepdims=True)
    places = centres - centres.mean(0)
    velocities = until @ places / (until**2).sum(1, keepdims=True)
    errors = ((places - until[..., None] * velocities[:, None]) ** 2).sum((1, 2))
    best = int(errors.argmin())
    # A stop also fits jitter slightly better; a real stop removes most of the residual of a linear track.
    return velocities[best if errors[best] < 0.25 * errors[-1] else -1]


def _visual_quality(
    clip: np.ndarray, backgrounds: np.ndarray, fit: Fit, contrast: np.ndarray, shape: str, unit: float
) -> np.ndarray:
    """Closeness of each frame [T] to its best clean render, near the object and away from it."""
    residual = (clip - backgrounds[:, None, None] - fit.cover[..., None] * contrast[:, None, None]) @ SEEN
    # Losses of 4:2:0 are no flaw of the picture: colour differences are compared at half the resolution.
    sizes: Any = (0, 2, 2, 0)
    colour = ndimage.uniform_filter(residual[..., 1:], sizes, mode="nearest")
    squared = residual[..., 0] ** 2 + (colour**2).sum(-1)
    near = _cover(shape, fit.radii + 2.5 * unit, fit.centres, clip.shape[1])
    near_rms = np.sqrt((squared * near).sum((1, 2)) / np.maximum(near.sum((1, 2)), 1.0))
    far_rms = np.sqrt((squared * (1 - near)).sum((1, 2)) / np.maximum((1 - near).sum((1, 2)), 1.0))
    levels = np.maximum(np.linalg.norm(contrast @ SEEN, axis=1), 30.0)
    return 1 / (1 + (near_rms / levels / HALF_NEAR) ** 2 + (far_rms / HALF_FAR) ** 2)


def _motion_quality(
    stands_out: np.ndarray, backgrounds: np.ndarray, fit: Fit, velocity: np.ndarray, unsteady: float, unit: float
) -> float:
    """Presence of motion, its evenness and straightness, constant size and brightness of the object, a steady background."""
    moving = _ramp(np.hypot(*velocity) / unit, *ENOUGH_MOTION)
    steady = 1 / (1 + (unsteady / HALF_UNSTEADY) ** 2)
    shown = np.einsum("thwc,thw->tc", stands_out, fit.cover)
    axis = np.median(shown, axis=0)
    mass = shown @ axis / max(float(axis @ axis), 1.0)
    shaking = float(backgrounds.mean(1).std()) / 200.0
    # Coding and fitting cause 2% on a steady object.
    flicker = max(float(np.hypot(mass.std() / max(float(mass.mean()), 0.1), shaking)) - 0.02, 0.0)
    return float((0.1 + 0.9 * moving) * steady / (1 + (flicker / HALF_FLICKER) ** 2))


def _nearness(rgb: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> dict[str, float]:
    return {name: float(np.linalg.norm(rgb - np.asarray(other))) for name, other in palette.items()}


def _choice(distances: dict, wanted: str) -> float:
    """1 where `wanted` is clearly the nearest, 0 where another clearly is, 1/2 halfway between the two."""
    other = min(distance for name, distance in distances.items() if name != wanted)
    return float(_ramp(other / max(other + distances[wanted], 1e-6), 0.35, 0.65))


def _shape_score(fits: dict[str, Fit], wanted: str, unit: float) -> float:
    """The same for shapes, by how much worse the wanted shape fits the clip than its best rival.

    The difference is normalised by that of two clean shapes. Noise adds the same error to every shape, and so does not
    change the score.
    """
    rival = min((shape for shape in SHAPES if shape != wanted), key=lambda shape: fits[shape].error)
    frames = len(fits[wanted].cover)
    clear = frames * unit**2 * _clean_difference(wanted, rival)
    return float(_ramp((fits[rival].error - fits[wanted].error) / clear, -0.12, 0.12))


@lru_cache
def _clean_difference(first: str, second: str) -> float:
    """The squared opacity error (px at size 32) when one clean shape is fitted to the other; mean of both ways."""
    middle = np.full((1, 2), REFERENCE_SIZE / 2)
    errors = []
    for drawn, fitted in ((first, second), (second, first)):
        clean = coverage(drawn, RADIUS, middle, REFERENCE_SIZE)
        errors.append(_fit(clean, fitted, middle, 1.0, steps=12).error)
    return float(np.mean(errors))


def _direction_score(velocity: np.ndarray, moved: float, wanted: tuple[int, int]) -> float:
    """1 within 30 degrees of the wanted direction, 0 beyond 60. An object that hardly moves (px over the clip, at size 32)
    gets 1/2: missing motion is counted in MQ."""
    angle = np.degrees(np.arccos(np.clip(velocity @ np.asarray(wanted) / max(np.hypot(*velocity), 1e-6), -1, 1)))
    sure = float(_ramp(np.asarray(moved), 0.5, 2.0))
    return sure * float(_ramp(-angle, -60.0, -30.0)) + (1 - sure) * 0.5


def _ramp(value: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth step between."""
    part = np.clip((np.asarray(value) - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)
