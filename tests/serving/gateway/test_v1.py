"""Our own protocol: forms and JSON, errors of one video, limits, the token, and nothing outside the allowed folder."""

import base64
import json
import os
import re
import socket
import threading

import pytest
import requests

from components.errors import BadInput
from components.serving.access import gateway_token, need_token
from components.serving.client import MOST_BYTES
from tests.running import until
from tests.serving.gateway.conftest import GOOD, PLAN, VERSION, running


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_a_form_json_and_a_path_get_the_same_answer(url, triton, root):
    form = requests.post(f"{url}/v1/score", files={"video": ("a.mp4", GOOD + b"a")}, data={"prompt": "ein Kreis ü"})
    whole = requests.post(f"{url}/v1/score", json={"video": encoded(GOOD + b"a"), "prompt": "ein Kreis ü"})
    paths = [{"path": path, "prompt": "ein Kreis ü"} for path in ("inner/a.mp4", str(root / "inner/a.mp4"))]
    named = [requests.post(f"{url}/v1/score", json=body) for body in paths]
    assert [answer.status_code for answer in (form, whole, *named)] == [200] * 4
    told = form.json()
    assert told == {
        "scores": triton.expected(GOOD + b"a", "ein Kreis ü"),
        "raw": {"VQ": 0.5, "MQ": 0.5, "TA": 0.5},
        "model_version": VERSION,
        "frame_plan": PLAN,
    }
    assert all(answer.json() == told for answer in (whole, *named))
    assert triton.seen == [(GOOD + b"a", "ein Kreis ü")] * 4


def test_binary_content_passes_a_form_byte_by_byte(url, triton):
    content = GOOD + bytes(range(256)) * 20 + b"\r\n--x\r\n\r\n--\n"
    assert requests.post(f"{url}/v1/score", files={"video": content}, data={"prompt": "items"}).status_code == 200
    assert requests.post(f"{url}/v1/score", json={"video": encoded(content), "prompt": "items"}).status_code == 200
    assert triton.seen == [(content, "items")] * 2


def test_each_video_of_several_has_a_score_or_its_reason(url, triton):
    items = [
        {"video": encoded(GOOD + b"1"), "prompt": "p"},
        {"video": encoded(b"no video"), "prompt": "p"},
        {"video": "%%%", "prompt": "p"},
        {"path": "none.mp4", "prompt": "p"},
        {"video": encoded(GOOD + b"nan"), "prompt": "p"},
    ]
    answer = requests.post(f"{url}/v1/score", json={"items": items})
    first, *failed = answer.json()["results"]
    assert answer.status_code == 200 and first["scores"] == triton.expected(GOOD + b"1", "p")
    reasons = ["not a video: \\ud800", "the video is no base64", "no such file below", "the model's score is not finite"]
    for told, reason in zip(failed, reasons, strict=True):
        assert told["detail"].startswith(reason) and told.keys() == {"detail", "retry"} and not told["retry"]


def test_one_video_without_a_score_is_an_error(url, triton):
    refused = requests.post(f"{url}/v1/score", json={"video": encoded(b"no video"), "prompt": "p"})
    assert (refused.status_code, refused.json()["retry"]) == (422, False)
    triton.missing = True
    away = requests.post(f"{url}/v1/score", json={"video": encoded(GOOD), "prompt": "p"})
    assert (away.status_code, away.json()["retry"], away.headers["retry-after"]) == (503, True, "1")
    health = requests.get(f"{url}/health")
    assert (health.status_code, health.json()) == (503, {"detail": "the reward model is not ready"})


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "p"}, "give video or path, one of them"),
        ({"prompt": "p", "video": "", "path": "a"}, "give video or path, one of them"),
        ({"video": ""}, "give a prompt"),
        ({"prompt": 7, "video": ""}, "prompt: Input should be a valid string"),
        ({"prompt": "p", "video": "", "score": 1}, "score: Extra inputs are not permitted"),
        ({"items": []}, "items: List should have at least 1 item"),
        ({"items": [{"prompt": "p"}]}, r"items\.0: .*give video or path"),
        ({"items": [{"prompt": "p", "path": "a"}], "prompt": "p"}, "give items, or prompt"),
    ],
)
def test_a_request_that_is_none_is_named(url, triton, body, said):
    answer = requests.post(f"{url}/v1/score", json=body)
    assert answer.status_code == 422 and re.search(said, answer.json()["detail"]) and not triton.seen


