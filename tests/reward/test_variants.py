"""The paper's ablation: every loss, read-out and list of dimensions learns a handful of pairs by heart."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.config.params import LoraParams
from components.contracts import NO_LABEL
from components.reward.inputs import Clip
from components.reward.pairs import Pairs
from components.reward.prompt import reward_token
from components.reward.score import raw_scores
from components.reward.train import pair_inputs, pair_loss_fn, parameter_groups
from tests.reward.test_train import PARAMS
from tests.reward.tiny import DIMENSIONS, tiny_model

COUNT, STEPS = 6, 40
SINGLE = '"{text_prompt}":<|reward|>'
PLAIN = '"{text_prompt}":'


def handful(dimensions: list[str]) -> tuple[Pairs, dict[str, Clip]]:
    """Pairs of noise with labels at random, ratings to match, and one entry without either."""
    rng = np.random.default_rng(0)
    clips = {str(n): Clip(rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8), 8.0) for n in range(2 * COUNT)}
    labels = rng.choice([-1, 1], (COUNT, len(dimensions)))
    ratings = np.stack([3.0 + labels, 3.0 - labels]).astype(np.float32)
    labels[0, 0], ratings[:, 0, 0] = NO_LABEL, 0
    paths_a, paths_b = list(clips)[:COUNT], list(clips)[COUNT:]
    names = [f"pair {n}" for n in range(COUNT)]
    return Pairs(Path("pairs"), names, names, paths_a, paths_b, names, names, labels, ratings, [2] * len(names)), clips


def learn_by_heart(dimensions=DIMENSIONS, loss="btt", **model_options) -> None:
    model = tiny_model(dimensions=dimensions, **model_options)
    params = PARAMS.model_copy(
        update={
            "dimensions": dimensions,
            "loss": loss,
            "theta": 2.0,
            "lora": LoraParams(rank=4, alpha=8, targets=["q_proj", "v_proj", "up_proj", "down_proj"]),
        }
    )
    pairs, clips = handful(dimensions)
    torch.manual_seed(0)
    model.prepare_training(params.lora)
    loss_fn = pair_loss_fn(model, pair_inputs(model, pairs, clips), pairs, params)
    optimizer = torch.optim.AdamW(parameter_groups(model, params))
    for _ in range(STEPS):
        value, _ = loss_fn(model, list(range(COUNT)), torch.Generator())
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    a, b = raw_scores(model.eval(), pair_inputs(model, pairs, clips), 10**6).reshape(2, COUNT, -1)
    assert a.shape == pairs.labels.shape
    decided = pairs.labels != NO_LABEL
    assert (np.sign(a - b) == pairs.labels)[decided].all()
    if loss == "regression":  # not the order only
        np.testing.assert_allclose(np.stack([a, b])[:, decided], pairs.ratings[:, decided] - 3, atol=0.5)


@pytest.mark.parametrize("loss", ["btt", "bt", "constant_margin", "regression", "margin", "scaled"])
def test_losses(loss):
    learn_by_heart(loss=loss)


@pytest.mark.parametrize(
    ("readout", "template"),
    [("single_special", SINGLE), ("last", PLAIN), ("mean", PLAIN), ("last", "<|VQ_reward|>" + PLAIN)],
)
def test_readouts(readout, template):
    learn_by_heart(readout=readout, template=template)


def test_a_shared_head():
    learn_by_heart(head="shared")


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_dimensions(count):
    dimensions = [f"trait{n}" for n in range(count)]
    learn_by_heart(dimensions, template="{text_prompt} " + " ".join(map(reward_token, dimensions)))
