"""Clips to compare: real files, two prompts by three generators, one of which writes its name into them."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from components.annotation.tasks import Task, export, read_key
from components.video.encode import write_video

PROMPTS = ("a red circle moving left", "ein großer Bär läuft, langsam")
MODELS = ("alpha", "beta", "gamma")
QUESTIONS = ("VQ", "MQ", "TA")


def clip(path: Path, colour: tuple[int, int, int], fps: float = 8, side: int = 32) -> Path:
    """A second or so of a white square that wanders over a plain ground."""
    frames = np.empty((9, side, side, 3), np.uint8)
    frames[:] = colour
    for time, frame in enumerate(frames):
        frame[8:16, 2 * time : 2 * time + 8] = 255
    write_video(path, frames, fps)
    return path


def write_csv(path: Path, header: list[str], rows: list) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@dataclass
class Clips:
    """clips.csv and the folder of its videos."""

    csv: Path
    videos: Path
    rows: list[tuple[str, str, str]]

    def write(self, rows: list) -> Path:
        return write_csv(self.csv, ["path", "prompt", "model"], rows)

    def add(self, prompt: str, model: str, colour: tuple[int, int, int]) -> None:
        path = f"{model}/{len(self.rows)}.mp4"
        clip(self.videos / path, colour, fps=8 + len(self.rows) % 2)
        self.rows.append((path, prompt, model))
        self.write(self.rows)


@pytest.fixture
def clips(tmp_path) -> Clips:
    found = Clips(tmp_path / "clips.csv", tmp_path / "videos", [])
    for number, prompt in enumerate(PROMPTS):
        for place, model in enumerate(MODELS):
            found.add(prompt, model, (40 * number, 80 * place, 120))
    signed = found.videos / found.rows[0][0]
    with av.open(str(signed)) as given, av.open(str(signed.with_suffix(".new.mp4")), "w") as made:
        made.metadata["comment"] = "made by alpha"
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = stream
                made.mux(packet)
    signed.with_suffix(".new.mp4").replace(signed)
    return found


@dataclass
class Exported:
    """A folder of tasks, and what Label Studio's JSON export of it would be."""

    folder: Path
    tasks: list[Task]

    def studio(self, answers: dict[int, dict]) -> list[dict]:
        """Each task as exported, with an annotation for each person of `answers`: number to {question: answer}."""
        data = [task["data"] for task in json.loads((self.folder / "tasks.json").read_text())]
        return [
            {"id": 100 + place, "data": entry, "annotations": [work(person, said) for person, said in answers.items()]}
            for place, entry in enumerate(data)
        ]

    def write(self, studio: object) -> Path:
        file = self.folder / "export.json"
        file.write_text(json.dumps(studio))
        return file


def work(person: int | None, answers: dict[str, str], number: int | None = None, **more) -> dict:
    """An annotation as Label Studio exports it; names of ratings start with rating_."""
    result = [
        {"from_name": name, "to_name": "video_A", "type": "rating", "value": {"rating": said}}
        if name.startswith("rating_")
        else {"from_name": name, "to_name": "video_A", "type": "choices", "value": {"choices": [said]}}
        for name, said in answers.items()
    ]
    return {"id": number or 7000 + (person or 0), "completed_by": person, "result": result, "was_cancelled": False} | more


@pytest.fixture
def exported(clips, tmp_path) -> Exported:
    export(clips.csv, clips.videos, tmp_path / "out", seed=1, ratings=True)
    return Exported(tmp_path / "out", read_key(tmp_path / "out"))
