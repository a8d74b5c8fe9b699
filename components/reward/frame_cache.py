"""Frames of training clips on disk: decoded once, read as views of a memory map, so that no data set must fit in memory.

A cache belongs to one frame plan and one version of the code that decodes: its folder is named by their digest. In it lie
`frames.u8`, the frames of all clips end to end, and `index.jsonl`, a line a clip: {"clip": digest of the video file,
"offset": of its first byte, "shape": [T, H, W, 3], "fps": planned frames a second, "times": [T] seconds, "frames": XXH3 of
its bytes}.

It outlives the stage, so that another loss or learning rate decodes nothing again, and may be deleted whenever no training
runs. Caches beside the one in use hold KEPT_BYTES at most: the least recently used are emptied.
"""

import hashlib
import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_hexdigest as xxh3

from components.contracts import SOURCE_VIDEOS
from components.errors import BadInput
from components.files.locks import sole_writer
from components.pipeline.code_digest import DECODING, code_digest
from components.pipeline.stage import SCRATCH, Stage, folder_digest
from components.reward.ahead import ahead
from components.reward.inputs import Clip
from components.reward.pairs import Pairs
from components.reward.score import bytes_of, planned_clip
from components.reward.scores import Unscored
from components.video.frames import FramePlan
from components.video.limits import Limits

CACHE = SCRATCH / "cache" / "frames"
KEPT_BYTES = 64 << 30  # of frames in caches beside the one in use
UNWRITTEN = 1 << 26  # bytes of frames that a kill may cost


def cached_clips(stage: Stage, pairs: list[Pairs], plan: FramePlan, threads: int) -> dict[str, Clip]:
    """Each distinct clip of the pairs by the frame plan, by path; its frames are a read-only np.memmap. What
    the cache lacks is decoded first. BadInput when a clip cannot be read; what came before it stays in the cache."""
    first: dict[str, tuple[Pairs, int, str]] = {}
    for part in pairs:
        for key, paths in (("path_A", part.paths_a), ("path_B", part.paths_b)):
            for place, path in enumerate(paths):
                first.setdefault(path, (part, place, key))
    digests = {}
    limits = Limits.of(stage.params.limits)
    with FrameCache(cache_folder(plan)) as cache, ThreadPoolExecutor(threads) as pool:
        evict(cache.folder, KEPT_BYTES)

        def read(path: str) -> tuple[str, Clip | Unscored | None]:
            video = SOURCE_VIDEOS / path
            digest = folder_digest(video) if video.is_file() else ""
            return digest, None if digest in cache.places else planned_clip(video, plan, limits)

        found = ahead(pool, read, first, 4 * threads, lambda one: 0 if one[1] is None else bytes_of(one[1]))
        for path, (digest, clip) in zip(first, stage.progress(found, "decoding", total=len(first)), strict=True):
            if isinstance(clip, Unscored):
                part, place, key = first[path]
                raise part.refusal(place, clip.reason, key)
            if clip is not None:
                cache.add(digest, clip)
            digests[path] = digest
        cache.flush()
        return cache.views(digests)  # under the lock: another process cannot empty the cache before the files are mapped


def evict(used: Path, most: int) -> None:
    """Empty the least recently used caches beside `used`, until the others hold at most `most` bytes of frames. One that a
    process fills is left alone, and who has mapped a file keeps its frames."""
    folders = [file.parent for file in used.parent.glob("*/index.jsonl") if file.parent != used]
    held = 0
    for folder in sorted(folders, key=lambda folder: (folder / "index.jsonl").stat().st_mtime, reverse=True):
        frames = folder / "frames.u8"
        held += frames.stat().st_size if frames.exists() else 0
        if held <= most:
            continue
        with suppress(BadInput), sole_writer(folder):
            for file in (folder / "index.jsonl", frames):
                file.unlink(missing_ok=True)


def cache_folder(plan: FramePlan) -> Path:
    """Where the clips of a frame plan lie, as this version of the code decodes and resizes them."""
    return CACHE / hashlib.sha256(json.dumps([repr(plan), code_digest(DECODING)]).encode()).hexdigest()[:16]


Place = tuple[int, tuple[int, ...], float, tuple[float, ...]]  # of a clip: offset, shape, rate, seconds of its frames


class FrameCache:
    """The cache of a folder, open for filling by one process at a time; others wait for it and then find all there.

    Both files only ever grow, and a line enters the index when the frames that it names are on disk. So whatever a kill or
    a power cut leaves has a sound beginning, and the next filling goes on from its end. All frames are read to see that they
    are those that were written: that costs a fraction of decoding them.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.places: dict[str, Place] = {}  # by clip digest
        self._end = 0
        self._pending: list[str] = []  # index lines of frames that may not be on disk yet
        self._unwritten = 0
        self._lock = ExitStack()

    def __enter__(self) -> "FrameCache":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock.enter_context(sole_writer(self.folder, waits=lambda holder: None))
        self._frames = open(self.folder / "frames.u8", "ab")
        self._index = open(self.folder / "index.jsonl", "ab")
        os.utime(self._index.name)  # of use, by which evict chooses
        sizes = [os.path.getsize(file.name) for file in (self._frames, self._index)]
        sound = self._read_index()
        if sizes != [self._end, sound]:
            why = f"sound up to byte {self._end} of {sizes[0]}; what follows is made anew"
            print(f"{self._frames.name}: {why}", file=sys.stderr, flush=True)
        self._index.truncate(sound)
        self._frames.truncate(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        for file in (self._frames, self._index, self._lock):  # the lock last
            file.close()

    def add(self, digest: str, clip: Clip) -> None:
        """Append a clip, unless one of the same bytes came before."""
        if digest in self.places:
            return
        data = np.ascontiguousarray(clip.frames).data
        self._frames.write(data)
        shape, times = clip.frames.shape, clip.seconds
        about = {"clip": digest, "offset": self._end, "shape": shape, "fps": clip.fps, "times": times}
        entry = about | {"frames": xxh3(data)}
        self._pending.append(json.dumps(entry) + "\n")
        self.places[digest] = (self._end, shape, clip.fps, times)
        self._end += clip.frames.nbytes
        self._unwritten += clip.frames.nbytes
        if self._unwritten > UNWRITTEN:
            self.flush()

    def views(self, digests: dict[str, str]) -> dict[str, Clip]:
        """The clips of these digests, under the same keys, once all is written."""
        everything = np.memmap(self.folder / "frames.u8", np.uint8, "r")
        views = {}
        for key, digest in digests.items():
            offset, shape, fps, times = self.places[digest]
            views[key] = Clip(everything[offset : offset + math.prod(shape)].reshape(shape), fps, times)
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
                if "times" not in entry:  # of an older version
                    break
                data = frames.read(math.prod(entry["shape"]))
                if not line.endswith(b"\n") or entry["offset"] != self._end or entry.get("frames") != xxh3(data):
                    break
                shape, times = tuple(entry["shape"]), tuple(entry["times"])
                self.places[entry["clip"]] = (entry["offset"], shape, entry["fps"], times)
                self._end += len(data)
                length += len(line)
        return length

    def flush(self) -> None:
        """Put all clips on disk, then the lines that name them."""
        self._frames.flush()
        os.fsync(self._frames.fileno())
        self._index.write("".join(self._pending).encode())
        self._index.flush()
        os.fsync(self._index.fileno())
        self._pending.clear()
        self._unwritten = 0
