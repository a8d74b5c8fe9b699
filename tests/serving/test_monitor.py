"""`reelign monitor`: drift where there is some and nowhere else, whatever the files of the log are called."""

import json
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from components.cli.main import app
from components.config.operation import MonitoringParams
from components.errors import BadInput
from components.pipeline.stage import folder_digest, write_json
from components.reward.score import Score, Unscored
from components.reward.train import reference
from components.serving import monitor as monitoring
from components.serving import served_log
from components.serving.monitor import ks_distance, ks_p, monitor
from components.serving.served_log import ServedLog, describe
from tests.serving.conftest import clip

DIMENSIONS = ["VQ", "MQ", "TA"]
PARAMS = MonitoringParams(window=24, min_clips=50, max_distance=0.2, max_refused=0.5, level=0.01, cooldown=1)
SEEDS = st.integers(0, 2**32 - 1)
CLIP = clip(0, 9, 32, 32)


CARD = {
    "head_trained": True,
    "template": "<|VQ_reward|><|MQ_reward|>{text_prompt}<|TA_reward|>",
    "dimensions": DIMENSIONS,
    "readout": "special",
    "head": "shared",
    "positions": "plain",
    "frame_plan": {"fps": None, "frames": 4, "min_pixels": 64, "max_pixels": 1024, "factor": 8},
    "normalisation": {name: {"mean": 0.0, "std": 1.0} for name in DIMENSIONS},
    "tie_thresholds": {},
}


def model_with(folder: Path, normalised: np.ndarray) -> Path:
    """A folder with all of a model that the monitor reads."""
    folder.mkdir(parents=True)
    write_json(folder / "video_reward.json", CARD | {"reference": reference(normalised, DIMENSIONS).model_dump()})
    return folder


def serve(folder: Path, version: str, normalised: np.ndarray, refused: int = 0) -> None:
    """Log requests with these scores [N, 3], in batches of ten, as the backend does."""
    log = ServedLog(str(folder), version)
    answers = [
        Score({}, dict(zip(DIMENSIONS, row, strict=True)), sum(row), version, "plan") for row in normalised.tolist()
    ] + [Unscored(f"{count} frames; the plan has 4") for count in range(refused)]
    for start in range(0, len(answers), 10):
        log.write([describe((CLIP, "a red circle"), answer, None) for answer in answers[start : start + 10]])
    log.close()


def verdict(served: Path, model: Path, params: MonitoringParams = PARAMS) -> dict:
    return monitor(served, model, params, datetime.now(UTC) + timedelta(seconds=1))[0]


def quantiles(sample: np.ndarray) -> np.ndarray:
    return np.quantile(sample, np.linspace(0, 1, 101))


def test_chance_alone_is_called_drift_about_as_often_as_the_level_says():
    rng = np.random.default_rng(0)
    p = []
    for _ in range(1500):
        kept, served = rng.normal(size=150), rng.normal(size=220)
        p.append(ks_p(ks_distance(served, quantiles(kept)), 220, 150))
    for level in (0.01, 0.05, 0.2):
        assert 0.3 * level <= np.mean(np.array(p) <= level) <= 1.3 * level + 0.005


@given(SEEDS, st.floats(0.75, 3), st.sampled_from([-1, 1]))
@settings(max_examples=40)
def test_a_shift_is_found(seed, shift, sign):
    rng = np.random.default_rng(seed)
    distance = ks_distance(rng.normal(size=400) + sign * shift, quantiles(rng.normal(size=400)))
    assert distance > 0.2 and ks_p(distance, 400, 400) < 0.001


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.lists(st.integers(-3, 3), min_size=101, max_size=101))
def test_the_distance_is_scipys_where_the_reference_is_steps(served, steps):
    """Scores of a few values only: the line between two quantiles is upright, or has no score on it but its ends."""
    served, steps = np.array(served, float), np.sort(np.array(steps, float))
    exact = scipy.stats.ks_2samp(served, steps).statistic
    assert ks_distance(served, steps) == pytest.approx(exact, abs=0.011)  # 100 steps between 101 values


