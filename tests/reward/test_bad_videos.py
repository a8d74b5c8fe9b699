"""Every kind of file that turns up in a folder of videos: a score where it is a video, else a reason and no number."""

import os
import re

import av
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.reward.score import RewardModel
from components.reward.scores import Score, Unscored
from components.video.encode import write_video
from tests.reward.tiny import saved_model
from tests.video.files import write
from tests.video.test_decode import clip, remux, write_sound

GOOD = ["plain.mp4", "odd.mkv", "variable.mkv", "4k.mp4", "Style: a.mp4", "animated.gif", os.fsdecode(b"lat\xe9.mp4")]
BAD = {
    "unreadable.mp4": "unreadable",
    "truncated.mp4": "truncated",
    "zero.mp4": "no video stream|no frames",
    "one.mp4": "1 frame",
    "sound.mp4": "no video stream",
    "rotated.mp4": "rotated by 90",
    "missing.mp4": "no such file",
    "a" * 300: "no such file",
    "still.webp": "unreadable: WebP",
}


def write_lossless(path, frames, times):
    """FFV1 in Matroska, which takes any size and any time stamps (milliseconds)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1000)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "plain.mp4", clip(), 8)
    write_lossless(folder / "odd.mkv", clip(9, 35)[:, :, :33], range(0, 9 * 125, 125))
    write_lossless(folder / "variable.mkv", clip(), np.cumsum([0, 40, 40, 500, 40, 40, 700, 40, 40]).tolist())
    for name in ("Style: a.mp4", os.fsdecode(b"lat\xe9.mp4")):
        write_video(folder / name, clip(), 8)
    write(folder / "animated.gif", 9, "gif", 8, "rgb8")
    (folder / "still.webp").write_bytes(b"RIFF\x24\x00\x00\x00WEBPVP8X" + bytes(28))
    write_video(folder / "4k.mp4", np.zeros((4, 2160, 3840, 3), np.uint8), 8)
    (folder / "unreadable.mp4").write_bytes(b"no video at all")
    whole = remux(folder / "plain.mp4", folder / "fast.mp4", {"movflags": "faststart"}).read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    with av.open(str(folder / "zero.mp4"), "w", options={"movflags": "empty_moov"}) as container:
        container.add_stream("libx264", rate=8).height = 32
        container.streams.video[0].width = 32
        container.start_encoding()
    write_video(folder / "one.mp4", clip(1), 8)
    write_sound(folder / "sound.mp4")
    remux(folder / "plain.mp4", folder / "rotated.mp4", rotation=90)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return saved_model(folder / "model")


def test_each_file_gets_a_score_or_its_reason(folder, model):
    names = [*GOOD, *BAD]
    results = dict(
        zip(names, RewardModel.load(model).score([(folder / name, "a red circle") for name in names]), strict=True)
    )
    assert all(isinstance(results[name], Score) for name in GOOD), results
    for name, said in BAD.items():
        assert isinstance(results[name], Unscored), name
        assert re.search(said, results[name].reason), results[name]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [(" ", "empty"), ("a " * 5000, "the model reads at most 4096"), ("<|VQ_reward|>", "special token")],
)
def test_a_prompt_that_cannot_be_used_gets_no_score(folder, model, prompt, said):
    bad, good = RewardModel.load(model).score([(folder / "plain.mp4", prompt), (folder / "plain.mp4", "a red circle")])
    assert isinstance(bad, Unscored) and said in bad.reason
    assert isinstance(good, Score)


@pytest.mark.parametrize("prompt", ["一只猫在雨中奔跑", "собака бежит", "قطة", "🐱"])
def test_prompts_in_any_script_are_scored(folder, model, prompt):
    assert isinstance(RewardModel.load(model).score([(folder / "plain.mp4", prompt)])[0], Score)


@pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
def test_the_command_writes_a_row_a_video_and_says_with_its_exit_code_that_some_failed(folder, model, tmp_path, name):
    videos = [str(folder / video) for video in ("plain.mp4", "sound.mp4", "odd.mkv")]
    out = tmp_path / name
    command = ["score", *videos, "--prompt", "a red circle", "--model", str(model), "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    table = pd.read_csv(out) if out.suffix == ".csv" else pd.read_parquet(out)
    assert table.path.tolist() == videos and table.status.tolist() == ["ok", "failed", "ok"]
    assert table[["VQ", "raw_VQ", "Overall", "reward_model", "frame_plan"]].notna().all(axis=1).tolist() == [
        True,
        False,
        True,
    ]
    assert "no video stream" in table.reason[1] and table[["VQ", "raw_VQ", "Overall"]].iloc[1].isna().all()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    result = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "scores.txt")])
    assert "scores.txt" in str(result.exception) and not (tmp_path / "scores.txt").exists()


def test_a_name_that_is_not_utf8_stands_in_the_table(folder, model, tmp_path):
    names = [os.fsdecode(b"lat\xe9.mp4"), os.fsdecode(b"no\xe9.mp4")]
    out = tmp_path / "scores.parquet"
    command = ["score", *(str(folder / name) for name in names), "--prompt", "a", "--model", str(model), "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 2
    table = pd.read_parquet(out)
    assert table.status.tolist() == ["ok", "failed"]
    assert [path.rpartition("/")[2] for path in table.path] == [r"lat\xe9.mp4", r"no\xe9.mp4"]
