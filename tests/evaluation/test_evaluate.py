from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from components.contracts import DIMENSIONS
from components.errors import BadInput
from components.evaluation.compare import alignment_metrics, measure_clips, with_reward
from components.evaluation.evaluate import flat_metrics, win_rate_table
from components.evaluation.judging import judged
from components.evaluation.paired import read_samples
from components.judges.judges import load_judges
from components.judges.protocol import Context
from components.pipeline.stage import folder_digest
from components.statistics.significance import holm
from tests.conftest import REPOSITORY
from tests.evaluation.fixtures import GOLD_PANEL, METHODS, NO_PANEL, PARAMS, make_samples
from tests.limits import LIMIT_PARAMS


@pytest.fixture
def samples(tmp_path):
    """A folder data/samples of 4 prompts x 2 seeds, the scored clips and their looks."""
    clips, looks = make_samples(tmp_path, prompts=4, seeds=2)
    return tmp_path / "data/samples", clips, looks


class Quiet:
    """What measure_clips needs of a stage."""

    params = SimpleNamespace(limits=LIMIT_PARAMS)

    def progress(self, items, what, total=None):
        return iter(items)


def test_clips_get_verdicts_and_signals_and_a_broken_file_is_named(tmp_path):
    from components.simulation.world import all_scenes, prompt_of
    from components.video.encode import write_video
    from tests.evaluation.fixtures import clip

    rows = []
    for number in range(2):
        video = tmp_path / f"{number}.mp4"
        write_video(video, clip(np.random.default_rng(number), "red", 3), fps=8)
        prompt = prompt_of(all_scenes()[number])
        rows.append({"method": "base", "prompt_id": number, "prompt": prompt, "seed": 0, "video": str(video)})
    measured, looks = measure_clips(Quiet(), pd.DataFrame(rows))
    unjudged = measured.copy()
    measured, panel = judged(measured, load_judges(["gold"], Context()), [])
    assert panel.as_json()["judges"]["gold"] | {"agrees_with_people": True} == panel.as_json()["judges"]["gold"]
    assert {"gold_Overall", "prompt_right", "speed_error", "frames", "dynamic_degree", "brightness", "saturation"} <= set(
        measured
    )
    assert measured["frames"].tolist() == [9, 9]
    assert measured["dynamic_degree"].to_numpy() == pytest.approx([1.5, 1.5], abs=0.2)
    assert measured["clip_digest"].tolist() == [folder_digest(row["video"]) for row in rows]
    assert len(looks) == 2
    assert not [name for name in unjudged if name.startswith("gold")]

    foreign = [dict(rows[0], prompt="a dog plays the piano")]
    with pytest.raises(BadInput, match=r"gold \(evaluate\.judges\) has no verdict"):
        judged(pd.DataFrame(foreign), load_judges(["gold"], Context()), [])
    tight = Quiet()
    tight.params = SimpleNamespace(limits=LIMIT_PARAMS.model_copy(update={"frames": 8}))
    with pytest.raises(BadInput, match=r"key '0, seed 0': .*0\.mp4: more than 8 frames, the most that are read"):
        measure_clips(tight, pd.DataFrame(rows))
    (tmp_path / "1.mp4").write_bytes(b"not a video")
    with pytest.raises(BadInput, match=r"key '1, seed 0': .*1.mp4: unreadable"):
        measure_clips(Quiet(), pd.DataFrame(rows))


def test_a_failed_or_non_finite_score_stops_the_stage(samples):
    _, clips, _ = samples
    scores = pd.DataFrame({dimension: np.zeros(len(clips)) for dimension in DIMENSIONS})
    scores = scores.assign(status="ok", reason=None)
    assert (with_reward(clips, scores)["reward_TA"] == 0).all()
    with pytest.raises(BadInput, match=r"001_0.mp4, key 'TA': VideoReward's score is nan"):
        with_reward(clips, scores.assign(TA=np.where(np.arange(len(clips)) == 2, np.nan, 0)))
    with pytest.raises(BadInput, match=r"000_0.mp4: VideoReward has no score: too long"):
        with_reward(clips, scores.assign(status="failed", reason="too long"))


