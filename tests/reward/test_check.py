"""`reelign check-reward`: a sound model passes, a planted fault of each kind is found."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.reward.check import OTHER_PROMPTS, as_lines, check_reward, load_items
from components.reward.score import RewardModel
from components.video.encode import write_video
from tests.reward.tiny import saved_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("models") / "video_reward")


@pytest.fixture(scope="module")
def items(tmp_path_factory, folder):
    root = tmp_path_factory.mktemp("videos")
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 32, 32 + 16 * seed, 3), dtype=np.uint8)
        write_video(root / f"{seed}.mp4", pixels, fps=8)
    return load_items(sorted(root.glob("*.mp4")), "a red circle", RewardModel.load(folder))


def broken(findings):
    return [finding.name for finding in findings if finding.holds is False]


def test_a_sound_model_holds_and_reacts(folder, items):
    findings = check_reward(RewardModel.load(folder), items)
    assert broken(findings) == []
    reactions = {finding.name: finding.by_dimension for finding in findings if finding.holds is None}
    assert len(reactions) == 7
    assert any(abs(value) > 1e-3 for value in reactions["blurred"].values())
    # A plan by count of frames does not read the frame rate.
    assert reactions["frame rate said to be half"] == {"VQ": 0, "MQ": 0, "TA": 0}
    assert "a file that is no video gets no score" in as_lines(findings)[5]


class Companions(RewardModel):
    """A model whose scores depend on what else is in the batch."""

    def score(self, items, progress=iter):
        shift = 0.01 * len(items)
        return [
            result if hasattr(result, "reason") else type(result)(**{**vars(result), "raw": moved(result.raw, shift)})
            for result in super().score(items, progress)
        ]


class Listener(RewardModel):
    """A model whose VQ knows the prompt."""

    def score(self, items, progress=iter):
        return [
            result
            if hasattr(result, "reason") or prompt not in OTHER_PROMPTS
            else type(result)(**{**vars(result), "raw": result.raw | {"VQ": result.raw["VQ"] + 1}})
            for (_, prompt), result in zip(items, super().score(items, progress), strict=True)
        ]


def moved(raw, shift):
    return {name: value + shift for name, value in raw.items()}


def test_scores_that_depend_on_company_are_found(folder, items):
    assert broken(check_reward(Companions.load(folder), items)) == ["in one batch, padded", "in another order"] + [
        f"other prompt {n}: VQ, MQ unmoved" for n in (1, 2)
    ]


def test_a_prompt_that_leaks_is_found(folder, items):
    names = broken(check_reward(Listener.load(folder), items))
    assert names == ["other prompt 1: VQ, MQ unmoved", "other prompt 2: VQ, MQ unmoved"]


def test_what_stands_behind_the_prompt_may_know_it(tmp_path):
    template = "{text_prompt}\n<|VQ_reward|><|MQ_reward|><|TA_reward|>"
    assert RewardModel.load(saved_model(tmp_path / "m", template)).model.prompts.before_prompt() == []


def test_a_file_that_is_no_video_is_named(tmp_path, folder):
    (tmp_path / "x.mp4").write_text("no")
    with pytest.raises(BadInput, match=r"x\.mp4"):
        load_items([tmp_path / "x.mp4"], "a", RewardModel.load(folder))


def test_the_clip_that_has_no_score_is_named(tmp_path, folder):
    """Each is scored alone: its place there is no name."""
    rng = np.random.default_rng(0)
    files = [tmp_path / "good.mp4", tmp_path / "short.mp4"]
    for file, frames in zip(files, (8, 2), strict=True):
        write_video(file, rng.integers(0, 255, (frames, 32, 32, 3), dtype=np.uint8), 8)
    model = RewardModel.load(folder)
    items = load_items(files, "a circle", model)
    with pytest.raises(BadInput, match=r"short\.mp4: 2 frames; the plan has 4"):
        check_reward(model, items, files)
    with pytest.raises(BadInput, match="video 2: 2 frames"):
        check_reward(model, items)


def test_findings_for_a_script(tmp_path, folder):
    write_video(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8), 8)
    words = ["check-reward", str(folder), str(tmp_path / "a.mp4"), "--prompt", "a circle", "--json"]
    found = CliRunner().invoke(app, words)
    told = json.loads(found.stdout)
    assert found.exit_code == 0 and told["model_version"] == RewardModel.load(folder).version
    assert {finding["holds"] for finding in told["findings"]} == {True, None}
