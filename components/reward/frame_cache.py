"""Frames of training clips on disk: decoded once, read as views of a memory map, so that no data set must fit in memory.

A cache belongs to one frame plan and one version of the code that decodes: its folder is named by their digest. In it lie
`frames.u8`, the frames of all clips end to end, and `index.jsonl`, a line a clip: {"clip": digest of the video file,
"offset": of its first byte, "shape": [T, H, W, 3], "frames": XXH3 of its bytes}.

It outlives the stage, so that another loss or learning rate decodes
nothing again, and may be deleted whenever no training runs.
"""

import fcntl
import hashlib
import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_hexdigest as xxh3

from components.code_digest import DECODING, code_digest
from components.reward.ahead import ahead
from components.reward.pairs import VIDEOS, Pairs
from components.reward.score import bytes_of, planned_frames
from components.reward.scores import Unscored
from components.stage import SCRATCH, Stage, folder_digest
from components.video.frames import FramePlan
from components.video.limits import Limits

CACHE = SCRATCH / "cache" / "frames"
UNWRITTEN = 1 << 26  # bytes of frames that a kill may cost


def cached_clips(stage: Stage, pairs: list[Pairs], plan: FramePlan, threads: int) -> dict[str, np.ndarray]:
    """Each distinct clip of the pairs as the frame plan wants it, by path: read-only np.memmap [T, H, W, 3] uint8. What
    the cache lacks is decoded first. BadInput when a clip cannot be read; what came before it stays in the cache."""
    first: dict[str, tuple[Pairs, int, str]] = {}
    for part in pairs:
        for key, paths in (("path_A", part.paths_a), ("path_B", part.paths_b)):
            for place, path in enumerate(paths):
                first.setdefault(path, (part, place, key))
    digests = {}
    limits = Limits(**stage.params.limits.model_dump())
    with FrameCache(cache_folder(plan)) as cache, ThreadPoolExecutor(threads) as pool:

        def read(path: str) -> tuple[str, np.ndarray | Unscored | None]:
            video = VIDEOS / path
            digest = folder_digest(video) if video.is_file() else ""
            return digest, None if digest in cache.places else planned_frames(video, plan, limits)

        found = ahead(pool, read, first, 4 * threads, lambda one: 0 if one[1] is None else bytes_of(one[1]))
        for path, (digest, clip) in zip(first, stage.progress(found, "decoding", total=len(first)), strict=True):
            if isinstance(clip, Unscored):
                part, place, key = first[path]
                raise part.refusal(place, clip.reason, key)
            if clip is not None:
                cache.add(digest, clip)
            digests[path] = digest
    return cache.views(digests)


def cache_folder(plan: FramePlan) -> Path:
    """Where the clips of a frame plan lie, as this version of the code decodes and resizes them."""
    return CACHE / hashlib.sha256(json.dumps([repr(plan), code_digest(DECODING)]).encode()).hexdigest()[:16]


class FrameCache:
    """The cache of a folder, open for filling by one process at a time; others wait for it and then find all there.

    Both files only ever grow, and a line enters the index when the frames that it names are on disk. So whatever a kill or
    a power cut leaves has a sound beginning, and the next filling goes on from its end. All frames are read to see that they
    are those that were written: that costs a fraction of decoding them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}  # offset and shape by clip digest
        self._end = 0
        self._pending: list[str] = []  # index lines of frames that may not be on disk yet
        self._unwritten = 0

    def __enter__(self) -> "FrameCache":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._frames = open(self.folder / "frames.u8", "ab")
        self._index = open(self.folder / "index.jsonl", "ab")
        sizes = [os.path.getsize(file.name) for file in (self._frames, self._index)]
        sound = self._read_index()
        if sizes != [self._end, sound]:
            why = f"sound up to byte {self._end} of {sizes[0]}; what follows is made anew"
            print(f"{self._frames.name}: {why}", file=sys.stderr, flush=True)
        self._index.truncate(sound)
        self._frames.truncate(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        for file in (self._frames, self._index, self._lock):
            file.close()

    def add(self, digest: str, clip: np.ndarray) -> None:
        """Append a clip, unless one of the same bytes came before."""
        if digest in self.places:
            return
        data = np.ascontiguousarray(clip).data
        self._frames.write(data)
        entry = {"clip": digest, "offset": self._end, "shape": clip.shape, "frames": xxh3(data)}
        self._pending.append(json.dumps(entry) + "\n")
        self.places[digest] = (self._end, clip.shape)
        self._end += clip.nbytes
        self._unwritten += clip.nbytes
        if self._unwritten > UNWRITTEN:
            self._flush()

    def views(self, digests: dict[str, str]) -> dict[str, np.ndarray]:
        """The clips of these digests, under the same keys, once all is written."""
        everything = np.memmap(self.folder / "frames.u8", np.uint8, "r")
        views = {}
        for key, digest in digests.items():
            offset, shape = self.places[digest]
            views[key] = everything[offset : offset + math.prod(shape)].reshape(shape)
        return views

    def _read_index(self) -> int:
        """Fill `places` from the sound beginning of the index; returns its length in bytes."""
        length = 0
        with open(self.folder / "frames.u8", "rb") as frames:
            for line in (self.folder / "index.jsonl").read_bytes().splitlines(keepends=True):
                try:
                    entry = json.loads(line)
                except ValueError:  # cut off in the middle, or nothing but zeros after a power cut
                    break
                data = frames.read(math.prod(entry["shape"]))
                if not line.endswith(b"\n") or entry["offset"] != self._end or entry.get("frames") != xxh3(data):
                    break
                self.places[entry["clip"]] = (entry["offset"], tuple(entry["shape"]))
                self._end += len(data)
                length += len(line)
        return length

    def _flush(self) -> None:
        self._frames.flush()
        os.fsync(self._frames.fileno())
        self._index.write("".join(self._pending).encode())
        self._index.flush()
        os.fsync(self._index.fileno())
        self._pending.clear()
        self._unwritten = 0
