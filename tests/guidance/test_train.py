"""Training pairs of the latent reward model: whole prompts at once give what each pair by itself would."""

import weakref
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from components.alignment.flow import noised
from components.contracts import SOURCE_VIDEOS
from components.errors import BadInput
from components.generator.conditioning import Conditioning
from components.generator.families.wan import Wan
from components.generator.families.wan_small import save_generator
from components.generator.folder import load_generator
from components.generator.shards import ConditioningShards, Shards, save_conditioning, save_shards
from components.guidance import train
from components.guidance.train import ENCODE_BATCH, Comparisons, accuracy, human_labelled
from components.reward.pairs import read_pairs
from components.video.decode import read_chosen, read_frames
from components.video.encode import write_video
from tests.generator.small import tiny_generator

SHAPE = (2, 3, 4, 4)


class Linear(nn.Module):
    """Two scores that hang on latents, noise level and text, so that a wrong one of these shows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, int(np.prod(SHAPE)), generator=torch.Generator().manual_seed(0)))

    def forward(self, x, t, text):
        return x.flatten(1) @ self.weight.T + t[:, None] * text.tensors["text"].sum((1, 2))[:, None]


def shards(rows: torch.Tensor) -> Shards:
    with TemporaryDirectory() as folder:  # what is mapped stays
        save_shards([rows[:2], rows[2:]], Path(folder) / "rows", {})
        return Shards(Path(folder) / "rows", {})


def texts(rows: torch.Tensor) -> ConditioningShards:
    with TemporaryDirectory() as folder:
        save_conditioning([Conditioning({"text": rows[:2]}), Conditioning({"text": rows[2:]})], Path(folder) / "text", {})
        return ConditioningShards(Path(folder) / "text", {})


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
        texts(torch.arange(0.0, len(set(text_rows))).view(-1, 1, 1).repeat(1, 3, 2)),
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


class Alive:
    """Counts the clips that read_chosen gave and that are still in memory."""

    def __init__(self, read):
        self.read, self.now, self.most = read, 0, 0

    def __call__(self, path, choose, limits):
        clip = self.read(path, choose, limits=limits)
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(clip, self.gone)
        return clip

    def gone(self):
        self.now -= 1


@pytest.fixture
def people(tmp_path, monkeypatch, bare_stage):
    """Eighty labelled clips of forty prompts, and a generator of their size."""
    save_generator(tiny_generator(), tmp_path / "models/base_generator")
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), []
    for pair in range(40):
        row = {"pair_id": str(pair), "prompt": f"a red circle moving {pair}", "model_A": None, "model_B": None}
        row["rows"] = [pair + 2]
        for side in "AB":
            row[f"path_{side}"] = f"{pair}{side}.mp4"
            clip = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
            write_video(Path("data/source/videos") / row[f"path_{side}"], clip, 8)
        rows.append(row | dict.fromkeys(("VQ", "TA", "Overall"), 1 - 2 * (pair % 2)))
    Path("data/pairs").mkdir(parents=True)
    pd.DataFrame(rows).to_parquet("data/pairs/train.parquet")
    sampling = bare_stage.params.sampling.model_copy(update={"height": 16, "width": 16, "frames": 5})
    bare_stage.params = bare_stage.params.model_copy(update={"sampling": sampling})
    return bare_stage


@torch.no_grad()
def test_labelled_clips_are_encoded_a_batch_at_a_time_and_stay_on_disk(people, monkeypatch):
    alive = Alive(read_chosen)
    monkeypatch.setattr(train, "read_chosen", alive)
    data = human_labelled(people, ["VQ", "TA"], "digest")
    assert alive.most == ENCODE_BATCH < len(data.latents) == 80, "what is decoded does not grow with the clips"
    assert isinstance(data.latents, Shards) and isinstance(data.text, ConditioningShards), "read as they are needed"
    assert len(data.text) == 40, "once a prompt"
    generator, pairs = load_generator("models/base_generator"), read_pairs("train", ["VQ"])
    sides = list(dict.fromkeys(pairs.sides()))
    for start in range(0, 80, ENCODE_BATCH):
        part = sides[start : start + ENCODE_BATCH]
        latents = generator.encode_video(np.stack([read_frames(SOURCE_VIDEOS / path) for path, _ in part]))
        rows = range(start, start + len(part))
        assert torch.equal(data.latents[rows], latents)
        told = generator.encode_text([prompt for _, prompt in part])
        torch.testing.assert_close(data.text[data.text_row[rows]].tensors["text"], told.tensors["text"])
    assert torch.equal(data.latents[data.second[[3]]], data.latents[[sides.index(("3B.mp4", "a red circle moving 3"))]])


def test_labelled_clips_are_told_the_numbers_of_sampling_as_candidates_are(people, monkeypatch):
    monkeypatch.setattr(Wan, "reads", ("fps",))
    data = human_labelled(people, ["VQ"], "digest")
    assert data.text[[0, 1]].tensors["fps"].tolist() == [people.params.sampling.fps] * 2


def test_what_a_killed_run_encoded_serves_and_a_wrong_size_leaves_nothing(people, monkeypatch):
    write_video(Path("data/source/videos/39B.mp4"), np.zeros((9, 16, 16, 3), np.uint8), 8)
    with pytest.raises(BadInput, match=r"39B\.mp4 is \(9, 16, 16, 3\)"):
        human_labelled(people, ["VQ"], "digest")
    assert not (people.state() / "people").exists()
    write_video(Path("data/source/videos/39B.mp4"), np.zeros((5, 16, 16, 3), np.uint8), 8)
    first = human_labelled(people, ["VQ"], "digest")
    monkeypatch.setattr(train, "encode_ahead", None)  # is not needed again
    again = human_labelled(people, ["VQ"], "digest")
    assert torch.equal(first.latents[range(80)], again.latents[range(80)])


def test_two_sources_of_pairs_keep_their_own_prompts():
    def source(prompts: int) -> Comparisons:
        latents = shards(torch.randn(2 * prompts, *SHAPE))
        text = texts(torch.full((prompts + 1, 3, 2), float(prompts)) + torch.arange(prompts + 1.0).view(-1, 1, 1) / 100)
        labels, names = np.ones((prompts, 3), np.float32), np.array([f"{prompts}-{p}" for p in range(prompts)])
        places = np.arange(prompts)
        return Comparisons(latents, text, np.arange(2 * prompts) // 2, 2 * places, 2 * places + 1, labels, names)

    one, other = source(3), source(4)
    both = one + other
    assert len(both.latents) == 14 and len(both.text) == 9 and both.latents.shape == SHAPE
    for at, (own, place) in enumerate([(one, p) for p in range(3)] + [(other, p) for p in range(4)]):
        for side, mine in ((both.first, own.first), (both.second, own.second)):
            assert torch.equal(both.latents[side[[at]]], own.latents[mine[[place]]])
            told, alone = both.text[both.text_row[side[[at]]]], own.text[own.text_row[mine[[place]]]]
            assert torch.equal(told.tensors["text"], alone.tensors["text"])


def test_accuracy_is_over_decided_pairs_and_unknown_without_any():
    assert accuracy(np.array([1, -1, 0, 1]), np.array([0.3, 0.2, 0.1, 0.4])) == pytest.approx(2 / 3)
    assert np.isnan(accuracy(np.array([0, 0]), np.array([1.0, -1.0])))
