"""The client against a real Triton server: the local scores over both protocols, errors by name, and when it asks again."""

import ast
import asyncio
import re
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from components.errors import BadInput, Unreachable
from components.reward.score import Clip, RewardModel, Score, Unscored
from components.serving import client
from components.serving.client import (
    ClientOptions,
    RewardClient,
    Unanswered,
    file_tensors,
    may_go_again,
    score_remote,
    split_url,
)
from components.serving.server import free_ports
from components.video.decode import probe, read_frames
from tests.conftest import REPOSITORY
from tests.serving.conftest import clip
from tests.video.files import write


@pytest.fixture(params=["http", "grpc"])
def url(request, server):
    return f"{request.param}://{getattr(server, request.param)}"


def assert_same(served, local):
    assert isinstance(served, Score), served
    assert served.raw == pytest.approx(local.raw, abs=1e-5)
    assert served.normalised == pytest.approx(local.normalised, abs=1e-5)
    assert served.overall == pytest.approx(local.overall, abs=1e-5)
    assert (served.model_version, served.frame_plan) == (local.model_version, local.frame_plan)


@pytest.mark.serving
@pytest.mark.parametrize("send", ["file", "frames"])
def test_served_scores_are_the_local_scores(url, send, model_folder, videos):
    prompts = ["a red circle moving up", "ein grüner Kreis – 左へ"]
    items = [(video, prompt) for video in videos for prompt in prompts]
    items += [(clip(7, 9, 32, 32), prompts[0]), (clip(8, 17, 48, 24, fps=23.976), prompts[1])]
    local = RewardModel.load(model_folder).score(items)
    served = score_remote(url, items, send=send, plan=local[0].frame_plan)
    for mine, theirs in zip(local, served, strict=True):
        assert_same(theirs, mine)
    assert abs(served[0].raw["TA"] - served[1].raw["TA"]) > 1e-3


@pytest.mark.serving
def test_bytes_in_memory_are_scored_as_the_file(url, videos, model_folder):
    (local,) = RewardModel.load(model_folder).score([(videos[0], "a red circle")])
    assert_same(score_remote(url, [(videos[0].read_bytes(), "a red circle")])[0], local)


