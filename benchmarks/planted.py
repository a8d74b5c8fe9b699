"""A set of 1,000 clips with known defects (near-duplicates, mirror images, broken files, cuts, freezes), and how many of
each are detected.

Ordinary clips include hard negatives: some are static except for a small object, some move fast.
"""

import multiprocessing
import os
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import cv2
import numpy as np
from scenes import FPS, FRAMES, SIZE, draw, scene, texture

from components.curation.duplicates import find_duplicates
from components.video.encode import write_video

CLIPS = 1000
COUNTS = {
    "reencoded": 25,
    "cropped": 25,
    "mirrored": 20,
    "broken": 30,
    "cut": 40,
    "frozen": 40,
    "small_thing": 40,
    "fast": 40,
}
FREEZE = 0.5  # seconds without change that make a frozen clip
KINDS_OF_BROKEN = (
    "empty", "text", "no_index", "cut_off", "zeros", "noise", "sound_only", "rotated", "no_frames", "size_changes",
)  # fmt: skip


def plant(folder: Path, seed: int) -> dict[str, tuple[str, str | None]]:
    """Write the clips; returns (kind, the clip it copies or mirrors) by name. Ordinary clips come first by name."""
    kinds = [kind for kind, count in COUNTS.items() for _ in range(count)]
    kinds = ["ordinary"] * (CLIPS - len(kinds)) + kinds
    jobs, truth = [], {}
    for n, kind in enumerate(kinds):
        name = f"{n:04d}_{kind}.mp4"
        of = n % 100 if kind in ("reencoded", "cropped", "mirrored") else None
        truth[name] = (kind, None if of is None else f"{of:04d}_ordinary.mp4")
        jobs.append((str(folder / name), kind, seed * CLIPS + n, seed * CLIPS + (n if of is None else of), n))
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(write_kind, jobs, chunksize=8))
    return truth