@pytest.mark.parametrize(
    "path",
    [
        *("../secret.mp4", "inner/../../secret.mp4", "{outside}", "link.mp4", "links/secret.mp4", "inner", "pipe", "none"),
        *("a\0b", "loop", "/etc/hostname", "/proc/self/environ", "/dev/zero", "x" * 5000, "~/a", ""),
    ],
)
def test_no_path_leads_out_of_the_folder(url, triton, root, path):
    (root / "link.mp4").symlink_to(root.parent / "secret.mp4")
    (root / "links").symlink_to(root.parent)
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    body = {"path": path.replace("{outside}", str(root.parent / "secret.mp4")), "prompt": "p"}
    answer = requests.post(f"{url}/v1/score", json=body, timeout=10)
    assert answer.status_code == 422 and "below the allowed folder" in answer.json()["detail"] and not triton.seen
    assert str(root) not in answer.text


def test_without_a_folder_no_path_is_read(triton, root):
    with running(triton) as url:
        answer = requests.post(f"{url}/v1/score", json={"path": str(root / "inner/a.mp4"), "prompt": "p"})
    assert answer.status_code == 422 and answer.json()["detail"] == "paths are not read here: send the video"


def test_sizes(url, triton, root):
    large = GOOD + bytes(100_000)
    assert requests.post(f"{url}/v1/score", files={"video": large}, data={"prompt": "p"}).status_code == 413
    chunks = (bytes(10_000) for _ in range(20))
    assert requests.post(f"{url}/v1/score", data=chunks).status_code == 413
    (root / "large.mp4").write_bytes(large)
    answer = requests.post(f"{url}/v1/score", json={"path": "large.mp4", "prompt": "p"})
    assert answer.json()["detail"] == "a file of 100005 bytes; at most 100000 are read"
    items = [{"path": "inner/a.mp4", "prompt": "p"}] * 6
    answer = requests.post(f"{url}/v1/score", json={"items": items})
    assert (answer.status_code, answer.json()["detail"]) == (413, "6 videos in a request; at most 5 are scored")
    assert not triton.seen and MOST_BYTES > 2000 << 20  # what --max-megabytes allows


def test_a_full_queue_turns_requests_away_and_loses_none(triton):
    """Of seven at once four are held, of which two are with Triton; three get 429, and one more is taken afterwards."""
    import asyncio

    triton.gate = asyncio.Event()
    found = []
    with running(triton, queue=4, in_flight=2) as url:

        def post(number: int) -> None:
            body = {"video": encoded(GOOD + b"%d" % number), "prompt": "p"}
            found.append(requests.post(f"{url}/v1/score", json=body))

        threads = [threading.Thread(target=post, args=[number]) for number in range(7)]
        for thread in threads:
            thread.start()
        until(lambda: len(found) == 3, "three answers")
        assert {answer.status_code for answer in found} == {429} and triton.most == 2
        assert {answer.headers["retry-after"] for answer in found} == {"1"}
        triton.gate.set()  # waiters poll it at the next turn of the loop
        assert requests.get(f"{url}/rewards").status_code == 200
        for thread in threads:
            thread.join(60)
        assert sorted(answer.status_code for answer in found) == [200] * 4 + [429] * 3 and triton.most == 2
        post(8)
        assert found[-1].status_code == 200
        assert "reelign_gateway_requests_held 0" in requests.get(f"{url}/metrics").text


def test_time_limits(triton):
    import asyncio

    triton.gate = asyncio.Event()
    with running(triton, deadline=0.3, body_seconds=0.5) as url:
        answer = requests.post(f"{url}/v1/score", json={"video": encoded(GOOD), "prompt": "p"})
        assert (answer.status_code, answer.json()) == (503, {"detail": "no answer within 0.3 s", "retry": True})
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
            )
            assert b" 408 " in slow.recv(1000)


def test_the_token(triton):
    token = "0123456789abcdefghij"
    with running(triton, token=token) as url:
        body = {"video": encoded(GOOD), "prompt": "p"}
        for given in (None, "Bearer wrong", f"Basic {token}", "Bearer ", token, f"Bearer {token}x"):
            answer = requests.post(f"{url}/v1/score", json=body, headers={"Authorization": given} if given else {})
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert all(requests.get(url + page).status_code == 200 for page in ("/metrics", "/health"))
        assert requests.post(f"{url}/metrics").status_code == requests.get(f"{url}/score").status_code == 401
        assert not triton.seen
        for given in (f"Bearer {token}", f"bearer {token}"):
            assert requests.post(f"{url}/v1/score", json=body, headers={"Authorization": given}).status_code == 200