def test_metrics_hold_the_schema_and_repeat(samples):
    _, clips, looks = samples
    metrics = alignment_metrics(clips, looks, PARAMS, GOLD_PANEL, seed=3)
    assert metrics == alignment_metrics(clips, looks, PARAMS, GOLD_PANEL, seed=3)
    assert (metrics["prompts"], metrics["seeds_per_prompt"]) == (4, 2)
    assert set(metrics["methods"]) == set(METHODS)
    for entry in metrics["methods"].values():
        for judge in ("gold", "reward"):
            assert set(entry["win_rate"][judge]) == set(DIMENSIONS)
            cell = entry["win_rate"][judge]["TA"]
            assert set(cell) == {"value", "ci95", "n", "prompts", "p", "p_holm"}
            assert (cell["ci95"], cell["prompts"]) == (None, 4)  # too few for an interval
            gain = entry["mean"][judge]["VQ"] - metrics["base"]["mean"][judge]["VQ"]
            assert entry["mean_difference"][judge]["VQ"]["value"] == pytest.approx(gain)
        assert set(entry["hacking"]) == {"alarm", "reasons", "signals", "base", "limits", "other_judges"}
        assert entry["hacking"]["limits"]["brightness"] == {"down": 0.1, "up": 0.1}
        assert {"dynamic_degree", "speed_error", "diversity", "frames", "reward_of_length"} <= set(
            entry["hacking"]["signals"]
        )
        assert 0 <= entry["prompt_right"] <= 1
    own, base = clips[clips["method"] == "dpo"], clips[clips["method"] == "base"]
    wins = (own["gold_MQ"].to_numpy() > base["gold_MQ"].to_numpy()).mean()
    assert metrics["methods"]["dpo"]["win_rate"]["gold"]["MQ"]["value"] == wins
    assert set(metrics["between"]) == {"rwr/sft", "dpo/sft", "nrg/sft", "dpo/rwr", "nrg/rwr", "nrg/dpo"}
    sft = clips[clips["method"] == "sft"]
    beats = (own["gold_Overall"].to_numpy() > sft["gold_Overall"].to_numpy()).mean()
    assert metrics["between"]["dpo/sft"]["gold"]["Overall"]["value"] == beats
    assert len(win_rate_table(metrics)) == 4 * 2 * 4
    assert flat_metrics(metrics)["win_rate/dpo/gold/MQ"] == wins


def test_the_gold_judge_names_a_prompt_of_another_world(samples):
    """As of a prompt set: VideoReward alone can judge its clips."""
    folder, *_ = samples
    table = read_samples({name: folder / name for name in ("base", *METHODS)}).table
    table = table.assign(prompt="A cat and a dog bake a cake.")
    says = r"base/samples\.parquet, key '000, seed 0': gold \(evaluate\.judges\) .* world: 'A cat and a dog bake a cake\.'"
    with pytest.raises(BadInput, match=says):
        judged(table, load_judges(["gold"], Context()), METHODS)
    clips, _ = measure_clips(Quiet(), table)
    assert len(clips) == len(table)


def test_a_family_is_all_figures_of_one_judge(samples):
    _, clips, looks = samples
    metrics = alignment_metrics(clips, looks, PARAMS, GOLD_PANEL, seed=3)
    for judge in ("gold", "reward"):
        family = [cell for entry in metrics["methods"].values() for cell in entry["win_rate"][judge].values()]
        assert len(family) == 4 * 4
        assert [cell["p_holm"] for cell in family] == holm([cell["p"] for cell in family])
        between = [entry[judge]["Overall"] for entry in metrics["between"].values()]
        assert [cell["p_holm"] for cell in between] == holm([cell["p"] for cell in between])


