"""The log of served requests: what a line holds and what it does not, what is kept, what a broken disk costs."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.errors import BadInput
from components.reward.score import Score, Unscored
from components.serving import served_log
from components.serving.served_log import KEEP_DAYS, MOST_REASON, ServedLog, describe, read_served
from components.video.decode import probe
from tests.serving.conftest import clip

PROMPT = "a red circle moving up"
SCORE = Score({"VQ": 1.0, "MQ": 2.0}, {"VQ": -0.5, "MQ": 0.25}, -0.25, "v1", "4frames")
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def lines(count: int) -> list[dict]:
    return [describe((clip(0, 9, 32, 24), PROMPT), SCORE, None)] * count


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def test_a_line_says_what_came_and_what_was_answered_and_never_the_prompt(tmp_path, videos):
    path = str(videos[1])
    requests = [
        ((clip(0, 9, 32, 24), PROMPT), SCORE, None),
        ((path, PROMPT), Unscored(f"{path}: 17 frames; the plan has 18"), probe(path)),
        ((path, "other words"), Unscored("x" * 1000), None),
        (Unscored("the prompt is not UTF-8"), Unscored("the prompt is not UTF-8"), None),
    ]
    log = ServedLog(str(tmp_path / "served"), "v1")
    before = datetime.now(UTC)
    assert log.write([describe(*request) for request in requests]) == 0
    [file] = files(tmp_path / "served")
    assert "circle" not in file.read_text() and file.stem.startswith(f"{before.date()}-{os.getpid()}-")
    scored, refused, cut, unread = read_served(tmp_path / "served", before)
    assert (scored.video, scored.frames, scored.height, scored.width, scored.fps) == ("frames", 9, 32, 24, 8.0)
    assert (scored.normalised, scored.overall, scored.reason, scored.words) == (SCORE.normalised, -0.25, None, 5)
    assert (refused.video, refused.frames, refused.height, refused.width, refused.fps) == ("file", 17, 48, 24, 24.0)
    assert (refused.normalised, refused.overall, refused.reason) == (None, None, "17 frames; the plan has 18")
    assert refused.prompt == scored.prompt != cut.prompt and len(cut.reason) == MOST_REASON and cut.words == 2
    assert (unread.video, unread.frames, unread.prompt, unread.words) == (None, None, None, None)
    assert {row.model_version for row in (scored, refused, cut, unread)} == {"v1"}
    assert [row.number for row in (scored, refused, cut, unread)] == [0, 1, 2, 3]


def test_without_a_folder_there_is_no_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ServedLog(None, "v1").write(lines(3)) == 0
    assert not list(tmp_path.iterdir())


def test_a_file_a_day_and_old_ones_go(tmp_path):
    today = datetime.now(UTC).date()
    *between, kept, old = (tmp_path / f"{today - timedelta(days=days)}-7-x.jsonl" for days in range(1, KEEP_DAYS + 1))
    for file in (*between, kept, old, tmp_path / "notes.jsonl"):
        file.write_text("")
    log = ServedLog(str(tmp_path), "v1")
    assert log.write(lines(2)) == log.write(lines(1)) == 0
    assert not old.exists() and kept.exists() and (tmp_path / "notes.jsonl").exists()
    assert len(files(tmp_path)) == KEEP_DAYS + 1
    log.day = str(today - timedelta(days=1))  # midnight goes by
    assert log.write(lines(1)) == 0
    assert len(files(tmp_path)) == KEEP_DAYS + 2
    assert len(list(read_served(tmp_path, LONG_AGO))) == 4


def test_a_folder_that_cannot_be_made_loses_lines_and_says_so_once(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    log = ServedLog(str(tmp_path / "file/served"), "v1")
    assert [log.write(lines(count)) for count in (3, 2)] == [3, 2]
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "log of served requests: " in said and "Not a directory" in said
    (tmp_path / "file").unlink()
    log.closed_until = 0.0  # a minute goes by
    assert log.write(lines(1)) == 0


def test_a_full_disk_loses_lines_and_breaks_no_file(tmp_path, capfd):
    log = ServedLog(str(tmp_path), "v1")
    assert log.write(lines(1)) == 0
    os.dup2(full := os.open("/dev/full", os.O_WRONLY), log.file)
    os.close(full)
    assert log.write(lines(2)) == 2 and "No space left on device" in capfd.readouterr().err
    files(tmp_path)[0].open("a").write('{"log": "cut o')  # as far as the disk went
    log.closed_until = 0.0
    assert log.write(lines(1)) == 0
    assert len(files(tmp_path)) == 2 and len(list(read_served(tmp_path, LONG_AGO))) == 2


def test_copies_of_files_and_what_is_too_old_are_not_read_twice(tmp_path):
    log = ServedLog(str(tmp_path), "v1")
    for count in (2, 3):
        log.write(lines(count))
    [file] = files(tmp_path)
    whole = file.read_text().splitlines(keepends=True)
    day = file.name[:10]
    (tmp_path / f"{day}-0-copy.jsonl").write_text("".join(whole[:2]))  # of when it was shorter
    (tmp_path / f"{day}-z-copy.jsonl").write_text("".join(whole))
    assert [row.number for row in read_served(tmp_path, LONG_AGO)] == [0, 1, 2, 3, 4]
    assert not list(read_served(tmp_path, datetime.now(UTC) + timedelta(seconds=1)))


@pytest.mark.parametrize(
    ("change", "key", "why"),
    [
        (lambda row: row.pop("fps"), "fps", "Field required"),
        (lambda row: row.update(overall="high"), "overall", "valid number"),
        (lambda row: row.update(mood=1), "mood", "not permitted"),
        (lambda row: row.update(reason="both"), None, "scores or a reason"),
        (lambda row: row.update(time="2026-11-23T00:00:00"), "time", "timezone"),
    ],
)
def test_a_broken_line_is_named(tmp_path, change, key, why):
    log = ServedLog(str(tmp_path), "v1")
    log.write(lines(3))
    [file] = files(tmp_path)
    rows = file.read_text().splitlines(keepends=True)
    row = json.loads(rows[1])
    change(row)
    file.write_text(rows[0] + json.dumps(row) + "\n" + rows[2])
    with pytest.raises(BadInput, match=rf"{file.name}, row 2{f', key .{key}.' if key else ''}: .*{why}"):
        list(read_served(tmp_path, LONG_AGO))


def test_a_line_that_is_no_json_is_named_unless_a_kill_cut_it_off(tmp_path):
    log = ServedLog(str(tmp_path), "v1")
    log.write(lines(2))
    [file] = files(tmp_path)
    text = file.read_text()
    file.write_text(text[:-20])
    assert len(list(read_served(tmp_path, LONG_AGO))) == 1
    file.write_text(text[:-20] + "\n")
    with pytest.raises(BadInput, match=rf"{file.name}, row 2: Invalid JSON"):
        list(read_served(tmp_path, LONG_AGO))


def test_no_folder_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no log of served requests"):
        list(read_served(tmp_path / "none", LONG_AGO))


def test_a_clock_that_jumps_ahead_removes_no_log(tmp_path):
    """A year ahead, a day after that, and back: only as many days go as there are more than are kept."""
    today = datetime.now(UTC).date()
    names = {f"{today - timedelta(days=days)}-7-x.jsonl" for days in range(20)}
    for name in names:
        (tmp_path / name).write_text("")
    for days in (365, 366):
        (tmp_path / f"{today + timedelta(days=days)}-7-x.jsonl").write_text("")
        ServedLog(str(tmp_path), "v1").write(lines(1))
    assert names <= {path.name for path in tmp_path.iterdir()}


def test_the_log_is_bounded(tmp_path, monkeypatch):
    """Files begin anew at a size; of all together the oldest days go, never the newest."""
    monkeypatch.setattr(served_log, "FILE_BYTES", 2000)
    log = ServedLog(str(tmp_path), "v1")
    for _ in range(20):
        log.write(lines(1))
    assert len(files(tmp_path)) > 2 and max(path.stat().st_size for path in files(tmp_path)) < 4000
    assert len({(row.log, row.number) for row in read_served(tmp_path, LONG_AGO)}) == 20
    today = datetime.now(UTC).date()
    old = [tmp_path / f"{today - timedelta(days=days)}-7-x.jsonl" for days in (1, 2, 3)]
    for path in old:
        path.write_text(" " * 10_000)
    monkeypatch.setattr(served_log, "MOST_BYTES", 35_000)
    assert set(served_log.too_many(tmp_path)) == {old[2]}
    monkeypatch.setattr(served_log, "MOST_BYTES", 10)
    assert set(served_log.too_many(tmp_path)) == set(old)
