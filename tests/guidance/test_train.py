"""Training pairs of the latent reward model: whole prompts at once give what each pair by itself would."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.alignment.flow import noised
from components.alignment.shards import Shards, save_shards
from components.guidance.train import Comparisons, accuracy

SHAPE = (2, 3, 4, 4)


class Linear(nn.Module):
    """Two scores that hang on latents, noise level and text, so that a wrong one of these shows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, int(np.prod(SHAPE)), generator=torch.Generator().manual_seed(0)))

    def forward(self, x, t, text):
        return x.flatten(1) @ self.weight.T + t[:, None] * text.sum((1, 2))[:, None]


def shards(rows: torch.Tensor) -> Shards:
    with TemporaryDirectory() as folder:  # what is mapped stays
        save_shards([rows[:2], rows[2:]], Path(folder) / "rows", {})
        return Shards(Path(folder) / "rows", {})


@st.composite
def comparisons(draw) -> Comparisons:
    """Prompts with 2 to 5 clips each and some of their pairs, in any order."""
    first, second, prompts, clips, text_rows = [], [], [], 0, []
    for prompt in range(draw(st.integers(1, 5))):
        count = draw(st.integers(2, 5))
        couples = [(i, j) for i in range(count) for j in range(i)]
        for i, j in draw(st.lists(st.sampled_from(couples), min_size=1, max_size=6, unique=True)):
            first.append(clips + i)
            second.append(clips + j)
            prompts.append(f"p{prompt}")
        text_rows += [prompt] * count
        clips += count
    order = np.array(draw(st.permutations(range(len(first)))))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    return Comparisons(
        shards(torch.randn((clips, *SHAPE), generator=noise)),
        shards(torch.arange(0.0, len(set(text_rows))).view(-1, 1, 1).repeat(1, 3, 2)),
        np.array(text_rows),
        np.array(first)[order],
        np.array(second)[order],
        np.sign(np.random.default_rng(0).normal(size=(len(first), 3))).astype(np.float32),
        np.array(prompts)[order],
    )


@settings(deadline=None)
@given(comparisons())
@torch.no_grad()
def test_whole_prompts_give_what_each_pair_gives(data):
    groups = data.by_prompt(np.arange(len(data.first)))
    assert sorted(np.concatenate(groups)) == list(range(len(data.first)))
    assert all(len(set(data.prompts[pairs])) == 1 for pairs in groups)
    net, draw = Linear(), torch.Generator().manual_seed(1)
    t, x1 = torch.rand(len(groups), generator=draw), torch.randn((len(groups), *SHAPE), generator=draw)
    a, b = data.scores(net, groups, t, x1)
    at = 0
    for level, noise, pairs in zip(t, x1, groups, strict=True):
        for pair in pairs:
            for side, found in ((data.first, a), (data.second, b)):
                xt, _ = noised(data.latents[side[[pair]]], noise[None], level[None])
                torch.testing.assert_close(found[at], net(xt, level[None], data.text[data.text_row[side[[pair]]]])[0])
            at += 1


def test_accuracy_is_over_decided_pairs_and_unknown_without_any():
    assert accuracy(np.array([1, -1, 0, 1]), np.array([0.3, 0.2, 0.1, 0.4])) == pytest.approx(2 / 3)
    assert np.isnan(accuracy(np.array([0, 0]), np.array([1.0, -1.0])))