def test_without_a_judge_there_are_no_gold_figures(samples):
    _, clips, looks = samples
    metrics = alignment_metrics(clips, looks, PARAMS, NO_PANEL, seed=3)
    assert list(metrics["base"]) == ["mean"]
    assert list(metrics["methods"]["dpo"]["win_rate"]) == ["reward"]
    assert metrics["methods"]["dpo"]["hacking"]["signals"]["held_out"] is None


@pytest.mark.parametrize("missing", [0, 1])
def test_the_stage_makes_metrics_plots_and_report(tmp_path, monkeypatch, missing):
    """The whole body with real clips and a real gold judge; VideoReward is stood in for. With a sample missing, that is said
    where `evaluate.strict` is off."""
    import json

    from components.config.params import EvaluateParams, load_params
    from components.evaluation import evaluate as module
    from components.reward import score
    from components.simulation.world import all_scenes, prompt_of
    from components.video.encode import write_video
    from tests.evaluation.fixtures import clip

    named = load_params(REPOSITORY / "params.yaml").sample.model_copy(update={"prompt_set": "sets/vbench.csv"})
    monkeypatch.chdir(tmp_path)
    for method in ("base", "dpo"):
        rows = []
        for number in range(3):
            path = f"videos/{number}_0.mp4"
            write_video(f"data/samples/{method}/{path}", clip(np.random.default_rng(number), "red", 3), fps=8)
            prompt = prompt_of(all_scenes()[300 * number])
            rows.append({"prompt_id": f"p{number}", "prompt": prompt, "seed": 0, "path": path})
        rows = rows[missing:] if method == "dpo" else rows
        pd.DataFrame(rows).to_parquet(f"data/samples/{method}/samples.parquet")
    (tmp_path / "models/video_reward").mkdir(parents=True)

    def score_table(stage, model, rows):
        gain = [1.0 if "/dpo/" in path else 0.0 for path in rows["path"]]
        return pd.DataFrame({d: gain for d in DIMENSIONS}).assign(status="ok", reason=None)

    monkeypatch.setattr(score, "score_table", score_table)
    monkeypatch.setattr(score.RewardModel, "load", lambda folder, limits: None)

    said = []

    class Stage(Quiet):
        class params:
            profile = "test"
            limits = LIMIT_PARAMS
            sample = named
            sampling = load_params(REPOSITORY / "params.yaml").sampling
            evaluate: EvaluateParams = PARAMS.model_copy(update={"methods": ["dpo"], "strict": not missing})

        def output(self, path):
            made = tmp_path / path
            made.parent.mkdir(parents=True, exist_ok=True)
            return made

        def seed(self, *key):
            return 1

        def log(self, metrics):
            assert metrics["win_rate/dpo/reward/Overall"] == 1

        def say(self, text):
            said.append(text)

    module.evaluate(Stage())
    assert said[-1] == f"dpo: wins 50.0% (n={3 - missing} prompts: too few for an interval) against base by gold"
    metrics = json.loads((tmp_path / "metrics/alignment.json").read_text())
    assert metrics["methods"]["dpo"]["win_rate"]["gold"]["TA"]["value"] == 0.5  # the clips are the same
    assert len(pd.read_csv(tmp_path / "plots/win_rates.csv")) == 8
    assert len(pd.read_parquet(tmp_path / "data/sample_scores.parquet")) == 6 - 2 * missing
    page = (tmp_path / "report/index.html").read_text()
    assert f"Flow-DPO wins 50% of clips against the base generator by the gold judge (n={3 - missing} prompts: too" in page
    assert metrics["prompt_set"] == "vbench.csv, prompt" and "unseen prompts of vbench.csv, prompt" in page
    assert metrics["samples"]["missing"] == {"base": 0, "dpo": missing} and metrics["between"] == {}
    assert (f"Flow-DPO lacks {missing}. All figures are of the 2" in page) == ("dpo lacks 1" in said[0]) == bool(missing)
