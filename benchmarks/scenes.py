"""Synthetic clips for benchmarks: random textured scenes with moving objects."""

import cv2
import numpy as np

from components.video.encode import write_video

SIZE, FRAMES, FPS = 256, 48, 24


def scene(rng: np.random.Generator, frames: int = FRAMES, size: int = SIZE) -> np.ndarray:
    """uint8 RGB [T, H, W, 3]: a background of random texture, often panning, and one to four moving objects."""
    canvas = texture(rng, size + size // 2)
    pan = rng.uniform(-1, 1, 2) * rng.choice([0.0, 0.5, 1.2])
    things = [
        (rng.uniform(0, size, 2), rng.uniform(-3, 3, 2), rng.uniform(10, 50), rng.uniform(0, 255, 3), rng.integers(3))
        for _ in range(rng.integers(1, 5))
    ]
    clip = np.empty((frames, size, size, 3), np.uint8)
    for time in range(frames):
        x, y = np.clip(size / 4 + pan * time, 0, size / 2)
        picture = cv2.warpAffine(canvas, np.array([[1, 0, -x], [0, 1, -y]]), (size, size))
        for place, velocity, radius, colour, shape in things:
            draw(picture, (place + velocity * time) % size, radius, colour.tolist(), shape)
        clip[time] = picture
    return clip


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """uint8 RGB [size, size, 3]: noise of several scales, with its own colours, contrast and grain."""
    sheet = np.zeros((size, size, 3), np.float32)
    for cells in (4, 8, 16, 32, 64):
        strength = rng.uniform(0.2, 1) * (4 / cells) ** rng.uniform(0, 0.7)
        noise = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        sheet += strength * cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    sheet = (sheet - sheet.mean((0, 1))) / sheet.std((0, 1))
    sheet = rng.uniform(60, 190, 3) + rng.uniform(15, 50) * sheet + rng.normal(0, rng.uniform(0, 4), sheet.shape)
    return np.clip(sheet, 0, 255).astype(np.uint8)


def draw(picture: np.ndarray, place: np.ndarray, radius: float, colour: list[float], shape: int) -> None:
    """Draw a disc, a box or an ellipse into `picture`."""
    x, y, radius = int(place[0]), int(place[1]), int(radius)
    if shape == 0:
        cv2.circle(picture, (x, y), radius, colour, -1, cv2.LINE_AA)
    elif shape == 1:
        cv2.rectangle(picture, (x - radius, y - radius // 2), (x + radius, y + radius // 2), colour, -1)
    else:
        cv2.ellipse(picture, (x, y), (radius, radius // 2), 30.0, 0.0, 360.0, colour, -1, cv2.LINE_AA)


def write_scene(path: str, seed: int) -> None:
    """Write one scene as H.264, in the format of the generators."""
    write_video(path, scene(np.random.default_rng(seed)), FPS, crf=18)
