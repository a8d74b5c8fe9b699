"""UniRL's and Flow-Factory's requests and answers, held to what their own code sends and reads.

The models below are written from the fields of UniRL's reward service (protocol version 1, unirl-reward-service at 1a7b501)
and of Flow-Factory's remote reward (at a0b2bc5); they are the tests' own.
"""

import base64
import io
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from pydantic import BaseModel, ConfigDict

from tests.serving.gateway.conftest import GOOD, VERSION, running


class TheirIdentity(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: str | None
    sample_id: str | None
    group_id: str | None
    source_rank: int | None
    policy_version: int | None
    scorer_version: str | None
    idempotency_key: str | None


class TheirResponse(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    results: list[dict[str, dict[str, float]]]
    errors: list[dict[str, str]]
    identities: list[TheirIdentity]
    protocol_version: str


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def unirl(text: str, rewards=("videoalign",), **media: Any) -> dict[str, Any]:
    turn = {"text": text, "image_b64": None, "image_ipc": None, "video_b64": None, "video_path": None} | media
    return {"history": [turn], "required_rewards": list(rewards), "metadata": {"any": [1]}}


def ask(url: str, items: list[dict[str, Any]], **more: Any) -> requests.Response:
    return requests.post(f"{url}/score", json={"protocol_version": "1", "requests": items, "grad_mode": False} | more)


def test_unirls_request_and_answer(url, triton, root):
    first = unirl("a cat", video_b64=encoded(GOOD + b"1")) | {"request_id": "r", "source_rank": 3, "idempotency_key": "k"}
    second = unirl("a dog", rewards=("videoalign", "video_reward"), video_path=str(root / "inner/a.mp4"))
    bad = unirl("a bird", video_b64=encoded(b"no video"))
    picture = unirl("a fish", image_b64=encoded(b"png"))
    outside = unirl("a cow", video_path=str(root.parent / "secret.mp4"))
    answer = ask(url, [first, second, bad, picture, outside])
    told = TheirResponse.model_validate_json(answer.content)
    assert answer.status_code == 200 and told.protocol_version == "1"
    cat, dog = triton.expected(GOOD + b"1", "a cat"), triton.expected(GOOD + b"a", "a dog")
    assert told.results == [{"videoalign": cat}, {"videoalign": dog, "video_reward": dog}, {}, {}, {}]
    assert list(told.results[0]["videoalign"]) == ["Overall", "VQ", "MQ", "TA"]  # readers take the first as the reward
    reasons = [error.get("videoalign") for error in told.errors]
    assert reasons[:2] == [None, None] and reasons[2].startswith("not a video")
    assert reasons[3:] == ["the last turn has no video", "the path is not below the allowed folder"]
    named = told.identities[0]
    assert (named.request_id, named.source_rank, named.idempotency_key, named.scorer_version) == ("r", 3, "k", VERSION)
    assert told.identities[2].scorer_version is None


def test_unirls_history_ends_with_what_is_scored(url, triton):
    item = unirl("last", video_b64=encoded(GOOD + b"2"))
    item["history"].insert(0, {"text": "first", "video_b64": encoded(GOOD + b"1")})
    assert ask(url, [item]).json()["results"] == [{"videoalign": triton.expected(GOOD + b"2", "last")}]
    assert len(triton.seen) == 1


def test_a_batch_of_nothing_and_a_version_that_does_not_serve(url, triton):
    empty = TheirResponse.model_validate_json(ask(url, []).content)
    assert (empty.results, empty.errors) == ([], [])
    none = ask(url, [unirl("p", rewards=(), video_b64=encoded(GOOD))]).json()
    assert (none["results"], none["errors"], triton.seen) == ([{}], [{}], [])
    item = unirl("p", video_b64=encoded(GOOD))
    answer = ask(url, [item | {"scorer_version": "other"}, item | {"scorer_version": VERSION}])
    told = TheirResponse.model_validate_json(answer.content)
    assert told.results[0] == {} and told.errors[0]["videoalign"] == f"scored by version {VERSION}, not other"
    assert told.results[1]["videoalign"] == triton.expected(GOOD, "p") and told.identities[0].scorer_version is None


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"protocol_version": "2"}, 400, "unsupported protocol_version '2'"),
        ({"grad_mode": True, "call_id": "c"}, 400, "grad_mode"),
        ({"requests": [unirl("p", rewards=("hpsv3",), video_b64="")]}, 400, "unknown reward: hpsv3. available: videoalign"),
        ({"requests": [unirl("p", video_b64="", video_path="/a")]}, 422, "video_b64 and video_path exclude each other"),
        ({"requests": [unirl("p")]}, 422, "a turn has an image or a video"),
        ({"requests": [{"history": [], "required_rewards": []}]}, 422, r"requests.0.history"),
        ({"requests": [unirl("p", video_b64="")] * 6}, 413, "6 videos"),
    ],
)
def test_unirls_requests_that_are_refused_as_a_whole(url, triton, change, status, said):
    answer = ask(url, **{"items": []} | change) if "requests" not in change else requests.post(f"{url}/score", json=change)
    assert answer.status_code == status and said in answer.json()["detail"] and not triton.seen