@given(SEEDS, st.integers(1, 300), st.floats(-5, 5), st.floats(0.1, 10))
def test_the_distance_is_a_share_and_has_no_unit(seed, count, offset, scale):
    rng = np.random.default_rng(seed)
    served, kept = rng.normal(size=count), quantiles(rng.normal(size=90))
    distance = ks_distance(served, kept)
    assert 0.5 / count - 1e-9 <= distance <= 1
    assert ks_distance(served * scale + offset, kept * scale + offset) == pytest.approx(distance, abs=1e-6)
    assert ks_distance(served * 0 + kept[-1] + 1, kept) == 1
    fine = np.linspace(0, 1, 20001)
    same = np.interp(fine, np.linspace(0, 1, 101), kept)
    assert ks_distance(same, kept) < 1e-3


@given(SEEDS, st.integers(1, 4), st.data())
@settings(max_examples=25)
def test_order_and_copies_of_files_do_not_matter(seed, parts, data):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        model, served = model_with(Path(folder) / "model", rng.normal(size=(60, 3))), Path(folder) / "served"
        for _ in range(parts):
            serve(served, folder_digest(model), rng.normal(size=(rng.integers(1, 40), 3)), refused=int(rng.integers(3)))
        record = verdict(served, model)
        files = sorted(served.iterdir())
        day = files[0].name[:10]
        for number, place in enumerate(data.draw(st.permutations(range(len(files))))):
            whole = files[place].read_bytes()
            if data.draw(st.booleans()):
                (served / f"{day}-{number}-copy.jsonl").write_bytes(whole[: int(data.draw(st.floats(0, 1)) * len(whole))])
            files[place].rename(served / f"{day}-{number}.jsonl")
        again = verdict(served, model)
        for changing in ("since", "until"):
            record.pop(changing), again.pop(changing)
        for name in record["scores"]:  # sums in another order
            for side in ("served", "reference"):
                assert again["scores"][name].pop(side) == pytest.approx(record["scores"][name].pop(side), abs=1e-12)
        assert again == record


@pytest.fixture
def model(tmp_path):
    return model_with(tmp_path / "model", np.random.default_rng(1).normal(size=(300, 3)))


def test_one_dimension_that_moved_is_the_one_that_is_named(model, tmp_path):
    served = np.random.default_rng(2).normal(size=(400, 3))
    served[:, 1] -= 1
    serve(tmp_path / "served", folder_digest(model), served, refused=3)
    serve(tmp_path / "served", "another", served[:7])
    record = verdict(tmp_path / "served", model)
    assert record["verdict"] == "drift" and "MQ" in record["drifted"] and not {"VQ", "TA"} & set(record["drifted"])
    assert (record["clips"], record["reference_clips"]) == (400, 300) and [*record["scores"]] == [*DIMENSIONS, "Overall"]
    assert record["refused"] == {"N frames; the plan has N": 3} and record["other_versions"] == {"another": 7}
    assert record["inputs"]["frames"] == [9, 9, 9] and record["videos"] == {"frames": 400} and record["prompts"] == 1
    assert verdict(tmp_path / "served", model, PARAMS.model_copy(update={"max_distance": 0.6}))["verdict"] == "no drift"
    assert verdict(tmp_path / "served", model, PARAMS.model_copy(update={"min_clips": 401}))["verdict"] == "too few"


def test_what_is_older_than_the_window_is_not_looked_at(model, tmp_path):
    serve(tmp_path / "served", folder_digest(model), np.zeros((100, 3)))
    later = datetime.now(UTC) + timedelta(hours=25)
    record = monitor(tmp_path / "served", model, PARAMS, later)[0]
    assert (record["clips"], record["scores"], record["verdict"]) == (0, {}, "too few")


def test_a_model_without_reference_is_refused_by_name(tmp_path):
    (tmp_path / "served").mkdir()
    file = tmp_path / "video_reward.json"
    write_json(file, CARD)
    with pytest.raises(BadInput, match=r"video_reward\.json, key 'reference': none: .*stage `reward` makes it"):
        verdict(tmp_path / "served", tmp_path)
    falling, one = ({"clips": 5, "quantiles": {"VQ": [*range(101)][::step]}} for step in (-1, 1))
    for broken, why in (({"clips": 5}, "quantiles"), (falling, "do not rise"), (one, "has VQ, not VQ, MQ, TA, Overall")):
        write_json(file, CARD | {"reference": broken})
        with pytest.raises(BadInput, match=why):
            verdict(tmp_path / "served", tmp_path)