def write_kind(job: tuple[str, str, int, int, int]) -> None:
    """Write one clip: (path, kind, its own seed, the seed of the scene it shows, its number)."""
    path, kind, own, shown, number = job
    rng = np.random.default_rng([own, 1])
    clip = scene(np.random.default_rng(shown))
    crf = 18
    if kind == "reencoded":
        crf = int(rng.integers(28, 36))
        small = [cv2.resize(frame, (SIZE * 3 // 4,) * 2, interpolation=cv2.INTER_AREA) for frame in clip]
        clip = np.stack(small if rng.random() < 0.5 else clip)
    elif kind == "cropped":
        at = rng.integers(0, SIZE // 20 + 1, 2)  # 5% off each side's length, wherever
        side = SIZE - SIZE // 20
        clip = np.stack([cv2.resize(f[at[0] : at[0] + side, at[1] : at[1] + side], (SIZE, SIZE)) for f in clip])
    elif kind == "mirrored":
        clip, crf = clip[:, :, ::-1], 23
    elif kind == "cut":
        at = int(rng.integers(8, FRAMES - 8))
        clip = np.concatenate([clip[:at], scene(np.random.default_rng([own, 2]))[at:]])
    elif kind == "frozen":
        at = int(rng.integers(4, FRAMES - 18))
        clip[at:] = clip[at]
        crf = int(rng.integers(18, 29))
    elif kind == "small_thing":
        clip = np.repeat(texture(rng, SIZE)[None], FRAMES, axis=0)
        radius, colour, start = rng.uniform(6, 16), rng.uniform(0, 255, 3).tolist(), rng.uniform(40, 120, 2)
        for time, frame in enumerate(clip):
            draw(frame, start + time * np.array([1.5, 0.5]), radius, colour, 0)
    elif kind == "fast":
        sheet, step = texture(rng, SIZE + FRAMES * 12), int(rng.integers(6, 12))
        clip = np.stack([sheet[:SIZE, time * step : time * step + SIZE] for time in range(FRAMES)])
    write_video(path, clip, FPS, crf)
    if kind == "broken":
        spoil(Path(path), KINDS_OF_BROKEN[number % len(KINDS_OF_BROKEN)], clip)


def spoil(path: Path, how: str, clip: np.ndarray) -> None:
    """Damage the file at `path` so that it cannot be read to its end."""
    good = path.read_bytes()
    data = good.index(b"mdat") + 8  # PyAV writes the index behind the frames
    middle = data + (good.rindex(b"moov") - data) // 2
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("<html><body>404 Not Found</body></html>")
    elif how == "no_index":
        path.write_bytes(good[:middle])
    elif how == "zeros":
        path.write_bytes(good[:middle] + bytes(4096) + good[middle + 4096 :])
    elif how == "noise":
        path.write_bytes(good[:middle] + np.random.default_rng(0).bytes(4096) + good[middle + 4096 :])
    elif how == "no_frames":
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width = stream.height = SIZE
            stream.pix_fmt = "yuv420p"
            container.start_encoding()
    elif how == "cut_off":
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            encode(container, clip)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    elif how == "rotated":
        turned(path, good)
    elif how == "size_changes":
        with av.open(str(path), "w", format="h264") as container:
            encode(container, clip[:24])
        first = path.read_bytes()
        with av.open(str(path), "w", format="h264") as container:
            encode(container, clip[24:, : SIZE // 2, : SIZE // 2])
        path.write_bytes(first + path.read_bytes())
    elif how == "sound_only":
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(8000)
            sound.writeframes(bytes(16000))


def encode(container: av.container.OutputContainer, clip: np.ndarray) -> None:
    stream = container.add_stream("libx264", rate=FPS)
    stream.height, stream.width = clip.shape[1:3]
    stream.pix_fmt = "yuv420p"
    for frame in clip:
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
    container.mux(stream.encode())


def turned(path: Path, good: bytes) -> None:
    """Set the track header's matrix to a quarter turn."""
    header = good.index(b"tkhd")
    matrix = header + 4 + 4 + 36
    quarter = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, 65536, 0, -65536, 0, 0, 0, 0, 2**30))
    path.write_bytes(good[:matrix] + quarter + good[matrix + 36 :])


def detections(rows: dict[str, dict], truth: dict[str, tuple[str, str | None]]) -> Iterator[str]:
    """One line per detector, with the names of missed and wrong clips."""
    names = sorted(rows)
    groups = find_duplicates([rows[name]["phash"] for name in names], [rows[name]["phash_mirrored"] for name in names])
    copies = {names[n]: names[group["duplicate_of"]] for n, group in enumerate(groups) if group["duplicate_of"] is not None}
    mirrors = {names[n]: names[group["mirror_of"]] for n, group in enumerate(groups) if group["mirror_of"] is not None}
    # Two copies of one clip are copies of each other: only the group must be right.
    origin = {name: of or name for name, (_, of) in truth.items()}

    def of_kind(*kinds: str) -> set[str]:
        return {name for name, (kind, _) in truth.items() if kind in kinds}

    right = {name for name, of in copies.items() if origin[name] == origin[of]}
    yield line("near-duplicates", of_kind("reencoded", "cropped"), set(copies), right)
    for kind in ("reencoded", "cropped"):
        yield f"  {kind}: {len(right & of_kind(kind))} of {len(of_kind(kind))} found"
    mirrored = {name for name, of in mirrors.items() if origin[name] == origin[of]}
    # A mirror image that comes after a copy of its clip mirrors both; it is named once.
    yield line("mirror images", of_kind("mirrored"), set(mirrors), mirrored)
    for what, kind, found in (
        ("broken files", "broken", {name for name, row in rows.items() if row["broken"]}),
        ("hard cuts", "cut", {name for name, row in rows.items() if (row["cuts"] or 0) > 0}),
        ("freezes", "frozen", {name for name, row in rows.items() if (row["longest_freeze"] or 0) >= FREEZE}),
    ):
        yield line(what, of_kind(kind), found, found & of_kind(kind))


def line(what: str, planted: set[str], found: set[str], right: set[str]) -> str:
    precision = len(right) / len(found) if found else float("nan")
    recall = len(right & planted) / len(planted)
    text = f"{what}: recall {recall:.3f} of {len(planted)}, precision {precision:.3f} of {len(found)}"
    for label, names in (("missed", planted - right), ("wrong", found - right)):
        if names:
            text += f"; {label}: {', '.join(sorted(names)[:5])}"
    return text
