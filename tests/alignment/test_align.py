"""LoRA, pairs and the reference's errors: cached equals live, zero LoRA equals the base."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import WanPipeline

from components.alignment.data import Candidates, Pairs
from components.alignment.flow_dpo import flow_dpo_loss
from components.alignment.reference import make_grid, pair_errors, reference_errors
from components.alignment.relabel import choose_pairs
from components.alignment.stage import adapters_off, add_lora, regression, save_lora, sort_header
from components.errors import BadInput
from components.generator.wan import load_generator, load_transformer, save_generator, velocity
from components.params import GridParams, LoraParams, RelabelParams
from tests.generator.small import tiny_generator

LORA = LoraParams(rank=2, alpha=4, targets=["to_q", "to_k", "to_v", "to_out.0"])


@pytest.fixture
def transformer():
    model = tiny_generator().transformer
    add_lora(model, LORA, seed=1)
    return model


@pytest.fixture
def pairs():
    draw = torch.Generator().manual_seed(4)
    latents = torch.randn(2, 6, 4, 3, 4, 4, generator=draw)
    return Pairs(latents[0], latents[1], torch.randn(6, 16, 16, generator=draw), pd.DataFrame())


def disturb(transformer):
    for name, p in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(name)))


def test_at_zero_lora_the_loss_is_log_two(transformer, pairs, bare_stage, tmp_path):
    params = bare_stage.params.align.dpo
    grid = make_grid(len(pairs), GridParams(draws=3, timesteps="uniform"), seed=2)
    table = reference_errors(bare_stage, transformer, pairs, grid, "sum", {"base": "x"}, tmp_path)
    indices, draws = [0, 4, 5], [0, 1, 2]
    chosen, rejected = pair_errors(transformer, pairs, indices, draws, grid, "sum")
    loss, _ = flow_dpo_loss(
        chosen, rejected, table[0, indices, draws], table[1, indices, draws], grid.t[indices, draws], params
    )
    # Batches of unlike size round unlike, and beta = 500 makes that visible.
    assert float(loss) == pytest.approx(math.log(2), abs=0.02)


def test_cached_and_live_reference_agree(transformer, pairs, bare_stage, tmp_path):
    grid = make_grid(len(pairs), GridParams(draws=3, timesteps="logit_normal"), seed=2)
    disturb(transformer)
    with adapters_off(transformer):
        table = reference_errors(bare_stage, transformer, pairs, grid, "mean", {"base": "x"}, tmp_path)
        for draw in range(3):
            live = torch.stack(pair_errors(transformer, pairs, [1, 3], [draw, draw], grid, "mean"))
            torch.testing.assert_close(table[:, [1, 3], draw], live, rtol=1e-5, atol=1e-6)
    again = reference_errors(bare_stage, None, pairs, grid, "mean", {"base": "x"}, tmp_path)
    assert torch.equal(again, table), "the second time the table serves, no model is needed"
    other = GridParams(draws=3, timesteps="uniform")
    with pytest.raises(TypeError):  # another grid is another table: it asks the model, which is None here
        reference_errors(bare_stage, None, pairs, make_grid(len(pairs), other, 2), "mean", {"base": "x"}, tmp_path)


def test_a_dropped_prompt_trains_the_unconditional_half(transformer):
    draw = torch.Generator().manual_seed(1)
    latents, text, empty = (torch.randn(shape, generator=draw) for shape in ((5, 4, 3, 4, 4), (5, 16, 16), (16, 16)))
    told = Candidates(latents, text, empty, pd.DataFrame())
    untold = Candidates(latents, empty.expand_as(text), empty, pd.DataFrame())

    def loss(candidates, prompt_dropout):
        loss_fn = regression(candidates, np.arange(5), prompt_dropout, lambda errors, indices: errors.mean())
        return loss_fn(transformer, [0, 3, 4], torch.Generator().manual_seed(2))[0]

    assert torch.equal(loss(told, 1.0), loss(untold, 0.0))
    assert not torch.isclose(loss(told, 0.0), loss(untold, 0.0))


def test_both_clips_of_a_pair_see_the_same_noise_and_time(transformer, pairs):
    grid = make_grid(len(pairs), GridParams(draws=2, timesteps="uniform"), seed=0)
    twins = Pairs(pairs.chosen, pairs.chosen, pairs.text, pairs.table)
    chosen, rejected = pair_errors(transformer, twins, [0, 1, 2], [0, 1, 0], grid, "sum")
    torch.testing.assert_close(chosen, rejected)


def test_the_grid_covers_all_noise_levels():
    t = make_grid(50, GridParams(draws=4, timesteps="uniform"), seed=0).t
    assert ((t * 4).long() == torch.arange(4)).all()


def test_lora_round_trip_through_diffusers(transformer, tmp_path):
    save_generator(tiny_generator(), tmp_path / "base")
    model = load_transformer(tmp_path / "base")
    add_lora(model, LORA, seed=1)
    x, t, text = torch.randn(2, 4, 3, 4, 4), torch.tensor([0.2, 0.9]), torch.randn(2, 16, 16)
    with torch.no_grad():
        base = velocity(model, x, t, text)
        assert torch.equal(base, velocity(load_transformer(tmp_path / "base"), x, t, text)), "B is zero at first"
        disturb(model)
        tuned = velocity(model, x, t, text)
        assert (tuned - base).abs().max() > 1e-3
        with adapters_off(model):
            assert torch.equal(velocity(model, x, t, text), base)
        save_lora(model, tmp_path / "lora")
        pipeline = WanPipeline.from_pretrained(tmp_path / "base", torch_dtype=torch.float32)
        pipeline.load_lora_weights(tmp_path / "lora")
        torch.testing.assert_close(velocity(pipeline.transformer, x, t, text), tuned)
        merged = load_generator(tmp_path / "base", tmp_path / "lora").transformer
        torch.testing.assert_close(velocity(merged, x, t, text), tuned, rtol=1e-4, atol=1e-5)


def test_a_target_that_matches_nothing_is_named():
    with pytest.raises(BadInput, match=r"'q_proj' matches no layer.*|align\.lora\.targets"):
        add_lora(tiny_generator().transformer, LoraParams(rank=2, alpha=4, targets=["q_proj"]), seed=1)


def scores(*rewards: float) -> list[dict]:
    shared = {"prompt_id": "p0", "prompt": "x", "reward_model": "m", "frame_plan": "f"}
    return [{"candidate_id": f"c{i}", **shared, "VQ": r, "reward": r} for i, r in enumerate(rewards)]


def test_pairs_are_best_against_worst_or_all():
    params = RelabelParams(weights={"VQ": 1.0}, choose="best_worst", min_margin=0.0, duels=2)
    (pair,) = choose_pairs(scores(0.5, 2.0, -1.0), params)
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("c1", "c2", 3.0)
    assert (pair["chosen_VQ"], pair["rejected_reward"]) == (2.0, -1.0)
    everything = params.model_copy(update={"choose": "all_pairs", "min_margin": 1.0})
    assert {(p["chosen"], p["rejected"]) for p in choose_pairs(scores(0.5, 2.0, -1.0), everything)} == {
        ("c1", "c0"), ("c1", "c2"), ("c0", "c2"),
    }  # fmt: skip
    assert choose_pairs(scores(1.0, 1.0), params) == [], "equal rewards are no preference"


def test_rewards_weigh_dimensions():
    from components.alignment.relabel import reward

    params = RelabelParams(weights={"VQ": 3.0, "TA": 1.0}, choose="best_worst", min_margin=0.0, duels=2)
    assert reward({"VQ": 1.0, "TA": -1.0, "MQ": np.nan}, params) == 0.5


def test_equal_tensors_make_equal_files_whatever_the_order_of_their_metadata(tmp_path):
    import safetensors
    from safetensors.torch import load_file, save_file

    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(5)}
    files = []
    for number in range(20):  # the writer's order is another each time
        save_file(tensors, tmp_path / f"{number}.safetensors", {key: "x" for key in "qwertz"})
        sort_header(tmp_path / f"{number}.safetensors")
        files.append((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(set(files)) == 1
    torch.testing.assert_close(load_file(tmp_path / "0.safetensors"), tensors)
    with safetensors.safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == {key: "x" for key in "qwertz"}