@pytest.mark.serving
def test_any_client_sends_and_reads_text_as_the_docs_show(server, videos, model_folder, tmp_path, monkeypatch, capsys):
    """Triton refuses a client that sends BYTES, before the backend reads it."""
    (local,) = RewardModel.load(model_folder).score([(videos[0], "a red circle")])
    page = (REPOSITORY / "docs/how-to/serve.md").read_text()
    (example,) = re.findall(r"```python\n(import numpy[^`]*video_reward_file[^`]*)```", page)
    shutil.copyfile(videos[0], tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    exec(example.replace("127.0.0.1:8000", server.http), {})
    normalised, overall = re.fullmatch(r"(\{.*\}) (\S+)\n", capsys.readouterr().out).groups()
    assert ast.literal_eval(normalised) == pytest.approx(local.normalised, abs=1e-5)
    assert float(overall) == pytest.approx(local.overall, abs=1e-5)

    prompt = triton_http.InferInput("prompt", [1, 1], "BYTES")
    prompt.set_data_from_numpy(np.array([[b"a red circle"]], object))
    video = file_tensors(triton_http, videos[0].read_bytes(), "")[0]
    with triton_http.InferenceServerClient(server.http) as client:
        with pytest.raises(InferenceServerException, match=r"'prompt' data-type is 'BYTES'.*'UINT8'"):
            client.infer("video_reward_file", [video, prompt])
        exec(example.replace("127.0.0.1:8000", server.http), {})


@pytest.mark.serving
def test_bad_items_get_a_reason_and_leave_the_others_alone(url, tmp_path, videos):
    broken, empty, playlist = tmp_path / "broken.mp4", tmp_path / "empty.mp4", tmp_path / "playlist.mp4"
    broken.write_bytes(b"no video")
    empty.write_bytes(b"")
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{videos[0]}\n#EXT-X-ENDLIST\n")
    good = (clip(0, 9, 32, 32), "a red circle")
    wrong = {
        "0 frame": (clip(0, 0, 32, 32), "a red circle"),
        "the plan has 4": (clip(0, 3, 32, 32), "a red circle"),
        "frames of 0 x 32 px": (clip(0, 9, 32, 0), "a red circle"),
        "frame rate nan": (clip(0, 9, 32, 32, fps=float("nan")), "a red circle"),
        "prompt is empty": (clip(0, 9, 32, 32), ""),
        "special token": (clip(0, 9, 32, 32), "a <|VQ_reward|>"),
        "unexpected shape": (Clip(np.zeros((9, 32, 32, 4), np.uint8), 8), "a red circle"),
        "no text": (clip(0, 9, 32, 32), "half of a pair: \ud800"),
        "UINT8": (Clip(np.zeros((9, 32, 32, 3), np.float32), 8), "a red circle"),
        "Invalid data": (broken, "a red circle"),
        "unreadable": (empty, "a red circle"),
        "unreadable: Invalid data": (playlist, "a red circle"),
        "no such file": (tmp_path / "nothing.mp4", "a red circle"),
        "prompt is empty ": (videos[0], " "),
        "the model reads at most": (videos[0], "a " * 5000),
        "at most 10000 are read": (videos[0], "a red circle " * 2000),
    }
    first, *failed, last = score_remote(url, [good, *wrong.values(), good])
    assert isinstance(first, Score)
    assert last.raw == pytest.approx(first.raw, abs=1e-5)
    for reason, result in zip(wrong, failed, strict=True):
        assert isinstance(result, Unscored) and not isinstance(result, Unanswered), reason
        assert reason.strip() in result.reason
        assert "ensemble" not in result.reason and "/proc" not in result.reason


@pytest.mark.serving
def test_other_frame_plan_is_refused(url):
    with pytest.raises(BadInput, match=r"frame plan 4frames 64-1024px/8, not 8frames"):
        score_remote(url, [], plan="8frames 64-1024px/8")


@pytest.mark.serving
def test_no_more_than_so_many_are_under_way(url):
    under_way, most = 0, 0

    async def run() -> None:
        nonlocal under_way, most
        async with RewardClient(url, ClientOptions(in_flight=3)) as client:
            ask = client.client.infer

            async def counted(*inputs):
                nonlocal under_way, most
                under_way += 1
                most = max(most, under_way)
                try:
                    return await ask(*inputs)
                finally:
                    under_way -= 1

            client.client.infer = counted
            results = await asyncio.gather(*(client.score(clip(n, 9, 32, 32), "a red circle") for n in range(12)))
            assert all(isinstance(result, Score) for result in results)

    asyncio.run(run())
    assert most == 3


@pytest.mark.serving
def test_deadline_that_passes_is_no_score(url):
    (result,) = score_remote(url, [(clip(0, 9, 32, 32), "a red circle")], deadline=0.01)  # the queue alone takes 0.2 s
    assert isinstance(result, Unanswered) and "within 0.01 s" in result.reason


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_no_server_is_unreachable(protocol):
    with pytest.raises(Unreachable, match="no Triton server answers"):
        score_remote(f"{protocol}://127.0.0.1:{free_ports(1)[0]}", [])


def test_score_exits_4_where_no_server_answers(videos):
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    command = [sys.executable, "-m", "components.cli.main", "score", videos[0], "--prompt", "a", "--triton", url]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 4 and done.stderr.startswith(f"error: {url}: no Triton server answers"), done.stderr


@pytest.mark.parametrize(
    "url",
    [
        *("https://host:1", "ftp://host:1", "grpc://", "", "http://:8000", "[::1:8000"),
        *(f"{start}host:{port}" for start in ("http://", "grpc://", "") for port in ("notaport", "99999", "0", "-1", "")),
    ],
)
def test_url_that_is_none_is_bad_input(url):
    with pytest.raises(BadInput, match="http://host:port or grpc://host:port"):
        split_url(url)


def test_url_without_protocol_is_http():
    assert split_url("localhost:8000/") == ("http", "localhost:8000")
    assert split_url("grpc://[::1]:65535") == ("grpc", "[::1]:65535")


@pytest.mark.parametrize(
    ("status", "message", "again"),
    [
        ("400", "the prompt is empty", False),
        ("StatusCode.INVALID_ARGUMENT", "the prompt is empty", False),
        ("500", "Stub process 'video_reward_model_0_0' is not healthy.", True),
        ("404", "Request for unknown model: 'video_reward' has no available versions", True),
        ("404", "Request for unknown model: 'video_reward' is not found", False),
        ("503", "Exceeds maximum queue size", True),
        ("StatusCode.UNAVAILABLE", "failed to connect to all addresses", True),
        ("500", "some other failure", False),
    ],
)
def test_only_what_the_server_did_not_judge_goes_again(status, message, again):
    assert may_go_again(InferenceServerException(message, status)) is again


def frames_of(*videos):
    """What a client that sends frames makes of files before it sends anything: number of frames and rate, or the reason."""
    asker = RewardClient("http://127.0.0.1:1", ClientOptions(send="frames", attempts=1))

    async def prepare(video):
        try:
            _, tensors = await asker._request(video, "a red circle")
        except client.Unsendable as error:
            return str(error).removeprefix(f"{video}: ")
        return tensors[0].shape()[1], np.frombuffer(tensors[2]._get_binary_data())[0]

    return [asyncio.run(prepare(video)) for video in videos]


def test_frames_are_decoded_here_as_the_server_would_have_done(tmp_path):
    """One bad file is one reason; rates are of time stamps."""
    plain, gif = write(tmp_path / "Style: a.mp4", 9), write(tmp_path / "a.gif", 9, "gif", 8, "rgb8")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    made = frames_of(plain, tmp_path / "bad.mp4", tmp_path / "nothing.mp4", tmp_path / ("a" * 300), gif)
    assert made[0] == (9, 16) and made[4] == (9, probe(gif).fps)
    assert made[1].startswith("unreadable") and made[2:4] == ["no such file"] * 2


def test_a_clip_is_in_memory_once(tmp_path):
    path = write(tmp_path / "clip.mp4", 200, size=(48, 62))  # rows with padding: Python holds the frames
    client.whole_clip(path)  # what is loaded once
    tracemalloc.start()
    try:
        made = client.whole_clip(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made.fps == probe(path).fps and np.array_equal(made.frames, read_frames(path))
    assert peak < 1.3 * made.frames.nbytes


def test_frames_that_no_request_can_carry_are_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "MOST_BYTES", 9 * 48 * 64 * 3 - 1)
    path = write(tmp_path / "clip.mp4", 9)
    assert "and a request carries" in frames_of(path)[0]
    with pytest.raises(InferenceServerException, match="send the file"):
        client.frame_tensors(client.importlib.import_module("tritonclient.grpc"), Clip(read_frames(path), 8), "a red circle")