def test_scores_of_other_dimensions_are_named(model, tmp_path):
    log = ServedLog(str(tmp_path / "served"), folder_digest(model))
    log.write([describe((CLIP, "a"), Score({}, {"VQ": 1.0}, 1.0, "", ""), None)])
    with pytest.raises(
        BadInput, match=r"row 1, key 'normalised': has scores of VQ, Overall, the model's reference of VQ, MQ, TA, Overall"
    ):
        verdict(tmp_path / "served", model)


def test_the_command_says_it_by_its_exit_code(model, tmp_path):
    def told(*more):
        command = ["monitor", "--model", str(model), "--served", str(tmp_path / "served"), *map(str, more)]
        return CliRunner().invoke(app, command)

    version, rng = folder_digest(model), np.random.default_rng(3)
    (tmp_path / "served").mkdir()
    result = told()
    assert told("--require-drift").exit_code == 5
    assert result.exit_code == 6 and result.stdout.splitlines()[-1] == "too few to tell: 0 clips, at least 200 are wanted"
    serve(tmp_path / "served", version, rng.normal(size=(250, 3)))
    result = told("--out", tmp_path / "record.json", "--plot", tmp_path / "plot.png")
    assert result.exit_code == 0 and result.stdout.splitlines()[-1] == "no drift"
    assert told("--require-drift").exit_code == 5
    assert json.loads((tmp_path / "record.json").read_text())["verdict"] == "no drift"
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    serve(tmp_path / "served", version, rng.normal(size=(500, 3)) + 1)
    result = told("--out", tmp_path / "record.json")
    assert told("--require-drift").exit_code == 0
    assert result.exit_code == 5 and result.stdout.splitlines()[-1].startswith("drift of VQ, MQ, TA")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["drifted"][:3] == DIMENSIONS
    again = told("--json")
    assert again.exit_code == 5 and json.loads(again.stdout)["scores"] == record["scores"]
    assert isinstance(told("--plot", "plot.pdf").exception, BadInput)


def test_where_all_is_refused_there_is_an_alarm(tmp_path, monkeypatch):
    """Also for what acts on drift; a few refusals are none, and too few requests tell nothing."""
    normal = np.random.default_rng(0).normal(size=(400, 3))
    model = model_with(tmp_path / "model", normal)
    for scored, refused, expected, code in ((0, 500, "refused", 7), (200, 100, "no drift", 0), (10, 20, "too few", 6)):
        served = tmp_path / f"{scored}-{refused}"
        serve(served, folder_digest(model), normal[:scored], refused)
        record = verdict(served, model)
        assert record["verdict"] == expected
        assert monitoring.as_lines(record)[-1].startswith(
            {"refused": "most requests are refused: 500 of 500"}.get(expected, "")
        )
        for more in ([], ["--require-drift"]):
            told = CliRunner().invoke(app, ["monitor", "--model", str(model), "--served", str(served), *more])
            assert told.exit_code == (code if not more or expected == "refused" else 5), told.output


def test_lines_of_a_clock_that_was_ahead_are_no_drift(tmp_path, monkeypatch):
    normal = np.random.default_rng(0).normal(size=(400, 3))
    model = model_with(tmp_path / "model", normal)
    serve(tmp_path / "served", folder_digest(model), normal)
    now = datetime.now(UTC)
    monkeypatch.setattr(served_log, "datetime", Ahead)
    serve(tmp_path / "served", folder_digest(model), normal + 3)
    record = monitor(tmp_path / "served", model, PARAMS, now + timedelta(seconds=60))[0]
    assert (record["verdict"], record["clips"], record["from_the_future"]) == ("no drift", 400, 400)
    assert "not looked at: 400 from the future" in "\n".join(monitoring.as_lines(record))


class Ahead(datetime):
    """A clock that is a year ahead."""

    @classmethod
    def now(cls, zone):
        return datetime.now(zone) + timedelta(days=365)
