"""Stage tradeoff: settings by name, base's own noise, rates against plain sampling."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from components.config.params import BestOfNParams, load_params
from components.contracts import DIMENSIONS
from components.evaluation.tradeoff import PLAIN, chosen_jobs, compared, settings
from components.generator.spec import SamplerSpec
from components.pipeline.stage import Stage
from tests.evaluation.fixtures import GOLD_PANEL


@pytest.fixture
def params():
    return load_params("infra/profiles/shapes.yaml")


def test_settings_are_named_by_their_weights(params):
    found = settings(params)
    assert list(found) == [PLAIN, "0:0:1", "0.1:0.1:0.8", "0.1:0.1:0.6", "0.5:0.5:0", "best of 2", "guidance 3.5"]
    drawers, samplings = ({name: pair[place] for name, pair in found.items()} for place in (0, 1))
    assert drawers[PLAIN] == SamplerSpec("models/base_generator") == drawers["guidance 3.5"]
    assert samplings.pop("guidance 3.5").guidance_scale == 3.5
    assert all(sampling == params.sampling for sampling in samplings.values())
    assert drawers["0.5:0.5:0"].guidance.weights == {"VQ": 0.5, "MQ": 0.5, "TA": 0.0}
    assert drawers["0.5:0.5:0"].reward == "models/latent_reward" and drawers["best of 2"].reward == "models/video_reward"
    early = BestOfNParams(n=4, judge="latent_reward", rank_step=2, weights={"VQ": 1.0})
    params = params.model_copy(update={"tradeoff": params.tradeoff.model_copy(update={"best_of": [early]})})
    assert settings(params)["best of 4 after step 2"][0].reward == "models/latent_reward"


def test_the_noise_is_that_of_the_samples(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/samples/base"
    folder.mkdir(parents=True)
    rows = [
        (f"p{prompt}", f"prompt {prompt}", seed, f"videos/p{prompt}_{seed}.mp4") for prompt in range(3) for seed in (0, 1)
    ]
    table = pd.DataFrame(rows, columns=["prompt_id", "prompt", "seed", "path"])
    table.to_parquet(folder / "samples.parquet")
    stage = SimpleNamespace(params=params)
    stage.shared_seed = partial(Stage.shared_seed, stage)
    jobs = chosen_jobs(stage, 4)
    assert [job.clip for _, job in jobs] == ["p0_0", "p1_0", "p2_0", "p0_1"]
    assert jobs[1][1].seed == stage.shared_seed("sample", "p1", 0) != jobs[0][1].seed


def test_rates_are_against_plain_sampling_on_the_same_clips(params):
    rng = np.random.default_rng(0)
    plain = pd.DataFrame({f"{by}_{d}": rng.normal(size=40) for by in ("gold", "reward") for d in DIMENSIONS})
    plain["prompt_id"] = np.repeat(np.arange(20), 2)
    better = plain.assign(gold_TA=plain.gold_TA + np.where(np.arange(40) < 30, 0.1, -0.1))
    rates = compared(better, plain, GOLD_PANEL, params, seed=1)["win_rate"]
    assert rates["gold"]["TA"]["value"] == 0.75 and rates["gold"]["TA"]["n"] == 40
    assert rates["gold"]["VQ"]["value"] == rates["reward"]["TA"]["value"] == 0.5