def test_the_tokens_file(tmp_path, monkeypatch):
    monkeypatch.delenv("REELIGN_GATEWAY_TOKEN", raising=False)
    assert gateway_token(None) is None
    file = tmp_path / "token"
    with pytest.raises(BadInput, match="token: missing"):
        gateway_token(file)
    file.write_text("0123456789abcdefghij\n")
    file.chmod(0o644)
    with pytest.raises(BadInput, match="others may read it"):
        gateway_token(file)
    file.chmod(0o600)
    assert gateway_token(file) == "0123456789abcdefghij"
    monkeypatch.setenv("REELIGN_GATEWAY_TOKEN", "short")
    with pytest.raises(BadInput, match="REELIGN_GATEWAY_TOKEN: no key"):
        gateway_token(None)
    for host in ("127.0.0.1", "::1", "localhost"):
        need_token(host, None)
    need_token("0.0.0.0", "0123456789abcdefghij")
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(BadInput, match="other machines reach it"):
            need_token(host, None)


def test_pages_of_browsers_get_nothing(url, triton):
    for headers in ({"Origin": "http://evil.example"}, {"Origin": url}, {"origin": "null"}):
        answer = requests.post(f"{url}/v1/score", json={"video": encoded(GOOD), "prompt": "p"}, headers=headers)
        assert answer.status_code == 403 and not triton.seen


def test_metrics_and_openapi(url):
    requests.post(f"{url}/v1/score", json={"video": encoded(GOOD), "prompt": "p"})
    requests.post(f"{url}/v1/score", json={"video": encoded(b"no"), "prompt": "p"})
    requests.post(f"{url}/anything/at/all", json={})
    text = requests.get(f"{url}/metrics").text
    for line in (
        'reelign_gateway_requests_total{route="/v1/score",status="200"} 1',
        'reelign_gateway_requests_total{route="/v1/score",status="422"} 1',
        'reelign_gateway_requests_total{route="other",status="404"} 1',
        'reelign_gateway_videos_total{route="/v1/score",outcome="scored"} 1',
        'reelign_gateway_videos_total{route="/v1/score",outcome="refused"} 1',
        'reelign_gateway_request_seconds_count{route="/v1/score"} 2',
        'reelign_gateway_request_seconds_bucket{route="/v1/score",le="+Inf"} 2',
    ):
        assert line in text.splitlines()
    sample = re.compile(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')
    assert all(line.startswith("# ") or sample.fullmatch(line) for line in text.splitlines())
    page = requests.get(f"{url}/openapi.json").json()
    assert {"/v1/score", "/score", "/compute", "/health", "/rewards", "/metrics"} == page["paths"].keys()
    accepted = page["paths"]["/v1/score"]["post"]["requestBody"]["content"]
    assert accepted.keys() == {"application/json", "multipart/form-data"} and "prompt" in json.dumps(accepted)
    assert "text/html" in requests.get(f"{url}/docs").headers["content-type"]


def test_metrics_show_the_last_check_for_drift(triton, tmp_path):
    file = tmp_path / "monitor.json"
    with running(triton, monitor=file) as url:
        shown = lambda: requests.get(f"{url}/metrics").text  # noqa: E731
        assert "reelign_monitor" not in shown(), "no check so far"
        cells = {"VQ": {"distance": 0.1, "drift": False}, "TA": {"distance": 0.5, "drift": True}}
        record = {"until": "1970-01-01T01:00:00+00:00", "verdict": "drift", "clips": 400, "scores": cells}
        file.write_text(json.dumps(record))
        lines = shown().splitlines()
        assert {
            "reelign_monitor_time_seconds 3600.0",
            "reelign_monitor_clips 400",
            'reelign_monitor_verdict{verdict="drift"} 1',
            'reelign_monitor_verdict{verdict="no drift"} 0',
            'reelign_monitor_drift{dimension="TA"} 1',
            'reelign_monitor_drift{dimension="VQ"} 0',
        } <= set(lines)
        for damaged in ('{"until": 3}', "[", '{"until": "1970-01-01", "verdict": "drift", "scores": [], "clips": 1}'):
            file.write_text(damaged)
            assert "reelign_monitor" not in shown() and "reelign_gateway_requests_held" in shown()
