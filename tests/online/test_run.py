"""The stage as a whole on a tiny generator: what it writes, PRFL's training, a first round on candidates."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from components.alignment.candidates import draw_candidates
from components.alignment.relabel import choose_pairs
from components.alignment.weights import copy_of
from components.contracts import (
    ALIGNMENT_PAIRS,
    BASE_GENERATOR,
    CANDIDATE_SCORES,
    CANDIDATES,
    LATENT_REWARD,
    VIDEO_REWARD,
)
from components.errors import BadInput
from components.evaluation.sample import sample
from components.files.tables import write_table
from components.generator.folder import load_transformer
from components.generator.spec import SamplerSpec
from components.guidance.latent_reward import LatentReward, first_blocks, save_latent_reward
from components.online import prfl, run
from components.online.run import online
from components.pipeline.stage import folder_digest
from components.preferences.prompts import sampled_prompts
from components.schemas import alignment_pairs_schema, candidate_scores_schema
from tests.online.conftest import with_reward
from tests.online.test_loop import Killed, policy, same
from tests.online.test_page import metrics


@pytest.fixture
def relabelled(checkout):
    """The checkout with candidates, their scores and pairs, and models by which nothing is scored here."""
    stage = checkout("made")
    prompts = sampled_prompts(stage, "train", 4)
    draw_candidates(stage, SamplerSpec(BASE_GENERATOR), prompts, 2, lambda name: stage.output(CANDIDATES / name))
    scores, dimensions = with_reward(stage, CANDIDATES)
    pairs = choose_pairs(scores, stage.params.relabel)
    write_table(CANDIDATE_SCORES, scores, candidate_scores_schema(dimensions))
    write_table(ALIGNMENT_PAIRS, pairs, alignment_pairs_schema(dimensions))
    generator = load_transformer(BASE_GENERATOR)
    torch.manual_seed(0)
    reward = LatentReward(generator.family, first_blocks(generator, 1), ["VQ", "MQ", "TA"])
    torch.nn.init.normal_(reward.head)
    save_latent_reward(reward, Path(LATENT_REWARD), {"generator": folder_digest(BASE_GENERATOR)})
    Path(VIDEO_REWARD).mkdir(parents=True)
    (Path(VIDEO_REWARD) / "model").write_text("x")
    return checkout


def with_prfl(checkout, name: str, steps: int = 2, **change):
    stage = checkout(name, "prfl")
    own = stage.params.online.prfl
    training = own.training.model_copy(update={"steps": steps, "learning_rate": 3e-3})
    change = {"training": training, "first": 1, "last": 2, "target": 50.0} | change
    return checkout(name, "prfl", prfl=own.model_copy(update=change), rounds={"prfl": 1})


def trained(stage):
    transformer = policy(stage)
    rows = prfl.train_prfl(stage, transformer)
    return copy_of(transformer), rows


def test_prfl_raises_the_latent_reward_and_alternates(relabelled):
    _, rows = trained(with_prfl(relabelled, "state", steps=24))
    feedback, matching = rows[0::2], rows[1::2]
    assert all("latent_reward" in row and "error/0" not in row for row in feedback)
    assert not any("latent_reward" in row for row in matching) and any("error/1" in row for row in matching)
    first, last = (sum(row["latent_reward"] for row in part) for part in (feedback[:3], feedback[-3:]))
    assert last > first


def test_prfl_learns_nothing_of_clips_beyond_the_target(relabelled):
    stage = with_prfl(relabelled, "state", steps=1, target=-50.0)
    weights, (row,) = trained(stage)
    assert row["reached"] == 1 and row["loss"] == 0
    assert same(weights, copy_of(policy(stage)))


def test_prfl_killed_ends_with_the_same_weights(relabelled, monkeypatch):
    whole = trained(with_prfl(relabelled, "whole", steps=6))
    calls = []

    def mortal(*args, real=prfl.prfl_loss):
        calls.append(1)
        if len(calls) == 3:
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(prfl, "prfl_loss", mortal)
        with pytest.raises(Killed):
            trained(with_prfl(relabelled, "killed", steps=6))
    again = trained(with_prfl(relabelled, "killed", steps=6))
    assert same(again[0], whole[0]) and again[1] == whole[1]


def test_prfl_refuses_steps_beyond_the_last_and_another_solver(relabelled):
    with pytest.raises(BadInput, match="sampling has steps 0 to 3"):
        trained(with_prfl(relabelled, "state", last=4))
    stage = with_prfl(relabelled, "state")
    sampling = stage.params.sampling.model_copy(update={"solver": "unipc"})
    stage.params = stage.params.model_copy(update={"sampling": sampling})
    with pytest.raises(BadInput, match="needs euler"):
        trained(stage)


@pytest.mark.parametrize("method", ["nft", "prfl"])
def test_the_stage_writes_all_that_it_names(relabelled, monkeypatch, method):
    stage = relabelled("state", method, rounds={"nft": 2}) if method == "nft" else with_prfl(relabelled, "state")
    sample("base", stage)
    found = metrics(method, [])
    found["methods"][f"online-{method}"]["hacking"]["alarm"] = False
    compared = []
    clips = pd.DataFrame({"prompt_id": ["p"], "method": ["base"], "video": ["a.mp4"], "gold_Overall": [0.5]})
    monkeypatch.setattr(run, "compare", lambda *given: compared.append(given[1:]) or (clips, found))
    online(method, stage)
    ((folders, settings),) = compared
    assert pd.read_parquet(f"data/online/{method}/sample_scores.parquet").equals(clips.drop(columns="video"))
    assert settings.methods == [f"online-{method}"]
    ours, base = (pd.read_parquet(folder / "samples.parquet") for folder in reversed(folders.values()))
    assert ours.prompt_id.tolist() == base.prompt_id.tolist() and len(ours) > 0
    record = json.loads(Path(f"models/online/{method}/alignment.json").read_text())
    assert record["method"] == f"online-{method}" and record["base"] == folder_digest(BASE_GENERATOR)
    assert stage.registered[0].endswith(f"aligned-online-{method}")
    rounds = json.loads(Path(f"metrics/online-{method}.json").read_text())["rounds"]
    curve = pd.read_csv(f"plots/online-{method}.csv")
    if method == "nft":
        assert [row["clips"] for row in rounds] == [6, 6] and record["examples"] == 12
        assert curve["round"].tolist() == [1, 2]
        assert len(pd.read_parquet("data/online/nft/scores.parquet")) == 12
    else:
        assert rounds == [] and "step" in curve
    assert "Win rates against base" in Path(f"report/online-{method}.html").read_text()
    assert (Path(f"models/online/{method}") / "training.csv").exists()


@pytest.mark.parametrize("method", ["nft", "dpo"])
def test_a_first_round_on_candidates_draws_nothing(relabelled, monkeypatch, method):
    from components.online import loop

    monkeypatch.setattr(loop, "draw_candidates", None)
    stage = relabelled("state", method, first_on_candidates=True, rounds={method: 1})
    rows, figures = run.align(method, stage)
    scores = pd.read_parquet(f"data/online/{method}/scores.parquet")
    assert figures[0]["clips"] == 8 and scores.candidate_id.is_unique and (scores["round"] == 1).all()
    assert len(rows) == 2 and rows[-1]["loss"] > 0
