"""VBench's temporal flickering as computed here: known frames, OpenCV's pixels and, where it is installed, the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.judges.vbench import FLICKERING, VBENCH, VERSIONS, flickering, read_results
from components.video.container import VideoError
from tests.evaluation.clips import CODECS, clip, write
from tests.video import files

PACKAGE = Path(__file__).parents[2] / ".vbench"
REAL = Path("../shared/data/videoalign/videos")


def test_flickering_of_known_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 200, (1, 32, 48, 3), np.uint8).repeat(6, axis=0)
    write(tmp_path / "still.mkv", frames, "ffv1", "bgr0")  # lossless
    assert flickering(tmp_path / "still.mkv") == 1
    frames[1::2, ..., 0] += 30
    write(tmp_path / "flicker.mkv", frames, "ffv1", "bgr0")
    assert flickering(tmp_path / "flicker.mkv") == pytest.approx(1 - 10 / 255, abs=1e-12)


def test_the_command_prints_no_line_of_a_library(tmp_path):
    """A stream cut inside a group of pictures: FFmpeg has a line for each packet before the first whole picture."""
    whole = files.write(tmp_path / "whole.ts", 48, options={"preset": "medium", "g": "12"}).read_bytes()
    (tmp_path / "cut.ts").write_bytes(whole[:564] + whole[len(whole) // 3 // 188 * 188 :])
    command = [sys.executable, "-m", "components.cli.main", "vbench", str(tmp_path / "cut.ts")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and FLICKERING in done.stdout


@pytest.mark.parametrize("name", ["plain.mp4", "ten_bit.mp4", "moving.gif"])
def test_flickering_has_opencvs_pixels(tmp_path, name):
    video = cv2.VideoCapture(str(clip(tmp_path / name, seed=2)))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1].astype(np.float64))
    assert len(frames) == 8
    assert flickering(tmp_path / name) == pytest.approx(1 - np.abs(np.diff(frames, axis=0)).mean() / 255, abs=1e-12)


def test_clips_without_a_figure(tmp_path):
    clip(tmp_path / "one.mp4", frames=1)
    whole = bytearray(clip(tmp_path / "whole.mp4", seed=3, frames=30).read_bytes())
    whole[len(whole) // 2 : len(whole) * 2 // 3] = bytes(len(whole) * 2 // 3 - len(whole) // 2)
    (tmp_path / "damaged.mp4").write_bytes(whole)
    (tmp_path / "text.mp4").write_text("no video")
    names = {
        "one": "one frame",
        "damaged": "truncated or corrupt",
        "text": "unreadable",
        "no": "no such file",
    }
    for name, why in names.items():
        with pytest.raises(VideoError, match=why):
            flickering(tmp_path / f"{name}.mp4")


PROGRAM = """
import sys
from vbench import VBench

_, videos, out = sys.argv
bench = VBench("cpu", None, out)
bench.evaluate(videos, "clips", dimension_list=["temporal_flickering"], mode="custom_input")
print(*bench.build_full_dimension_list())
"""


def run_package(videos: Path, out: Path) -> tuple[Path, list[str]]:
    """The package's result file for a folder, by its own `evaluate`, and the names of its dimensions."""
    assert (PACKAGE / "vbench").exists(), f"{PACKAGE} is missing: `make test-vbench` installs it"
    variables = os.environ | {"PYTHONPATH": str(PACKAGE), "VBENCH_CACHE_DIR": str(out / "weights")}
    command = [sys.executable, "-c", PROGRAM, str(videos.resolve()), str(out)]
    done = subprocess.run(command, env=variables, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "clips_eval_results.json", done.stdout.splitlines()[-1].split()


def compare(videos: Path, out: Path, count: int) -> None:
    file, dimensions = run_package(videos, out)
    assert set(dimensions) == set(VERSIONS[1].dimensions)
    (mean, each), (theirs,) = json.loads(file.read_text())[FLICKERING], read_results([file], VBENCH).values()
    assert (theirs.value, theirs.n) == (mean, count)
    for one in each:
        assert flickering(one["video_path"]) == pytest.approx(one["video_results"], abs=1e-6)
    assert CliRunner().invoke(app, ["vbench", str(videos), "--out", str(out / "ours.json")]).exit_code == 0
    ours = json.loads((out / "ours.json").read_text())["dimensions"][FLICKERING]
    assert ours["n"] == count and ours["value"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.vbench
def test_ten_clips_as_the_package_has_them(tmp_path):
    videos = tmp_path / "clips"
    for seed, size in enumerate([(48, 64), (64, 48), (128, 96), (240, 432), (32, 32), (96, 96), (144, 256), (56, 72)]):
        clip(videos / f"{seed}.mp4", seed, frames=2 + 7 * seed, size=size)
    for name in CODECS:
        clip(videos / name, seed=2)
    compare(videos, tmp_path, 10)


@pytest.mark.vbench
@pytest.mark.skipif(not REAL.exists(), reason="no folder ../shared/data/videoalign beside the checkout")
def test_real_clips_as_the_package_has_them(tmp_path):
    compare(REAL, tmp_path, 6)
