"""`reelign judge check`: what is planted in a judge is on its card, and none of it where nothing is planted."""

import csv
import json

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from components.cli.main import app
from components.errors import BadInput
from components.judges import check, vlm_client
from components.judges.card import read_card
from components.judges.judges import load_judge
from components.judges.protocol import Context, JudgeFacts
from components.video.encode import write_video
from tests.conftest import REPOSITORY
from tests.judges.vlm_server import Mode, VlmServer

CLIPS, PROMPTS = 6, 12  # a prompt


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clips of plain grey; people prefer the brighter one, and near ones are the same. A tenth of their labels is turned."""
    folder, rng = tmp_path_factory.mktemp("check"), np.random.default_rng(0)
    rows = []
    for prompt in range(PROMPTS):
        light = rng.choice(np.arange(20, 236, 2), CLIPS, replace=False)
        length = rng.integers(4, 12, CLIPS)
        for clip in range(CLIPS):
            frames = np.full((length[clip], 32, 32, 3), light[clip], np.uint8)
            write_video(folder / f"{prompt}_{clip}.mp4", frames, 8)
        for a in range(CLIPS):
            for b in range(a + 1, CLIPS):
                lead = int(light[a]) - int(light[b])
                label = 0 if abs(lead) < 15 else np.sign(lead) * (1 if rng.random() > 0.1 else -1)
                rows.append(
                    [f"{prompt}_{a}.mp4", f"{prompt}_{b}.mp4", f"prompt {prompt}", {1: "A", -1: "B", 0: "same"}[label]]
                )
    with open(folder / "pairs.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([["path_A", "path_B", "prompt", "label"], *rows])
    return folder


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vlm_client, "FIRST_WAIT", 0.01)
    return tmp_path


def checked(server, data, place, *options, **settings):
    """The card that the command writes, and its lines."""
    (place / "judges").mkdir(exist_ok=True)
    (place / "judges/mine.yaml").write_text(
        yaml.safe_dump({"url": server.url, "model": "small", "concurrency": 8, **settings})
    )
    arguments = ["judge", "check", "vlm:mine", f"{data}/pairs.csv", f"--videos={data}", "--rounds=200", *options]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return read_card(place / "judges/vlm-mine.card.json"), result.output


def test_an_honest_judge_agrees_and_has_no_habits(data, place):
    with VlmServer(Mode()) as server:
        card, said = checked(server, data, place, "--repeat-pairs=40")
        assert (card.count, card.prompts, card.failures, card.protocol) == (180, 12, 0, "pairwise")
        overall = card.dimensions["Overall"].accuracy_without_ties
        assert 0.85 < overall.value < 0.95 and card.agrees(0.8) and overall.ci95[0] < overall.value < overall.ci95[1]
        with_ties = card.dimensions["Overall"].accuracy_with_ties
        assert with_ties.n == 180 and with_ties.value < overall.value  # it calls nothing the same
        assert card.position_bias.value == 0 and card.position_bias.ci95 == [0, 0]
        assert card.self_consistency.value == 1 and card.self_consistency.n == 40
        low, high = card.length_bias.ci95
        assert low < 0 < high and "position bias: 0.000 [0.000, 0.000];" in said
        judge = load_judge("vlm:mine", Context())
        assert card.identity == judge.facts.identity and card.judge == "vlm:mine"
        # Again: nothing is asked, and the card is the same.
        before, first = sum(server.seen.values()), (place / "judges/vlm-mine.card.json").read_bytes()
        assert before == 400
        checked(server, data, place, "--repeat-pairs=40")
        assert sum(server.seen.values()) == before and (place / "judges/vlm-mine.card.json").read_bytes() == first


@pytest.mark.parametrize("share, least", [(1.0, 0.499), (0.6, 0.2)])
def test_a_position_biased_judge_is_found(data, place, share, least):
    with VlmServer(Mode(first=share)) as server:
        card, said = checked(server, data, place, "--repeat-pairs=0")
        assert card.position_bias.value >= least and card.position_bias.ci95[0] > 0.1 and "surely not 0" in said
        assert card.self_consistency is None
        if share == 1:
            assert card.dimensions["Overall"].accuracy_without_ties.value == 0 and not card.agrees()
            assert "not surely better than chance" in said


def test_a_judge_that_wavers_and_fails_is_found(data, place):
    with VlmServer(Mode(noise=0.5, unreadable=0.05)) as server:
        card, said = checked(server, data, place, "--repeat-pairs=180")
        assert 0.55 < card.self_consistency.value < 0.85
        assert 5 < card.failures < 40 and card.dimensions["Overall"].accuracy_with_ties.n == 180 - card.failures
        assert said.count("no verdict: ") == 5 and f"and {card.failures - 5} more" in said
        reported = json.loads(
            CliRunner().invoke(app, ["judge", "check", "vlm:mine", f"{data}/pairs.csv", f"--videos={data}", "--json"]).stdout
        )
        assert reported["spent"]["asked"] == 0 and reported["spent"]["cost"] is None
        assert len(reported["without_verdict"]) == card.failures and reported["card"]["identity"] == card.identity


def test_a_pull_of_length_and_of_light_is_found(data, place):
    longer = lambda _, clips: "first" if len(clips[0]) > len(clips[1]) else "second"  # noqa: E731
    with VlmServer(Mode(verdict=longer)) as server:
        card, said = checked(server, data, place, frames=20)
        assert card.length_bias.ci95[0] > 0.3 and card.brightness_bias.ci95[1] < 0 and "pull of longer clips" in said
        assert not card.agrees()


def test_a_pointwise_judge_has_no_position(data, place):
    with VlmServer(Mode()) as server:
        card, _ = checked(server, data, place, protocol="pointwise")
        assert card.protocol == "pointwise" and card.position_bias is None and card.unit == "log-odds of Yes"
        assert card.self_consistency.value == 1 and card.agrees(0.8)
        assert sum(server.seen.values()) > len(server.seen) > 72 - 10  # the repeats are asked anew


def test_dimensions_without_labels_are_refused_before_all_are_judged(data, place):
    with VlmServer(Mode()) as server:
        (place / "judges").mkdir()
        (place / "judges/mine.yaml").write_text(yaml.safe_dump({"url": server.url, "model": "small"}))
        arguments = ["judge", "check", "vlm:mine", f"{data}/pairs.csv", f"--videos={data}", "--answer=TA"]
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, BadInput)
        assert "has labels for TA; vlm:mine judges Overall" in str(result.exception) and len(server.seen) == 2
        assert not (place / "judges/vlm-mine.card.json").exists()


class Fixed:
    """A judge of clips whose scores are their numbers, in its own unit."""

    def __init__(self, width):
        self.facts = JudgeFacts("fixed", "fixed", "fixed", "0", ("Overall",), "its own", width)

    def score(self, clips):
        import pandas as pd

        scores = [float(clip.video.split("/")[-1].split("_")[1].removesuffix(".mp4")) for clip in clips]
        return pd.DataFrame({"Overall": scores, "prompt_right": True, "reason": None})  # as gold has it


def test_ties_of_a_judge_of_clips_are_those_within_its_width(data):
    from components.reward.layouts import read_benchmark
    from components.video.limits import LIMITS

    labels = read_benchmark(data / "pairs.csv", ["Overall"], None, data)
    for width, same in ((0.0, 0), (1.0, 5 * PROMPTS), (9.0, 180)):
        card, leads = check.check_judge(Fixed(width), labels, data, LIMITS, check.Settings(10, 20))
        tied = int((check.signs(leads.of["Overall"], width) == 0).sum())
        assert tied == same and card.self_consistency.value == 1
        expected = (labels.labels["preference"] == check.signs(leads.of["Overall"], width)).mean()
        assert card.dimensions["Overall"].accuracy_with_ties.value == pytest.approx(expected)


def test_the_gold_judge_is_checked_as_any_other(tmp_path):
    """In its own world, against labels that are its own scores: it agrees wholly."""
    from components.reward.layouts import read_benchmark
    from components.simulation.judge import judge as gold
    from components.simulation.render import concrete, render
    from components.simulation.world import all_scenes, prompt_of
    from components.video.limits import LIMITS

    scenes, rng = all_scenes()[:6], np.random.default_rng(0)
    rows = [["path_A", "path_B", "prompt", "label"]]
    for number, scene in enumerate(scenes):
        prompt, clips = prompt_of(scene), []
        for side, shown in enumerate((scene, scenes[(number + 1) % len(scenes)])):
            frames = render(concrete(shown, rng, 32), 32)
            write_video(tmp_path / f"{number}_{side}.mp4", frames, 8)
            clips.append(gold(frames, prompt).Overall)
        rows.append([f"{number}_0.mp4", f"{number}_1.mp4", prompt, "A" if clips[0] > clips[1] else "B"])
    with open(tmp_path / "pairs.csv", "w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    labels = read_benchmark(tmp_path / "pairs.csv", ["Overall"], None, tmp_path)
    card, _ = check.check_judge(load_judge("gold", Context()), labels, tmp_path, LIMITS, check.Settings(6, 20))
    assert card.failures == 0 and card.dimensions["Overall"].accuracy_without_ties.value >= 5 / 6  # of re-coded clips
    assert card.protocol == "pointwise" and card.judge == "gold"


def test_a_position_biased_judge_is_refused_by_the_gate_and_an_honest_one_is_not(data, place):
    from components.config.params import load_params
    from components.registry.judge_cards import floor_reasons

    floor = load_params(REPOSITORY / "params.yaml").promotion.judge
    for share in (0.0, 0.5, 1.0):
        with VlmServer(Mode(first=share)) as server:
            card, _ = checked(server, data, place, "--repeat-pairs=20")
        reasons = [reason.split(":")[0] for reason in floor_reasons(card, floor)]
        assert ("judge_position_bias" in reasons) == (share > 0) and (reasons == []) == (share == 0)
