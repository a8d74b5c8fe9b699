"""Judge `vlm:NAME` against a small server that speaks the protocol: honest, slow, failing, full, unreadable, biased."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from components.errors import BadInput, Unreachable
from components.judges import vlm_client
from components.judges.judges import load_judge, parse
from components.judges.protocol import Context, JudgedClip, PairwiseJudge, PointwiseJudge
from components.judges.vlm import Question, message
from components.judges.vlm_questions import Answer, Unreadable, parts_of, read_log_odds, read_points
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.judges.vlm_server import Mode, VlmServer


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vlm_client, "FIRST_WAIT", 0.01)
    return tmp_path


def clips_of(count, seed=0, size=16, frames=3):
    """Clips in memory, each of one brightness that no other has."""
    rng = np.random.default_rng(seed)
    levels = rng.permutation(np.linspace(8, 247, count).round().astype(np.uint8))
    return [
        JudgedClip("memory", f"prompt {n}", np.full((frames, size, size, 3), level), 8.0) for n, level in enumerate(levels)
    ]


def pairs_of(count, seed=0):
    clips = clips_of(240, seed)
    rng = np.random.default_rng(seed + 1)
    found = [rng.choice(240, 2, replace=False) for _ in range(count)]
    return [
        (
            JudgedClip("memory", f"prompt {n}", clips[a].frames, 8.0),
            JudgedClip("memory", f"prompt {n}", clips[b].frames, 8.0),
        )
        for n, (a, b) in enumerate(found)
    ]


def brighter(pairs):
    return np.array([float(a.frames.mean() > b.frames.mean()) for a, b in pairs])


def judge_at(server, place, **settings):
    (place / "judges").mkdir(exist_ok=True)
    values = {"url": server.url, "model": "small", **settings}
    (place / "judges/test.yaml").write_text(yaml.safe_dump(values))
    return load_judge("vlm:test", Context(state=place / "state"))


def test_an_honest_model_is_heard_in_both_orders(place):
    pairs = pairs_of(20)
    with VlmServer(Mode()) as server:
        judge = judge_at(server, place, dimensions=["Overall", "VQ"])
        assert isinstance(judge, PairwiseJudge) and judge.facts.tie_width is None
        assert judge.facts.dimensions == ("VQ", "Overall") and judge.facts.key == "vlm-test"
        found = judge.compare(pairs)
        assert list(found.columns) == ["VQ", "Overall", "reason"] and found["reason"].isna().all()
        assert found["Overall"].tolist() == found["VQ"].tolist() == brighter(pairs).tolist()
        assert len(server.seen) == 40 and judge.spent.asked == 40 and judge.spent.tokens_in == 40_000
        again = judge_at(server, place, dimensions=["Overall", "VQ"])
        assert again.compare(pairs).equals(found) and sum(server.seen.values()) == 40
        assert (again.spent.asked, again.spent.on_record) == (0, 40)
        swapped = again.compare([(b, a) for a, b in pairs])
        assert swapped["Overall"].tolist() == (1 - brighter(pairs)).tolist() and sum(server.seen.values()) == 40
        assert judge.compare([]).empty


def test_what_an_answer_depends_on_makes_another_question(place):
    pairs = pairs_of(1)
    with VlmServer(Mode()) as server:
        seen = {judge_at(server, place).facts.identity}
        for change in ({}, {"model": "other"}, {"temperature": 0.5}, {"frames": 2}, {"media": "video"}, {"side": 32}):
            judge_at(server, place, **change).compare(pairs)
            seen.add(judge_at(server, place, **change).facts.identity)
        (place / "judges/mine.txt").write_text("{prompt} A: <first> B: <second>\n{questions}\n")
        judge_at(server, place, template="mine.txt").compare(pairs)
        seen.add(judge_at(server, place, template="mine.txt").facts.identity)
        assert sum(server.seen.values()) == 14 and len(seen) == 7
        other_prompt = [
            (JudgedClip("memory", "x", a.frames, 8.0), JudgedClip("memory", "x", b.frames, 8.0)) for a, b in pairs
        ]
        judge_at(server, place).compare(other_prompt)
        assert sum(server.seen.values()) == 16
        judge_at(server, place, request={"max_completion_tokens": 5, "max_tokens": None}).compare(pairs)
        body = list(server.bodies.values())[-1]
        assert body["max_completion_tokens"] == 5 and "max_tokens" not in body
        # How the server is reached makes no other question.
        for same in ({"concurrency": 1}, {"tries": 2}, {"price": {"input": 1, "output": 1}}, {"requests_per_minute": 6000}):
            judge_at(server, place, **same).compare(pairs)
        assert sum(server.seen.values()) == 18


def test_a_pointwise_model_scores_by_the_log_odds_of_yes(place):
    clips = clips_of(12)
    with VlmServer(Mode()) as server:
        judge = judge_at(server, place, protocol="pointwise", dimensions=["VQ", "Overall"])
        assert isinstance(judge, PointwiseJudge) and judge.facts.tie_width == 0
        found = judge.score(clips)
        light = np.array([clip.frames.mean() for clip in clips])
        assert np.argsort(found["Overall"]).tolist() == np.argsort(light).tolist() and found["reason"].isna().all()
        assert len(server.seen) == 24 and all(body["max_tokens"] == 1 for body in server.bodies.values())
    with VlmServer(Mode(no_logprobs=True)) as server:
        found = judge_at(server, place, protocol="pointwise").score(clips)
        assert found["Overall"].isna().all() and found["reason"].str.contains("no log-probabilities").all()


def test_files_are_shown_as_frames_or_as_they_are(place):
    rng = np.random.default_rng(0)
    for name, level in (("a", 60), ("b", 200)):
        write_video(
            place / f"{name}.mp4",
            np.full((20, 64, 128, 3), level, np.uint8) + rng.integers(0, 9, (20, 64, 128, 3), dtype=np.uint8),
            8,
        )
    (place / "broken.mp4").write_bytes(b"no video")
    pair = tuple(JudgedClip(str(place / f"{name}.mp4"), "a cat") for name in "ab")
    bad = (pair[0], JudgedClip(str(place / "broken.mp4"), "a cat"))
    gone = (pair[0], JudgedClip(str(place / "gone.mp4"), "a cat"))
    with VlmServer(Mode()) as server:
        found = judge_at(server, place, frames=5, side=32).compare([pair, bad, gone])
        assert found["Overall"].tolist()[0] == 0 and found["reason"].notna().tolist() == [False, True, True]
        assert found["Overall"].isna().tolist() == [False, True, True] and "No such file" in found["reason"][2]
        (body, _) = server.bodies.values()
        pictures = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
        assert len(pictures) == 10 and len(server.seen) == 2
    with VlmServer(Mode()) as server:
        assert judge_at(server, place, media="video").compare([pair])["Overall"].tolist() == [0]
        (body, _) = server.bodies.values()
        assert [part["type"] for part in body["messages"][0]["content"]].count("video_url") == 2


def check_nothing_lost(server, pairs, found):
    """Each message that was answered was answered once, and each pair has the right verdict or a reason."""
    right = brighter(pairs)
    assert set(server.answered.values()) == {1}
    answered = found["reason"].isna().to_numpy()
    assert (found["Overall"].isna().to_numpy() == ~answered).all()
    assert (found["Overall"].to_numpy()[answered] == right[answered]).all()


def test_a_thousand_pairs_under_a_rate_limit_with_failures(place):
    pairs = pairs_of(1000)
    with VlmServer(Mode(per_second=150, failing=0.10, broken=0.005, unreadable=0.01)) as server:
        judge = judge_at(server, place, concurrency=16, requests_per_minute=18_000, tries=4)
        found = judge.compare(pairs)
        check_nothing_lost(server, pairs, found)
        failed = found["reason"].notna()
        broken, unreadable = (found["reason"].str.contains(word, na=False) for word in ("broken", "does not end"))
        assert (failed == (broken | unreadable)).all() and 0 < broken.sum() < 30 and 0 < unreadable.sum() < 60
        assert server.rejected > 0 and len(server.seen) == 2000
        answered = sum(server.answered.values())
        assert (judge.spent.asked, judge.spent.failed) == (answered, 2000 - answered)
        # A second run asks what has no answer again, and nothing else.
        before = server.seen.copy()
        server.mode = Mode()
        later = judge_at(server, place, concurrency=16, tries=4).compare(pairs)
        assert sum((server.seen - before).values()) == 2000 - answered
        assert later["reason"].isna().sum() == 1000 - unreadable.sum()
        check_nothing_lost(server, pairs, later)


RUN = """
import sys, numpy as np
from pathlib import Path
from components.judges.judges import load_judge
from components.judges.protocol import Context
from tests.judges.test_vlm import pairs_of
load_judge("vlm:test", Context(state=Path("state"))).compare(pairs_of(150)).to_csv("out.csv", index=False)
"""


def test_a_killed_run_goes_on_where_it_was(place):
    pairs, concurrency = pairs_of(150), 4
    with VlmServer(Mode(delay=0.02, failing=0.1)) as server:
        judge = judge_at(server, place, concurrency=concurrency)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        for enough in (40, 140):
            process = subprocess.Popen([sys.executable, "-c", RUN], env=environment, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 120
            while sum(server.answered.values()) < enough:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (place / "out.csv").exists()
        before = sum(server.answered.values())
        assert before < 300
        found = judge.compare(pairs)
        assert found["Overall"].tolist() == brighter(pairs).tolist() and found["reason"].isna().all()
        # What was under way at a kill is asked again, nothing else.
        again = [count - 1 for count in server.answered.values()]
        assert len(again) == 300 and sum(again) <= 2 * concurrency and max(again) <= 2
        assert judge.spent.on_record + judge.spent.asked == 300


def test_a_server_that_is_gone_or_full_ends_the_run_and_what_it_answered_stays(place):
    pairs = pairs_of(10)
    with VlmServer(Mode()) as server:
        judge_at(server, place).compare(pairs[:5])
        url = server.url
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1.*ConnectError.*2 tries"):
        judge_at(server, place, tries=2).compare(pairs)
    with VlmServer(Mode(per_second=0)) as full, pytest.raises(Unreachable, match=r"HTTP 429, 'slow down'"):
        judge_at(full, place, tries=1).compare(pairs)
    port = int(url.split(":")[2].split("/")[0])
    with VlmServer(Mode(), port) as server:
        judge = judge_at(server, place)
        assert judge.compare(pairs)["reason"].isna().all()
        assert (judge.spent.on_record, judge.spent.asked) == (10, 10)


def test_the_key_is_sent_and_printed_nowhere(place, monkeypatch, capfd):
    monkeypatch.setenv("TEST_KEY", "sk-secret-123")
    with VlmServer(Mode(key="sk-secret-123")) as server:
        judge = judge_at(server, place, key_variable="TEST_KEY")
        assert judge.compare(pairs_of(2))["reason"].isna().all()
        server.mode = Mode(key="another")
        with pytest.raises(BadInput) as caught:
            judge.compare(pairs_of(4))
        assert "refuses the key: HTTP 401, 'Incorrect API key provided: Bearer ***'" in str(caught.value)
        monkeypatch.setenv("TEST_KEY", "")
        with pytest.raises(BadInput, match="variable TEST_KEY is empty"):
            judge_at(server, place, key_variable="TEST_KEY").compare(pairs_of(5))
    said = "".join(capfd.readouterr())
    kept = b"".join(file.read_bytes() for file in place.rglob("*") if file.is_file())
    assert "sk-secret" not in said and b"sk-secret" not in kept and "sk-secret" not in repr(judge.facts)


def test_a_biased_model_always_prefers_the_first(place):
    pairs = pairs_of(30)
    with VlmServer(Mode(first=1.0)) as server:
        judge = judge_at(server, place)
        assert set(judge.compare(pairs)["Overall"]) == {0.5}
        assert set(judge_at(server, place, both_orders=False).compare(pairs)["Overall"]) == {1.0}
        assert judge_at(server, place, both_orders=False).facts.identity != judge.facts.identity


@pytest.mark.parametrize(
    "text, points",
    [
        ("Overall: first", 1.0),
        ("Some thoughts.\n\nVQ is better.\noverall : SECOND\n", 0.0),
        ("<think>Overall: first</think>\nOverall: same", 0.5),
        ("Overall: first\nOverall: second", None),
        ("Overall: first\nI am not sure.", None),
        ("Overall: left", None),
        ("The first", None),
        ("**Overall: first**", None),
        ("", None),
    ],
)
def test_only_a_plain_verdict_is_read(text, points):
    answer = Answer(text, "stop", None, 1, 1)
    if points is None:
        with pytest.raises(Unreadable):
            read_points(answer, ["Overall"])
    else:
        assert read_points(answer, ["Overall"]) == {"Overall": points}
    with pytest.raises(Unreadable, match="cut off"):
        read_points(Answer(text, "length", None, 1, 1), ["Overall"])


def test_every_dimension_needs_its_line_in_order():
    read = {
        "VQ: first\nTA: same": {"VQ": 1.0, "TA": 0.5},
        "TA: same\nVQ: first": None,
        "VQ: first": None,
        "VQ: first\nTA: same\nTA: same": None,
    }
    for text, points in read.items():
        if points is None:
            with pytest.raises(Unreadable):
                read_points(Answer(text, None, None, 1, 1), ["VQ", "TA"])
        else:
            assert read_points(Answer(text, None, None, 1, 1), ["VQ", "TA"]) == points


def test_log_odds_of_the_tokens():
    def odds(**chances):
        return read_log_odds(Answer("", "length", {token: math.log(chance) for token, chance in chances.items()}, 1, 1))

    assert odds(Yes=0.6, No=0.3) == pytest.approx(math.log(2))
    assert odds(Yes=0.5, yes=0.1, No=0.2, NO=0.1) == pytest.approx(math.log(2))
    assert odds(Yes=0.9, Maybe=0.05) == pytest.approx(math.log(0.9 / 0.05))  # what they leave bounds it too
    assert odds(Yes=0.99) == pytest.approx(math.log(99)) and odds(No=1.0) == pytest.approx(math.log(1e-9))
    with pytest.raises(Unreadable, match=r"0\.30 of the probability"):
        odds(Yes=0.2, No=0.1, Maybe=0.7)


def test_marks_and_fields_in_a_prompt_change_nothing():
    parts = parts_of("P: {prompt}\n<first>\n<second>\n{questions}", ("<first>", "<second>"),
                     {"{prompt}": "a <first> {questions} cat", "{questions}": "which?"})  # fmt: skip
    assert parts == ["P: a <first> {questions} cat\n", "<first>", "\n", "<second>", "\nwhich?"]
    parts = parts_of("{prompt}<first>", ("<first>",), {"{prompt}": "<first>"})
    assert parts == ["<first>", "<first>", ""]  # a text, a clip, a text
    content = message(Question("", tuple(parts), {"<first>": JudgedClip("a", "<first>")}), lambda _: [{"type": "clip"}])
    assert content == [{"type": "text", "text": "<first>"}, {"type": "clip"}]


def test_settings_that_cannot_be_right_are_named(place):
    assert parse("vlm:test").key == "vlm-test"
    with pytest.raises(BadInput, match=r"judges/none\.yaml: missing"):
        load_judge("vlm:none", Context())
    with pytest.raises(BadInput, match="a name has letters"):
        load_judge("vlm:../none", Context())
    (place / "judges").mkdir()
    file, good = place / "judges/test.yaml", {"url": "http://127.0.0.1/v1", "model": "m"}
    for change, why in (
        ({"url": "ftp://x"}, r"row 2, key 'url': 'ftp' is no http"),
        ({"url": "https://me:sk-secret@x/v1"}, "holds a user name or password"),
        ({"dimensions": ["VQ"]}, "also gives Overall"),
        ({"retries": 3}, "key 'retries': unknown key"),
        ({"template": "none.txt"}, "cannot be read"),
        ({"protocol": "both"}, "key 'protocol'"),
    ):
        file.write_text(yaml.safe_dump(good | change))
        with pytest.raises(BadInput) as caught:
            load_judge("vlm:test", Context())
        assert re.search(why, str(caught.value)) and "sk-secret" not in str(caught.value)
    (place / "judges/none.txt").write_text("{prompt} <first>")
    file.write_text(json.dumps(good | {"template": "none.txt"}))
    with pytest.raises(BadInput, match="has <second> 0 times, not once"):
        load_judge("vlm:test", Context())


def test_what_is_paid_for_is_counted(place, capfd):
    with VlmServer(Mode()) as server:
        judge = judge_at(server, place, price={"input": 2.5, "output": 10, "currency": "EUR"})
        judge.compare(pairs_of(5))
        judge.compare(pairs_of(5))
        judge.compare(pairs_of(6))
    assert judge.spent.as_json(judge.settings) == {
        "asked": 12, "on_record": 0, "failed": 0, "tokens_in": 12_000, "tokens_out": 120,
        "cost": pytest.approx(0.0312), "currency": "EUR",
    }  # fmt: skip
    said = capfd.readouterr().err.splitlines()
    assert said[-1] == "vlm:test: 12 answers (12000 tokens in, 120 out, 0.03 EUR), 0 on record, 0 without one"


def test_answers_in_use_by_another_program_are_not_thrown_away(place):
    import sqlite3

    with VlmServer(Mode()) as server:
        judge_at(server, place).compare(pairs_of(2))
        file = place / "state/vlm-test.sqlite"
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("components.judges.vlm_record.PATIENCE", 0.1)
            with pytest.raises(BadInput, match="cannot be opened: database is locked"):
                judge_at(server, place).compare(pairs_of(2))
        other.execute("COMMIT")
        other.close()
        assert judge_at(server, place).compare(pairs_of(2))["reason"].isna().all() and sum(server.seen.values()) == 4