def test_an_absent_server_is_an_error_of_each_item(url, triton):
    triton.missing = True
    told = ask(url, [unirl("p", video_b64=encoded(GOOD))] * 2).json()
    assert told["results"] == [{}, {}] and all("no answer" in error["videoalign"] for error in told["errors"])


def test_unirls_lists_of_rewards(url):
    assert requests.get(f"{url}/rewards").json() == {"rewards": ["videoalign", "video_reward"]}
    health = requests.get(f"{url}/health").json()
    assert health["status"] == "ok" and health["rewards"]["videoalign"]["model_version"] == VERSION


def png(frame: np.ndarray, kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, format=kind)
    return encoded(file.getvalue())


def video(seed: int, frames: int = 3, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def flow_factory(prompts: list[str], videos: list[np.ndarray], **kwargs: Any) -> dict[str, Any]:
    """As its client builds the payload."""
    return {
        "prompt": prompts,
        "image": None,
        "video": [[png(frame) for frame in frames] for frames in videos],
        "condition_images": None,
        "condition_videos": None,
        "kwargs": kwargs or None,
    }


def rewards_as_it_reads_them(answer: requests.Response) -> list[float]:
    answer.raise_for_status()
    data = answer.json()
    assert not data.get("error") and data.keys() == {"rewards"}
    return data["rewards"]


def test_flow_factorys_request_and_answer(url, triton):
    clips = [video(1), video(2, frames=5)]
    expected = [triton.expected(GOOD + clip.tobytes(), prompt) for clip, prompt in zip(clips, "ab", strict=True)]
    body = flow_factory(["a", "b"], clips)
    assert rewards_as_it_reads_them(requests.post(f"{url}/compute", json=body)) == [each["Overall"] for each in expected]
    assert [clip.fps for clip, _ in triton.seen] == [8.0, 8.0]
    body = flow_factory(["a", "b"], clips, fps=24, reward="TA", others={"ignored": True})
    assert rewards_as_it_reads_them(requests.post(f"{url}/compute", json=body)) == [each["TA"] for each in expected]
    second = next(clip for clip, prompt in triton.seen[2:] if prompt == "b")  # the two are under way together
    assert second.fps == 24 and np.array_equal(second.frames, clips[1])
    assert requests.get(f"{url}/health").ok


def test_without_a_frame_rate_nothing_is_scored(triton):
    with running(triton) as url:
        answer = requests.post(f"{url}/compute", json=flow_factory(["a"], [video(1)]))
        assert answer.status_code == 422 and "frames have no rate" in answer.json()["detail"] and not triton.seen
        assert requests.post(f"{url}/compute", json=flow_factory(["a"], [video(1)], fps=8)).ok


def test_a_clip_without_a_score_leaves_no_number_for_any(url, triton):
    body = flow_factory(["a", " ", "c"], [video(1), video(2), video(3)])
    body["video"][2][1] = png(video(3, side=9)[1])
    answer = requests.post(f"{url}/compute", json=body)
    said = "2 of 3 clips have no score: 1: the prompt is empty; 2: frame 1 is 9x9, the first 8x8"
    assert (answer.status_code, answer.json()) == (422, {"detail": said})
    triton.missing = True
    assert requests.post(f"{url}/compute", json=flow_factory(["a"], [video(1)])).status_code == 503


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"video": None}, "1 prompts and 0 videos"),
        ({"video": []}, "1 prompts and 0 videos"),
        ({"prompt": ["a", "b"]}, "2 prompts and 1 videos"),
        ({"video": [[]]}, "a video without frames"),
        ({"video": [["AAAA"]]}, "frame 0 is no PNG or JPEG picture"),
        ({"video": [["%"]]}, "the video is no base64"),
        ({"kwargs": {"fps": 0}}, "frame rate 0 is not a positive number"),
        ({"kwargs": {"fps": "8"}}, "frames have no rate"),
        ({"kwargs": {"fps": True}}, "frames have no rate"),
        ({"kwargs": {"reward": "best"}}, "kwargs.reward is none of Overall, VQ, MQ, TA"),
        ({"kwargs": {"reward": {}}}, "kwargs.reward is none of"),
    ],
)
def test_flow_factorys_requests_that_are_refused(url, change, said):
    answer = requests.post(f"{url}/compute", json=flow_factory(["a"], [video(1)]) | change)
    assert answer.status_code == 422 and said in answer.json()["detail"] and "rewards" not in answer.json()


def test_a_picture_that_unpacks_to_gigabytes_is_not_unpacked(url, triton):
    """A PNG's header states its size: 60,000 x 60,000 px in a few bytes."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, format="PNG")
    head = bytearray(file.getvalue())
    head[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    answer = requests.post(f"{url}/compute", json=flow_factory(["a"], [video(1)]) | {"video": [[encoded(bytes(head))]]})
    assert answer.status_code == 422 and not triton.seen
